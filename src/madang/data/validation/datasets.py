"""Validation of whole datasets: streamed, noted in the ledger, the report kept to be shown again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from madang.data.validation.contract import DataContract, Report
from madang.data.validation.contract_file import contract_path, read_contract
from madang.data.validation.report import from_dict, outcome, to_dict
from madang.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from madang.stack import Stack

KIND = "dataset.validate"
"""The kind of the ledger's line; its subject is `dataset:NAME@VERSION`."""


@dataclass(frozen=True)
class ValidatedVersion:
    """A validation that was made: of which version, its line in the ledger, and the report."""

    dataset: str
    version: int
    line: int
    report: Report


def validate_dataset(
    stack: Stack,
    dataset: str,
    *,
    version: int | None = None,
    contract: DataContract | None = None,
) -> ValidatedVersion:
    """Checks a version of a dataset against its contract, in memory that does not grow with it.

    The report becomes the object `validation/DATASET/VERSION/SHA256.json`, and then a line of the
    ledger says so: kind `dataset.validate`, subject `dataset:NAME@VERSION`, the contract and the
    versions compared with among its inputs, and in its data the `outcome` (`valid`, `warned`,
    `quarantined` or `blocked`). The dataset is not changed.

    Args:
        stack: The project.
        dataset: The dataset's name.
        version: Its version; default: the newest.
        contract: Default: the project's `contracts/DATASET.yaml`.

    Raises:
        NotFoundError: There is no such dataset, version or contract.
        SchemaMismatchError: The dataset's columns don't fit the contract.
    """
    contract = contract or read_contract(contract_path(stack.root, dataset))
    if version is None:
        version = stack.storage.versions(dataset, limit=1)[-1].version
    accumulator = stack.validation.accumulate(contract, version=version)
    try:
        accumulator.update(stack.storage.read(dataset, version=version))
        report = accumulator.report()
    finally:
        accumulator.close()
    return ValidatedVersion(dataset, version, _keep(stack, dataset, version, report), report)


def _keep(stack: Stack, dataset: str, version: int, report: Report) -> int:
    """Writes the report and then its line, so that no line is without its report."""
    document = json.dumps(to_dict(report), ensure_ascii=False).encode()
    key = f"validation/{dataset}/{version}/{hashlib.sha256(document).hexdigest()}.json"
    stack.storage.put(key, document)
    subject = f"dataset:{dataset}@{version}"
    return stack.context.ledger.record(
        KIND,
        subject,
        inputs=[subject, report.contract, *report.references],
        outputs=[f"object:{key}"],
        data={
            "outcome": outcome(report),
            "rows": report.rows,
            "valid": report.valid,
            "quarantined": report.quarantined,
            "failed_checks": sum(not result.ok for result in report.results),
        },
    )


def last_validation(stack: Stack, dataset: str, *, version: int | None = None) -> ValidatedVersion:
    """The last validation of a version of a dataset.

    Args:
        stack: The project.
        dataset: The dataset's name.
        version: Its version; default: the newest.

    Raises:
        NotFoundError: There is no such dataset, or no validation of that version.
        IntegrityError: The report is not the one that was written.
    """
    if version is None:
        version = stack.storage.versions(dataset, limit=1)[-1].version
    subject = f"dataset:{dataset}@{version}"
    lines = stack.context.ledger.lines(kind=KIND, subject=subject, limit=1)
    if not lines:
        raise NotFoundError(
            f"no validation of version {version} of the dataset {dataset!r} is on record; run: "
            f"madang data validate {dataset} --version {version}"
        )
    key = lines[0].outputs[0].removeprefix("object:")
    document = stack.storage.get(key)
    if hashlib.sha256(document).hexdigest() not in key:
        raise IntegrityError(f"the object {key} is not the report that was written there")
    return ValidatedVersion(dataset, version, lines[0].seq, from_dict(json.loads(document)))
