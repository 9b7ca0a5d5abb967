"""What every trial needs, written once into a folder that trials in other processes read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from madang.development.tuning.automl.contract import ColumnUse, Task

Array = np.ndarray[Any, Any]

FOLDS = 5
ALL_FOLDS_ROWS = 20_000
"""Up to so many rows every candidate is fitted once a fold; above, one part is held out."""
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Plan:
    """Attributes:
    folds: How many parts are held out, one after the other.
    classes: The labels in the order of probabilities; empty for a regression.
    """

    label: str
    task: Task
    metric: str
    columns: tuple[ColumnUse, ...]
    seed: int
    folds: int
    classes: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Data:
    """The rows to learn from.

    Attributes:
        fold: Of each row: the part in which it is held out; -1 for a row that never is.
    """

    plan: Plan
    table: pl.DataFrame
    labels: Array
    fold: Array

    @property
    def held_out(self) -> Array:
        """Which rows are predicted by a model that was not fitted on them."""
        return np.asarray(self.fold >= 0)

    @property
    def features(self) -> pl.DataFrame:
        """The columns that are used, as models take them."""
        return prepared(self.table, self.plan.columns)


def prepared(table: pl.DataFrame, columns: tuple[ColumnUse, ...]) -> pl.DataFrame:
    """Numbers as floats with NaN for null, categories as text with an empty one for null."""
    return table.select(
        pl.col(use.name).cast(pl.Float64).fill_null(float("nan"))
        if use.role == "number"
        else pl.col(use.name).cast(pl.String).fill_null("")
        for use in columns
        if use.role != "excluded"
    )


def labels_of(labels: pl.Series) -> Array:
    """The labels as an array without Python objects."""
    array = labels.to_numpy()
    return array.astype(np.str_) if array.dtype == object else array


def split(labels: pl.Series, task: Task, seed: int, moments: pl.Series | None) -> tuple[Array, int]:
    """Which part each row is held out in, and how many parts there are.

    With moments the later rows are held out, so that no model has seen the future of its rows.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    rows = len(labels)
    fold = np.full(rows, -1)
    if moments is not None:
        fold[moments.arg_sort().to_numpy()[int(rows * (1 - _HELD_OUT)) :]] = 0
        return fold, 1
    kind = StratifiedKFold if task == "classification" else KFold
    parts = kind(FOLDS, shuffle=True, random_state=seed).split(np.zeros(rows), labels.to_numpy())
    for number, (_, held) in enumerate(parts):
        if rows <= ALL_FOLDS_ROWS or number == 0:
            fold[held] = number
    return fold, FOLDS if rows <= ALL_FOLDS_ROWS else 1


def write(folder: Path, data: Data) -> None:
    """Writes what `read` reads."""
    data.table.write_ipc(folder / "table.arrow", compression="uncompressed")
    np.save(folder / "labels.npy", data.labels, allow_pickle=False)
    np.save(folder / "fold.npy", data.fold, allow_pickle=False)
    (folder / "plan.json").write_bytes(msgspec.json.encode(data.plan))


@functools.lru_cache(1)
def read(folder: Path) -> Data:
    """What a folder holds; kept, because each trial of a process asks."""
    return Data(
        plan=msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan),
        table=pl.read_ipc(folder / "table.arrow"),
        labels=np.load(folder / "labels.npy", allow_pickle=False),
        fold=np.load(folder / "fold.npy", allow_pickle=False),
    )


def predictions(folder: Path, number: int) -> Path:
    """Where a trial keeps its predictions of the held-out rows."""
    return folder / f"trial-{number}.npy"
