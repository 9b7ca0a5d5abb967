"""Shapley values of any function, estimated from random orders of its inputs.

The estimator is that of Štrumbelj and Kononenko (2014), "Explaining prediction models and individual
predictions with feature contributions", https://doi.org/10.1007/s10115-013-0679-x: walk from a
background row to the explained row, column by column in a random order; a column's value is the mean
of what its step changes. Each order is walked in reverse as well (antithetic sampling; Mitchell et
al., 2022, "Sampling Permutations for Shapley Value Estimation", JMLR 23, section 2.4), and each
background row begins as many walks as any other, so that base + values = prediction exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from madang.development.experiments._tensors import Array, Arrays

MAX_BACKGROUND_ROWS = 100
_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Sampled:
    """Estimates: `base` (outputs,), `values` and `standard_error` (rows, columns, outputs)."""

    base: Array
    values: Array
    standard_error: Array
    background_rows: int


def sampled(
    predict: Callable[[Arrays], Array],
    inputs: Arrays,
    background: Arrays,
    *,
    permutations: int,
    seed: int,
) -> Sampled:
    """Estimates the Shapley values of `predict` at each row of `inputs`.

    Args:
        predict: Inputs to an array of shape (rows, outputs).
        inputs: Arrays of shape (rows,) or (rows, columns).
        background: The same inputs of other rows.
        permutations: How many orders for each row, at least; half of them are drawn.
        seed: Of the draws, the same for each row.
    """
    background = _thinned(background)
    count = len(next(iter(background.values())))
    columns = sum(1 if array.ndim == 1 else array.shape[1] for array in inputs.values())
    pairs = -(-max(1, permutations // 2) // count) * count
    orders, masks = _walks(columns, pairs, np.random.default_rng(seed))
    start = np.repeat(np.tile(np.arange(count), pairs // count), 2 * (columns + 1))
    base = predict(background).mean(axis=0)
    rows = len(next(iter(inputs.values())))
    values, errors = [], []
    for row in range(rows):
        walked = _predicted(predict, inputs, row, background, (start, masks))
        steps = np.diff(walked.reshape(2 * pairs, columns + 1, -1), axis=1)
        each = np.empty_like(steps)
        np.put_along_axis(each, orders[:, :, None], steps, axis=1)
        means = each.reshape(pairs, 2, columns, -1).mean(axis=1)
        values.append(means.mean(axis=0))
        spread = means.std(axis=0, ddof=1) if pairs > 1 else np.full_like(means[0], np.nan)
        errors.append(spread / np.sqrt(pairs))
    return Sampled(base, np.stack(values), np.stack(errors), count)


def _thinned(background: Arrays) -> Arrays:
    count = len(next(iter(background.values())))
    if count <= MAX_BACKGROUND_ROWS:
        return background
    chosen = np.linspace(0, count - 1, MAX_BACKGROUND_ROWS).astype(int)
    return {name: array[chosen] for name, array in background.items()}


def _walks(columns: int, pairs: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Orders (walks, columns), each followed by its reverse, and what each step has taken over.

    The masks have the shape (walks × (columns + 1), columns).
    """
    drawn = random.permuted(np.tile(np.arange(columns), (pairs, 1)), axis=1)
    orders = np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(2 * pairs, columns)
    place = np.argsort(orders, axis=1)
    masks = place[:, None, :] < np.arange(columns + 1)[None, :, None]
    return orders, masks.reshape(-1, columns)


def _predicted(
    predict: Callable[[Arrays], Array],
    inputs: Arrays,
    row: int,
    background: Arrays,
    walks: tuple[Array, Array],
) -> Array:
    """The predictions along all walks; `walks` are their background rows and masks."""
    start, masks = walks
    parts = []
    for begin in range(0, len(masks), _BATCH_ROWS):
        some = slice(begin, begin + _BATCH_ROWS)
        mixed, column = {}, 0
        for name, array in inputs.items():
            width = 1 if array.ndim == 1 else array.shape[1]
            taken = masks[some, column : column + width]
            taken = taken[:, 0] if array.ndim == 1 else taken
            mixed[name] = np.where(taken, array[row], background[name][start[some]])
            column += width
        parts.append(predict(mixed))
    return np.concatenate(parts)
