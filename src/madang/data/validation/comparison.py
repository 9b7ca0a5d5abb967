"""What `madang data diff` compares: contracts by name, file or commit, and versions of datasets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.data.validation._types import family, plain
from madang.data.validation.contract import Column, DataContract
from madang.data.validation.contract_file import contract_path, parse_contract, read_contract
from madang.data.validation.diff import Difference, diff_contracts, diff_schemas
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.stack import Stack

_VERSION = re.compile(r"(.+)@(\d{1,18})")
_COMMIT = re.compile(r"([^:]+):(.+)")
_FIGURES = ("nulls", "min", "mean", "max", "distinct")


def diff(stack: Stack, old: str, new: str | None = None) -> Difference:
    """Compares two contracts, or two versions of a dataset.

    Args:
        stack: The project.
        old: `NAME@VERSION` is a version of a dataset. A contract is a file's path, the dataset's
            name, or `COMMIT:NAME` as it was at a commit of git.
        new: The same; by default the contract as it is now is compared with that of `HEAD`.

    Raises:
        InvalidInputError: One is a contract and the other a version, or a contract can't be used.
        NotFoundError: There is no such contract, commit, dataset or version.
    """
    if new is None:
        old, new = f"HEAD:{old}", old
    versions = [_VERSION.fullmatch(text) for text in (old, new)]
    if all(versions):
        (one, first), (two, second) = (match.groups() for match in versions if match)
        return diff_versions(stack, (one, int(first)), (two, int(second)))
    if any(versions):
        raise InvalidInputError(
            f"{old} and {new} can't be compared; give two contracts, or two versions NAME@VERSION"
        )
    return diff_contracts(_contract(stack, old), _contract(stack, new))


def _contract(stack: Stack, text: str) -> DataContract:
    if Path(text).is_file():
        return read_contract(text)
    commit = _COMMIT.fullmatch(text)
    if commit is None:
        return read_contract(contract_path(stack.root, text))
    name = commit[2]
    if "/" not in name and not name.endswith(".yaml"):
        name = str(contract_path(stack.root, name).relative_to(stack.root))
    content = stack.code_versions.read(commit[1], name)
    try:
        return parse_contract(content.decode("utf-8"), text)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{text}: not UTF-8 at byte {error.start}") from error


def diff_versions(stack: Stack, old: tuple[str, int], new: tuple[str, int]) -> Difference:
    """What changed between two versions: columns, figures of all rows, and the distributions.

    The distances `psi`, `js` and `ks` are between random samples of at most 20,000 rows, in bins of
    the old one. Two samples of one distribution differ a little as well.

    Args:
        stack: The project.
        old: A dataset's name and version.
        new: A dataset's name and version.

    Raises:
        NotFoundError: There is no such dataset or version.
    """
    schemas, figures = [], []
    for name, version in (old, new):
        schema = stack.storage.read(name, version=version).schema
        columns = tuple(Column(field.name, plain(field.type)) for field in schema)
        accumulator = stack.validation.accumulate(DataContract(name, columns))
        accumulator.update(stack.storage.read(name, version=version))
        schemas.append(schema)
        figures.append(accumulator.report().statistics)
        accumulator.close()
    statistics = {}
    for name, before in figures[0].items():
        after = figures[1].get(name)
        if after is not None:
            statistics[name] = _compared(before, after) | _distances(stack, old, new, name, schemas)
    names = [f"dataset:{name}@{version}" for name, version in (old, new)]
    return Difference(names[0], names[1], diff_schemas(*schemas), statistics)


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    found = {"rows": [before["rows"], after["rows"]]}
    return found | {
        key: [before[key], after[key]] for key in _FIGURES if key in before and key in after
    }


def distances(old: pa.Table, new: pa.Table) -> dict[str, dict[str, float]]:
    """How far the distribution of each column that both tables have lies from the old one.

    `psi`, `js` and, where values have an order, `ks`, of all rows in bins of the old ones; nothing
    for columns of nested types, of types that can't be compared, or without values.
    """
    # With them comes Polars.
    import polars as pl

    from madang.data.validation._expressions import is_plain
    from madang.data.validation.bins import drift

    found = {}
    for name in old.column_names:
        if name not in new.column_names:
            continue
        types = [plain(table.schema.field(name).type) for table in (old, new)]
        if is_plain(types[0]) and family(types[0]) == family(types[1]):
            sides = [pl.Series(name, table[name].cast(types[0])) for table in (old, new)]
            found[name] = drift(*sides)
    return found


def _distances(
    stack: Stack, old: tuple[str, int], new: tuple[str, int], name: str, schemas: list[pa.Schema]
) -> dict[str, float]:
    # With them comes Polars.
    from madang.data.validation._expressions import is_plain
    from madang.data.validation._references import References
    from madang.data.validation.bins import drift

    types = [plain(schema.field(name).type) for schema in schemas]
    if not is_plain(types[0]) or family(types[0]) != family(types[1]):
        return {}
    column = Column(name, types[0])
    samples = [
        References(lambda: stack.storage).sample(dataset, version, column)
        for dataset, version in (old, new)
    ]
    return drift(samples[0], samples[1])
