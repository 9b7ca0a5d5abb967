"""What happens to the model when an input is missing, noisy, shifted or new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from madang.development.experiments.evaluation._bootstrap import Array
from madang.development.experiments.evaluation._inputs import Inputs
from madang.development.experiments.evaluation._measure import worse_by

UNSEEN = "never seen before"
"""The text that stands for a category that no training row had."""


@dataclass(frozen=True)
class Change:
    """One feature changed in all rows, everything else left as it was.

    Attributes:
        feature: The column.
        change: `missing`, `noise`, `shift +1`, … (in standard deviations of the column), `unseen`.
        value: The metric then; `None` if the model refuses such rows.
        drop: How much worse than on the rows as they are.
        refused: What the model said when it refused.
    """

    feature: str
    change: str
    value: float | None
    drop: float | None
    refused: str = ""


@dataclass(frozen=True)
class Robustness:
    """How far the metric falls when inputs go bad.

    Attributes:
        metric: What was measured.
        value: On the rows as they are.
        rows: How many rows were used.
        changes: The worst first; refusals last.
    """

    metric: str
    value: float
    rows: int
    changes: tuple[Change, ...]


def robustness(
    inputs: Inputs,
    score: Callable[[Any], float],
    metric: str,
    random: np.random.Generator,
    shifts: Sequence[float] = (1.0, -1.0, 3.0, -3.0),
) -> Robustness:
    """Changes one feature at a time.

    Args:
        inputs: The rows.
        score: Input rows to the metric's value; an error means that the model refuses them.
        metric: Its name.
        random: Of the noise, which is normal with the column's standard deviation.
        shifts: In standard deviations of the column.
    """
    value = score(inputs.data)
    found = []
    for name in inputs.names:
        for change, column in _changes(inputs.frame[name], shifts, random):
            try:
                now = score(inputs.replaced(name, column))
            # Whatever a model raises on a bad row is what this table is there to say.
            except Exception as error:
                text = str(error).strip().partition("\n")[0][:200] or type(error).__name__
                found.append(Change(name, change, None, None, text))
                continue
            found.append(Change(name, change, now, worse_by(metric, now, value)))
    found.sort(key=lambda c: (c.drop is None, -(c.drop or 0.0)))
    return Robustness(metric, value, len(inputs), tuple(found))


def _changes(
    column: pl.Series, shifts: Sequence[float], random: np.random.Generator
) -> Iterator[tuple[str, pl.Series]]:
    rows, name = len(column), column.name
    if column.dtype.is_numeric():
        yield "missing", pl.Series(name, np.full(rows, np.nan))
        values: Array = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        known = values[np.isfinite(values)]
        deviation = float(known.std()) if len(known) else 0.0
        if deviation > 0:
            yield "noise", pl.Series(name, values + random.normal(0, deviation, rows))
            for shift in shifts:
                yield f"shift {shift:+g}", pl.Series(name, values + shift * deviation)
        return
    yield "missing", pl.Series(name, [None] * rows, dtype=column.dtype)
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        yield "unseen", pl.Series(name, [UNSEEN] * rows)
