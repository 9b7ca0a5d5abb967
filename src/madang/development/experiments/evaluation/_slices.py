"""Where the model does worse: slices that were asked for, and slices that were found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

import numpy as np
import polars as pl

from madang.development.experiments.evaluation._bootstrap import Array, Interval
from madang.development.experiments.evaluation._groups import Groups, binned
from madang.development.experiments.evaluation._inputs import Predictions
from madang.development.experiments.evaluation._measure import measured
from madang.errors import InvalidInputError

ALPHA = 0.05
_FOUND = 20  # reported at most
_PAIRED = 30  # columns of which pairs are looked at


@dataclass(frozen=True)
class Slice:
    """Rows with something in common, beside the other rows.

    Attributes:
        name: The condition, as SQL over the columns.
        rows: How many.
        loss: Mean loss: squared error of the probabilities (Brier), or absolute error.
        effect: (`loss` - the other rows' mean loss) / their pooled standard deviation, as in Chung
            and others, Slice Finder (ICDE 2019). 0.2 is called small, 0.5 medium (Cohen, 1988).
        p_value: Of Welch's test that the loss is higher than elsewhere, corrected by Holm for all
            slices that were looked at. `None` where there is nothing to compare with.
        metrics: Metric to value on these rows.
        intervals: Metric to its 95 % bootstrap interval, not corrected.
    """

    name: str
    rows: int
    loss: float | None
    effect: float | None
    p_value: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def worse(self) -> bool:
        """Whether the loss is significantly higher than on the other rows."""
        return self.p_value is not None and self.p_value < ALPHA

    def corrected(self, p_value: float | None) -> Slice:
        """The same with another p-value; `None` or NaN: nothing to compare with."""
        known = p_value is not None and np.isfinite(p_value)
        return replace(self, p_value=p_value if known else None)


def slice_of(
    name: str,
    mask: Array,
    rows: Predictions,
    *,
    threshold: float,
    resamples: int,
    random: np.random.Generator,
) -> Slice:
    """What is found on a slice; its p-value is not corrected yet."""
    count = int(mask.sum())
    if count == 0:
        return Slice(name, 0, None, None, None)
    losses = rows.losses()
    effect, p_value = compared(losses, mask)
    values, found = measured(rows.take(mask), resamples, random, threshold=threshold)
    return Slice(name, count, float(losses[mask].mean()), effect, p_value, values, found)


def masks(frame: pl.DataFrame, slices: Sequence[str]) -> dict[str, Array]:
    """Condition to its rows, shape (rows,).

    Args:
        frame: The columns.
        slices: Each the name of a column (one slice for each of its values, or quarters of a
            number's range), or an SQL condition over the columns.

    Raises:
        InvalidInputError: A condition is none, or names a column that isn't there.
    """
    found: dict[str, Array] = {}
    for text in slices:
        if text in frame.columns:
            codes, names = binned(frame[text])
            if not names:
                raise InvalidInputError(
                    f"the column {text!r} is {frame[text].dtype}, which makes no slices; "
                    "use a condition, or a column made of it"
                )
            found |= {name: codes == number for number, name in enumerate(names)}
            continue
        try:
            mask = frame.select(pl.sql_expr(text).alias("_"))["_"]
        except pl.exceptions.PolarsError as error:
            raise InvalidInputError(
                f"the slice {text!r} is neither a column nor an SQL condition: {error}; "
                f"the columns are: {', '.join(frame.columns)}"
            ) from error
        if mask.dtype != pl.Boolean or len(mask) != frame.height:
            raise InvalidInputError(f"the slice {text!r} gives {mask.dtype}, not true or false")
        found[text] = mask.fill_null(value=False).to_numpy()
    return found


def compared(losses: Array, mask: Array) -> tuple[float | None, float | None]:
    """Effect size and p-value of a slice's losses against those of all other rows."""
    inside = np.array([[mask.sum(), losses[mask].sum(), (losses[mask] ** 2).sum()]])
    everything = np.array([[len(losses), losses.sum(), (losses**2).sum()]])
    effect, p_value = _welch(inside, everything - inside)
    defined = np.isfinite(p_value[0])
    return (float(effect[0]), float(p_value[0])) if defined else (None, None)


def _welch(inside: Array, outside: Array) -> tuple[Array, Array]:
    """Effect sizes and one-sided p-values from counts, sums and sums of squares, (slices, 3)."""
    from scipy.stats import t

    with np.errstate(divide="ignore", invalid="ignore"):
        (n, mean, var), (m, other, spread) = _moments(inside), _moments(outside)
        pooled = np.sqrt(((n - 1) * var + (m - 1) * spread) / (n + m - 2))
        effect = np.where(pooled > 0, (mean - other) / pooled, 0.0)
        error = var / n + spread / m
        freedom = error**2 / ((var / n) ** 2 / (n - 1) + (spread / m) ** 2 / (m - 1))
        statistic = (mean - other) / np.sqrt(error)
        p_value = np.where(error > 0, t.sf(statistic, freedom), np.nan)
    p_value = np.where((n < 2) | (m < 2), np.nan, p_value)
    return effect, p_value


def _moments(sums: Array) -> tuple[Array, Array, Array]:
    count = sums[:, 0]
    mean = sums[:, 1] / count
    return count, mean, np.maximum(sums[:, 2] - count * mean**2, 0.0) / (count - 1)


def holm(p_values: Array, untested: int = 0) -> Array:
    """Corrected p-values (Holm, Scandinavian Journal of Statistics 6, 1979); NaN stays NaN.

    Args:
        p_values: Of the tests, shape (tests,).
        untested: Further tests to correct for, that were left out because of what others said.
    """
    found = np.full(len(p_values), np.nan)
    there = np.flatnonzero(np.isfinite(p_values))
    order = there[np.argsort(p_values[there])]
    factors = untested + np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return found


def find_slices(
    frame: pl.DataFrame,
    losses: Array,
    *,
    min_rows: int | None = None,
    min_effect: float = 0.1,
) -> list[Slice]:
    """Looks at all slices by one and two columns for those in which the losses are higher.

    If the losses don't depend on the columns, at least one slice is reported in at most about 5 % of
    all searches (Holm's correction over everything that was looked at). A slice by two columns is
    reported only if it is also worse than the rest of each found slice that holds it. Of more than
    30 columns, pairs are made of the 30 in which single slices stand out most; the correction is
    still for all pairs.

    Args:
        frame: The columns, one row for each loss.
        losses: Shape (rows,).
        min_rows: Smaller slices are not looked at; by default 30, and 1 % of the rows.
        min_effect: Less is not reported, however significant; see `Slice.effect`.

    Returns:
        At most 20 slices, those of the largest effect first.
    """
    smallest = min_rows or max(30, len(losses) // 100)
    columns = [binned(frame[name]) for name in frame.columns]
    look = partial(_large, losses=losses, squares=losses**2, smallest=smallest)
    candidates = [one for n in range(len(columns)) for one in look(columns, (n,))]
    if not candidates:
        return []
    everything = np.array([len(losses), losses.sum(), (losses**2).sum()])
    pairs, untested = _pairs(columns, candidates, everything)
    candidates += [one for pair in pairs for one in look(columns, pair)]
    sums = np.array([c.sums for c in candidates])
    effects, p_values = _welch(sums, everything - sums)
    corrected = holm(p_values, untested)
    wanted = (corrected < ALPHA) & (effects >= min_effect)
    singles = {c.groups: c.sums for c, good in zip(candidates, wanted, strict=True) if good}
    # The pairs within found slices, tested together against the rest of those slices.
    inner = np.array([_inner(c, singles) for c in candidates])
    limit = ALPHA / max(1, int((inner > 0).sum()))
    found = []
    for number in np.flatnonzero(wanted & (inner <= limit)):
        one = candidates[number]
        name = " AND ".join(columns[c][1][g] for c, g in one.groups)
        found.append(
            Slice(
                name, int(one.sums[0]), float(one.sums[1] / one.sums[0]),
                float(effects[number]), float(corrected[number]),
            )
        )  # fmt: skip
    return sorted(found, key=lambda s: -(s.effect or 0.0))[:_FOUND]


@dataclass(frozen=True)
class _Candidate:
    groups: tuple[tuple[int, int], ...]  # (column, group) of one or two columns
    sums: Array


def _inner(one: _Candidate, found: Mapping[tuple[tuple[int, int], ...], Array]) -> float:
    """The largest p-value of a pair against the rest of each found slice that holds it; or 0."""
    if len(one.groups) == 1:
        return 0.0
    parents = [found[(group,)] for group in one.groups if (group,) in found]
    p_values = [_welch(one.sums[None], (sums - one.sums)[None])[1][0] for sums in parents]
    return float(np.nan_to_num(max(p_values, default=0.0), nan=1.0))


def _pairs(
    columns: Sequence[Groups], singles: Sequence[_Candidate], everything: Array
) -> tuple[list[tuple[int, int]], int]:
    """The pairs of columns to look at, and how many slices of other pairs are left out."""
    useful = [n for n, (_, names) in enumerate(columns) if len(names) > 1]
    every = list(combinations(useful, 2))
    if len(useful) <= _PAIRED:
        return every, 0
    sums = np.array([one.sums for one in singles])
    p_values = np.nan_to_num(_welch(sums, everything - sums)[1], nan=1.0)
    best = dict.fromkeys(useful, 1.0)
    for one, p_value in zip(singles, p_values.tolist(), strict=True):
        number = one.groups[0][0]
        best[number] = min(best.get(number, 1.0), p_value)
    chosen = set(sorted(useful, key=lambda n: best[n])[:_PAIRED])
    kept = [pair for pair in every if chosen.issuperset(pair)]
    left = (len(columns[a][1]) * len(columns[b][1]) for a, b in set(every) - set(kept))
    return kept, sum(left)


def _large(
    columns: Sequence[Groups],
    chosen: tuple[int, ...],
    *,
    losses: Array,
    squares: Array,
    smallest: int,
) -> Iterator[_Candidate]:
    """The slices by one column or two that have enough rows, inside and outside."""
    codes, names = columns[chosen[0]]
    size = len(names)
    if len(chosen) == 2:
        others, more = columns[chosen[1]]
        codes = np.where((codes < 0) | (others < 0), -1, codes * len(more) + others)
        size *= len(more)
    rows = slice(None) if (codes >= 0).all() else codes >= 0
    sums = np.column_stack(
        [np.bincount(codes[rows], v, size) for v in (None, losses[rows], squares[rows])]
    )
    fits = (sums[:, 0] >= smallest) & (len(losses) - sums[:, 0] >= smallest)
    for group in np.flatnonzero(fits).tolist():
        places = divmod(group, len(more)) if len(chosen) == 2 else (group,)
        yield _Candidate(tuple(zip(chosen, places, strict=True)), sums[group])
