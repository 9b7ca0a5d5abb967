"""Schemas of other tools as data contracts: pandera's, and suites of Great Expectations.

What can be honoured exactly is taken over; everything else is listed with the reason.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from madang.data.validation import _great_expectations, _pandera
from madang.data.validation._outside import Draft
from madang.data.validation._rules import SEVERITIES
from madang.data.validation.contract import DataContract, Severity
from madang.data.validation.contract_file import load_yaml
from madang.errors import InvalidInputError, MissingDependencyError, NotFoundError

_MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Imported:
    """A contract made from another tool's schema, and what it could not take over exactly.

    Attributes:
        contract: Ready to be written next to the code.
        source: The tool: `pandera` or `Great Expectations`.
        left_out: Each with the reason; empty when everything means the same here.
    """

    contract: DataContract
    source: str
    left_out: tuple[str, ...]


def import_contract(
    source: str | Path,
    dataset: str,
    *,
    sample: pa.Schema | None = None,
    severity: Severity = "block",
) -> Imported:
    """Makes a contract from a schema of pandera or a suite of Great Expectations.

    Args:
        source: A file (YAML or JSON, as the tools write them), or `module:attribute` of a pandera
            schema or model.
        dataset: The dataset's name.
        sample: The columns of the data; needed for suites, which name no types.
        severity: What a failure does; both tools refuse the whole table, as `block` does.

    Raises:
        NotFoundError: There is no such file, module or attribute.
        InvalidInputError: It is neither, or a sample is needed.
        MissingDependencyError: `module:attribute` needs pandera.
    """
    if severity not in SEVERITIES:
        raise InvalidInputError(f"severity must be one of {', '.join(SEVERITIES)}: {severity!r}")
    path = Path(source)
    text = _text(path) if path.is_file() or ":" not in str(source) else _schema_text(str(source))
    document = _document(text, str(source))
    draft = Draft(dataset, severity)
    if "expectations" in document:
        if sample is None:
            raise InvalidInputError(
                f"{source}: a suite of Great Expectations names no types; give the data's columns: "
                "a sample (--file) or the name of a dataset that exists"
            )
        _great_expectations.read(document, draft, sample)
        tool, description = "Great Expectations", ""
    elif "columns" in document:
        _pandera.read(document, draft, sample)
        tool, description = "pandera", str(document.get("description") or "")
    else:
        raise InvalidInputError(
            f"{source}: neither a pandera schema (columns) nor a suite of Great Expectations "
            f"(expectations); its keys are: {', '.join(map(str, document))[:200]}"
        )
    if not draft.columns:
        reasons = "\n  ".join(draft.left_out)
        raise InvalidInputError(f"{source}: no column can be taken over:\n  {reasons}")
    return Imported(draft.contract(description), tool, tuple(draft.left_out))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInputError(f"{path} has more than {_MAX_BYTES} bytes; that is no schema")
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 at byte {error.start}") from error


def _document(text: str, source: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else load_yaml(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{source}: neither JSON nor YAML: {str(error)[:300]}") from error
    if not isinstance(found, Mapping):
        raise InvalidInputError(f"{source}: must be a mapping, found {type(found).__name__}")
    return found


def _schema_text(source: str) -> str:
    """What pandera writes of a schema in a module."""
    module_name, _, attribute = source.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pandera":
            raise MissingDependencyError(f"the schema {source}", "pandera", "") from error
        raise NotFoundError(f"there is no module {module_name} ({error})") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NotFoundError(f"{module_name} has no {attribute}")
        found = getattr(found, part)
    if hasattr(found, "to_schema"):
        found = found.to_schema()
    if not hasattr(found, "to_yaml"):
        raise InvalidInputError(f"{source} is a {type(found).__name__}, no schema of pandera")
    return str(found.to_yaml())
