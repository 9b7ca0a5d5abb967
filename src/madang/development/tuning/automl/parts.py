"""Which rows are learnt from and which are set aside, and whether they are fit for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from madang.development.tuning.automl import columns, plan
from madang.development.tuning.automl.contract import Task
from madang.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from madang.data.validation import DataContract
    from madang.stack import Stack

_FEWEST_ROWS = 50
_SEEN_SHARE = 0.05


def rows_of(stack: Stack, data: Any) -> tuple[pl.DataFrame, tuple[str, ...], DataContract | None]:
    """The table, where it comes from, and the project's contract of it."""
    from madang.data.validation.contract_file import contract_path, read_contract

    if not isinstance(data, str):
        return _sound(pl.DataFrame(pa.table(data))), (), None
    dataset, _, version = data.partition("@")
    if version and not version.isdecimal():
        raise InvalidInputError(f"write NAME or NAME@VERSION, with a number, found {data!r}")
    number = int(version) if version else stack.storage.versions(dataset, limit=1)[0].version
    table = pl.DataFrame(stack.storage.read(dataset, version=number).read_all())
    try:
        contract = read_contract(contract_path(stack.root, dataset))
    except NotFoundError:
        contract = None
    return _sound(table), (f"dataset:{dataset}@{number}",), contract


def _sound(table: pl.DataFrame) -> pl.DataFrame:
    if len(table) < _FEWEST_ROWS:
        raise InvalidInputError(
            f"AutoML needs at least {_FEWEST_ROWS} rows to judge by, found {len(table)}"
        )
    return table


def column_of(table: pl.DataFrame, name: str) -> pl.Series:
    """A column of the table.

    Raises:
        InvalidInputError: There is none of that name.
    """
    if name not in table.columns:
        raise InvalidInputError(
            f"the table has no column {name!r}; it has: {', '.join(table.columns)}"
        )
    return table[name]


def set_aside(
    table: pl.DataFrame,
    label: str,
    task: Task,
    time_column: str | None,
    *,
    fraction: float,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series | None]:
    """The rows to learn from, those to test by, and the moments of the former."""
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise InvalidInputError(f"test_fraction is between 0 and 1, found {fraction}")
    table = table.with_columns(columns.checked_label(table[label], task).alias(label))
    if time_column is None:
        stratify = table[label].to_numpy() if task == "classification" else None
        try:
            learn, test = train_test_split(
                np.arange(len(table)), test_size=fraction, random_state=seed, stratify=stratify
            )
        except ValueError as error:  # fewer rows on one side than there are classes
            raise InvalidInputError(
                f"test_fraction {fraction} doesn't fit the rows: {error}"
            ) from error
        return table[np.sort(learn)], table[np.sort(test)], None
    moments = column_of(table, time_column)
    if moments.null_count():
        raise InvalidInputError(f"{time_column} is missing in {moments.null_count():,} rows")
    ordered = table.sort(time_column, maintain_order=True)
    count = round(len(table) * (1 - fraction))
    learn = ordered.head(count)
    return learn, ordered.tail(len(table) - count), learn[time_column]


def check(learn: pl.Series, test: pl.Series, task: Task) -> None:
    """Refuses parts of the rows that nothing can be learnt from, or measured on.

    Raises:
        InvalidInputError: One has too few rows, or classes that the other one lacks.
    """
    if len(learn) < _FEWEST_ROWS // 2 or len(test) == 0:
        raise InvalidInputError(
            f"{len(learn)} rows to learn from and {len(test)} to test by are too few; choose "
            "another test_fraction, or give more rows"
        )
    if task == "classification":
        known = set(learn.unique().to_list())
        new = sorted(set(test.unique().to_list()) - known, key=str)
        if len(known) < 2 or new:
            found = ", ".join(map(repr, sorted(known, key=str)[:20]))
            raise InvalidInputError(
                f"the rows to learn from have the labels {found} only; those to test by also "
                f"{', '.join(map(repr, new[:5])) or 'no others'}: leave out what is too rare or too "
                "new, or choose another test_fraction"
            )


def seen_before(rows: plan.Data, test: pl.DataFrame) -> list[str]:
    """Whether the test has rows that were learnt from, in which case it flatters the model."""
    used = rows.table.columns
    same = test.select(used).join(rows.table.unique(), on=used, how="semi", nulls_equal=True).height
    if same <= _SEEN_SHARE * len(test):
        return []
    share = (
        f"{same:,} of {len(test):,} test rows have the same inputs as rows that were learnt from"
    )
    return [f"{share}, so the test may flatter the models: leave out doubled rows"]
