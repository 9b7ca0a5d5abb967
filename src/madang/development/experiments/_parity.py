"""Whether a compiled model does what the original does: on which rows, and how far apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from madang.development.experiments._tensors import Array, Arrays, largest_difference
from madang.development.experiments.formats import Predictor
from madang.errors import InvalidInputError

_RANDOM_ROWS = 1000
_BORDERS = 100  # thresholds that are tried, each with its neighbours
_EXTREMES = (0.0, -0.0, 1e-320, 1e-40, -1e-40, 1e6, -1e6, 16777217.0, 1e30, -1e30)
_TOO_LARGE = (1e39, -1e300, 1.7e308)  # beyond 32 bits


@dataclass(frozen=True)
class Parity:
    """What a comparison found.

    Attributes:
        rows: How many rows were compared.
        max_difference: The largest `|a - b| / max(1, |b|)`; infinite for an unequal label.
    """

    rows: int
    max_difference: float


class DifferentError(Exception):
    """The compiled form takes what the original refuses, or the other way round."""


def compare(found: Predictor, expected: Predictor, groups: Iterator[Arrays]) -> Parity:
    """Compares outputs, and refusals, on each group of rows.

    Raises:
        DifferentError: One of them refuses a group that the other takes.
    """
    rows, largest = 0, 0.0
    for group in groups:
        a, b = _outcome(found, group), _outcome(expected, group)
        rows += len(next(iter(group.values())))
        if a is None and b is None:
            continue
        if a is None or b is None:
            takes, refuses = (
                ("original", "compiled form") if a is None else ("compiled form", "original")
            )
            raise DifferentError(f"the {takes} takes values that the {refuses} refuses")
        if list(a) != list(b):
            raise DifferentError(f"it gives {', '.join(a)}; the original {', '.join(b)}")
        largest = max(largest, *(largest_difference(a[key], b[key]) for key in b))
    return Parity(rows, largest)


def _outcome(predictor: Predictor, inputs: Arrays) -> Arrays | None:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # the original's, of values too large
            return predictor(inputs)
    except InvalidInputError:
        return None


def around(example: Array) -> Array:
    """The example, and random rows as far from it as ten times its spread. Seeded: repeatable."""
    random = np.random.default_rng(0)
    known = np.where(np.isfinite(example), example, 0.0)
    spread = np.maximum(known.std(axis=0), np.abs(known).mean(axis=0) * 0.1) + 1e-3
    reach = 10.0 ** random.uniform(-2, 1, (_RANDOM_ROWS, 1))
    picked = example[random.integers(0, len(example), _RANDOM_ROWS)]
    return np.vstack([example, picked + random.standard_normal(picked.shape) * spread * reach])


def with_missing(rows: Array) -> Iterator[Array]:
    """Rows with NaN, and with infinities: each row has at least one."""
    random = np.random.default_rng(1)
    for value in (np.nan, np.inf, -np.inf):
        yield _scattered(rows[:100], np.array([value]), random)


def extremes(rows: Array) -> Iterator[Array]:
    """Rows with tiny and huge values, then with values beyond 32 bits."""
    random = np.random.default_rng(2)
    yield _scattered(rows[:200], np.array(_EXTREMES), random)
    for value in _TOO_LARGE:
        yield _scattered(rows[:50], np.array([value]), random)


def at_borders(rows: Array, columns: Array, splits: Array) -> Iterator[Array]:
    """Rows with a column's value at one of its thresholds, and next to it in 64 and in 32 bits."""
    random = np.random.default_rng(3)
    usable = np.flatnonzero(np.isfinite(splits))
    if not len(usable):
        return
    chosen = random.choice(usable, min(_BORDERS, len(usable)), replace=False)
    column, split = columns[chosen], splits[chosen]
    with np.errstate(over="ignore"):
        single = split.astype(np.float32)
        values = [
            split, np.nextafter(split, np.inf), np.nextafter(split, -np.inf), single,
            np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf)),
        ]  # fmt: skip
    made = rows[random.integers(0, len(rows), len(values) * len(chosen))].copy()
    at = np.concatenate(values).astype(np.float64)
    made[np.arange(len(made)), np.tile(column, len(values))] = at
    yield made[np.isfinite(at)]


def _scattered(rows: Array, values: Array, random: np.random.Generator) -> Array:
    """Copies with values put at random: one in each row, and in a fifth of the others."""
    made = rows.copy()
    places = np.less(random.random(made.shape), 0.2)
    places[np.arange(len(made)), random.integers(0, made.shape[1], len(made))] = True
    made[places] = random.choice(values, int(places.sum()))
    return made
