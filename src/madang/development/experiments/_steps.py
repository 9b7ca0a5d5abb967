"""What a compiled model does to its rows first: scaling, filling gaps, coding categories.

A step is a name in `_STEPS` and its arrays, which `compiled.npz` holds. Each does what
scikit-learn's class does, operation by operation, so that the results are equal to the last bit:
a tree's threshold lets nothing pass as nearly equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from madang.development.experiments._tensors import Array
from madang.errors import InvalidInputError


@dataclass(frozen=True)
class Step:
    """One step: its name and its arrays."""

    name: str
    arrays: tuple[Array, ...] = ()


def apply(steps: Sequence[Step], rows: Array) -> Array:
    """The rows after all steps.

    Args:
        steps: In order.
        rows: FP64 of shape (rows, columns); not changed.

    Raises:
        InvalidInputError: A value is NaN, infinite or too large where a step takes none.
    """
    for step in steps:
        rows = _STEPS[step.name](rows, *step.arrays)
    return rows


def to_arrays(steps: Sequence[Step]) -> dict[str, Array]:
    """The steps as named arrays, for `np.savez`."""
    stored = {"steps": np.array([step.name for step in steps], dtype=np.str_)}
    for i, step in enumerate(steps):
        stored |= {f"step{i}_{j}": array for j, array in enumerate(step.arrays)}
    return stored


def from_arrays(stored: Mapping[str, Array]) -> tuple[Step, ...]:
    """The steps that `to_arrays` gave."""
    found = []
    for i, name in enumerate(stored.get("steps", np.empty(0)).tolist()):
        count = sum(key.startswith(f"step{i}_") for key in stored)
        found.append(Step(name, tuple(stored[f"step{i}_{j}"] for j in range(count))))
    return tuple(found)


def of_transformer(step: Any) -> tuple[Step, ...] | None:
    """A fitted scaler or imputer of scikit-learn's as steps; `None` for anything else."""
    if not type(step).__module__.startswith("sklearn."):
        return None
    make = _TRANSFORMERS.get(type(step).__name__)
    return make(step) if make else None


def _standard(step: Any) -> tuple[Step, ...]:
    return _some(
        ("subtract", step.mean_ if step.with_mean else None),
        ("divide", step.scale_ if step.with_std else None),
    )


def _min_max(step: Any) -> tuple[Step, ...]:
    clip = np.array(step.feature_range, dtype=np.float64) if step.clip else None
    return _some(("multiply", step.scale_), ("add", step.min_), ("clip", clip))


def _max_abs(step: Any) -> tuple[Step, ...] | None:
    return None if getattr(step, "clip", False) else _some(("divide", step.scale_))


def _robust(step: Any) -> tuple[Step, ...]:
    return _some(
        ("subtract", step.center_ if step.with_centering else None),
        ("divide", step.scale_ if step.with_scaling else None),
    )


def _some(*pairs: tuple[str, Any]) -> tuple[Step, ...]:
    steps = [Step(name, (np.asarray(a, np.float64),)) for name, a in pairs if a is not None]
    return (Step("no_infinity"), *steps)  # every scaler checks its input


def _simple_imputer(step: Any) -> tuple[Step, ...] | None:
    missing = step.missing_values
    if not (isinstance(missing, float) and np.isnan(missing)):
        return None
    values = np.asarray(step.statistics_, dtype=np.float64)
    kept = np.isfinite(values) | bool(step.keep_empty_features)
    marked = step.indicator_.features_ if step.add_indicator else []
    return (
        Step("no_infinity"),
        Step("impute", (values, np.flatnonzero(kept), np.asarray(marked, dtype=np.intp))),
    )


_TRANSFORMERS: dict[str, Callable[[Any], tuple[Step, ...] | None]] = {
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "RobustScaler": _robust,
    "SimpleImputer": _simple_imputer,
    "StandardScaler": _standard,
}


# -- what they do ---------------------------------------------------------------------------------


def _finite(rows: Array) -> Array:
    if not np.isfinite(rows).all():
        raise InvalidInputError(
            "the model can't take these inputs: a value is NaN, infinite or too large"
        )
    return rows


def _no_infinity(rows: Array) -> Array:
    if np.isinf(rows).any():
        raise InvalidInputError(
            "the model can't take these inputs: a value is infinite or too large"
        )
    return rows


def _float32(rows: Array) -> Array:
    """scikit-learn's own trees read 32 bits; the comparison with a threshold is in 64."""
    with np.errstate(over="ignore"):  # becomes an infinity, which the next step refuses
        return rows.astype(np.float32).astype(np.float64)


def _single(rows: Array) -> Array:
    """For trees that compare in 32 bits: what is too large is infinite, as in their library."""
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def _impute(rows: Array, values: Array, kept: Array, marked: Array) -> Array:
    missing = np.isnan(rows)
    filled = np.where(missing, values, rows)
    if len(kept) != len(values):
        filled = filled[:, kept]
    return np.hstack([filled, missing[:, marked]]) if len(marked) else filled


def _codes(rows: Array, columns: Array, ends: Array, values: Array) -> Array:
    """Categories as 0, 1, …, and NaN for unknown ones, in the first columns; then the others.

    Args:
        rows: Of shape (rows, columns).
        columns: The columns that hold categories.
        ends: Where each one's categories end in `values`.
        values: The categories, sorted within a column.
    """
    coded = []
    for known, column in zip(np.split(values, ends[:-1]), columns, strict=True):
        given = _no_infinity(rows[:, column])
        at = np.minimum(np.searchsorted(known, given), len(known) - 1)
        coded.append(np.where(known[at] == given, at, np.nan) if len(known) else given * np.nan)
    return np.column_stack([*coded, np.delete(rows, columns, axis=1)])


def _sets(rows: Array, columns: Array, outside: Array) -> Array:
    """Appends one column for each set of categories: 0 where the row's is in it, else 1.

    Args:
        rows: Codes in the columns that `columns` names.
        columns: Each set's column, of shape (sets,).
        outside: Of shape (sets, codes + 1): whether a code is outside; the last one is of NaN.
    """
    codes = rows[:, columns]
    unknown = np.isnan(codes)
    at = np.where(unknown, outside.shape[1] - 1, codes).astype(np.intp)
    return np.hstack([rows, outside[np.arange(len(columns)), at]])


def _overflowing(function: Any) -> Callable[..., Array]:
    def compute(rows: Array, by: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # as scikit-learn leaves it
            return np.asarray(function(rows, by))

    return compute


_STEPS: dict[str, Callable[..., Array]] = {
    "add": _overflowing(np.add),
    "clip": lambda rows, limits: np.clip(rows, limits[0], limits[1]),
    "codes": _codes,
    "divide": _overflowing(np.divide),
    "finite": _finite,
    "float32": _float32,
    "impute": _impute,
    "multiply": _overflowing(np.multiply),
    "no_infinity": _no_infinity,
    "sets": _sets,
    "single": _single,
    "subtract": _overflowing(np.subtract),
}
