"""Bins that are frozen from one set of values, counts of other values in them, and their distances.

Everything that compares distributions counts here: the check `distribution`, differences of dataset
versions, drift of feature views, and monitors of endpoints.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.validation._arguments import literal

BINS = 32
VALUES = 50

Array = np.ndarray[Any, Any]

_CELLS = 1 << 14
_CHUNK = 1 << 16  # values whose intermediate results stay in a core's cache
_FEW = 4 * _CELLS  # below, a search of each value is faster than making the table of cells


@dataclass(frozen=True)
class Bins:
    """A reference distribution: counts between rising `edges`, or of single `values` and `other`.

    Of numbers, bin i holds what is above `edges[i - 1]` and up to `edges[i]`; the first also all
    that is less, and one more all that lies above the last edge.
    """

    counts: tuple[int, ...]
    edges: tuple[Any, ...] = ()
    values: tuple[Any, ...] = ()

    @classmethod
    def of_arguments(cls, reference: Mapping[str, Any], type: pa.DataType) -> Bins:
        """The figures that stand in a contract."""
        counts = tuple(reference["counts"])
        if "edges" in reference:
            return cls(counts, edges=tuple(reference["edges"]))
        values = tuple(literal(value, type) for value in reference["values"])
        return cls((*counts, reference.get("other", 0)), values=values)

    @classmethod
    def of_values(
        cls,
        values: pl.Series,
        bins: int = BINS,
        *,
        most: int = VALUES,
        lowest: float | None = None,
        highest: float | None = None,
    ) -> Bins:
        """Bins of about as many values each, or the most frequent values of what has no order.

        Args:
            values: The reference, or a random part of it.
            bins: How many for numbers, or fewer where equal values make them coincide.
            most: How many single values at most.
            lowest: The least value of all of the reference; what lies below gets a bin of its own.
            highest: The largest value of all of the reference, where `values` is a part.
        """
        values = values.drop_nulls()
        if values.dtype.is_float():
            values = values.filter(values.is_finite())
        if values.dtype.is_numeric() and not values.dtype.is_decimal():
            # The last edge is the largest value, so that what lies above has a bin of its own.
            ordered = values.sort()
            ranks = [math.floor((len(ordered) - 1) * i / bins) for i in range(1, bins + 1)]
            edges = {float(ordered[rank]) for rank in ranks} if len(ordered) else set()
            if lowest is not None:
                edges.add(math.nextafter(float(lowest), -math.inf))
            if highest is not None:
                edges.add(float(highest))
            made = cls((), tuple(sorted(edges)))
            return cls(tuple(made.count(ordered).tolist()), made.edges)
        counts = values.alias("value").value_counts(name="count")
        top = counts.sort(["count", "value"], descending=[True, False]).head(most)
        kept = top["count"].to_list()
        return cls((*kept, len(values) - sum(kept)), values=tuple(top["value"].to_list()))

    def count(self, values: pl.Series) -> Array:
        """How many of the values lie in each bin, shape (bins,); nulls and NaN in none."""
        values = values.drop_nulls()
        if self.values:
            return self._of_values(values)
        if values.dtype.is_float():
            values = values.drop_nans()
        found: Array = self._grid.count(values.cast(pl.Float64).to_numpy())
        return found

    def _of_values(self, values: pl.Series) -> Array:
        found = values.alias("value").value_counts(name="count")
        named = pl.Series("value", self.values, dtype=values.dtype)
        known = pl.DataFrame({"value": named}).join(found, on="value", how="left")
        counts = known["count"].fill_null(0).to_numpy().astype(np.int64)
        return np.append(counts, len(values) - int(counts.sum()))

    @cached_property
    def _grid(self) -> _Grid:
        return _Grid(np.array(self.edges, float))


class _Grid:
    """Counts numbers between edges by a table of equal cells, exactly.

    A number of a cell with one edge or none is compared with that edge alone; only those of the
    other cells are searched. The cell of a number rises with it, whatever is rounded, because the
    same steps make that of an edge.
    """

    def __init__(self, edges: Array) -> None:
        self._edges = edges
        with np.errstate(over="ignore"):
            self._scale = _CELLS / (edges[-1] - edges[0]) if len(edges) > 1 else 0.0
        self._useful = 0.0 < self._scale < math.inf
        if self._useful:
            of = self._cells(edges)
            cells = np.arange(_CELLS + 2)
            self._below = np.searchsorted(of, cells)
            held = np.bincount(of, minlength=len(cells))
            self._edge = np.where(held > 0, edges[np.minimum(self._below, len(edges) - 1)], np.inf)
            self._mixed = held > 1

    def _cells(self, values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            cells = (values - self._edges[0]) * self._scale
        np.clip(cells, -1, _CELLS, out=cells)
        cells += 1
        whole: Array = cells.astype(np.int64)
        return whole

    def count(self, values: Array) -> Array:
        """Counts in the bins, shape (edges + 1,)."""
        if not self._useful or len(values) <= _FEW or self._crowded(values):
            return self._searched(values)
        found = np.zeros(len(self._edges) + 1, np.int64)
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            of = self._cells(chunk)
            mixed = self._mixed[of]
            bins = self._below[of]
            bins += chunk > self._edge[of]
            found += np.bincount(bins[~mixed], minlength=len(found))
            found += self._searched(chunk[mixed])
        return found

    def _crowded(self, values: Array) -> bool:
        """Whether most values would be searched all the same, judged by some of them."""
        some = self._cells(values[:: max(1, len(values) // 1000)])
        return bool(self._mixed[some].mean() > 0.5)

    def _searched(self, values: Array) -> Array:
        return np.bincount(np.searchsorted(self._edges, values), minlength=len(self._edges) + 1)


def distances(
    reference: Sequence[int], found: Sequence[int], *, ordered: bool = True
) -> dict[str, float]:
    """How far two distributions lie apart, from counts in the same bins.

    `psi`: the population stability index, sum of (p - q) ln(p / q) (Siddiqi, "Credit Risk
    Scorecards", 2006, ch. 7), of counts with half of one more in each bin, so that empty bins stay
    finite. Two samples of n and m values of one distribution in k bins have about
    (k - 1)(1/n + 1/m) on average (Yurdakul & Naranjo, "Statistical properties of the population
    stability index", 2020).
    `js`: the Jensen-Shannon divergence in bits, 0 to 1 (Lin, "Divergence measures based on the
    Shannon entropy", 1991).
    `ks`: the largest difference of the cumulative shares at the edges, only where bins are ordered;
    at most the Kolmogorov-Smirnov statistic, and less by no more than the largest bin's share.
    """
    one, other = np.asarray(reference, float), np.asarray(found, float)
    n, m, bins = one.sum(), other.sum(), len(one)
    p, q = (one + 0.5) / (n + 0.5 * bins), (other + 0.5) / (m + 0.5 * bins)
    psi = float(((p - q) * np.log(p / q)).sum())
    p, q = one / n, other / m
    middle = (p + q) / 2
    js = sum(float((s[s > 0] * np.log2(s[s > 0] / middle[s > 0])).sum()) for s in (p, q)) / 2
    result = {"psi": psi, "js": min(max(js, 0.0), 1.0)}
    if ordered:
        result["ks"] = min(float(np.abs(np.cumsum(p - q)).max()), 1.0)
    return result


def drift(old: pl.Series, new: pl.Series) -> dict[str, float]:
    """How far two samples of a column lie apart, in bins of the old one; empty without values."""
    if old.dtype.is_temporal():
        old, new = old.to_physical(), new.to_physical()
    if old.dtype.is_float() and new.dtype.is_float():
        new = new.filter(new.is_finite())
    bins, new = Bins.of_values(old), new.drop_nulls()
    if not sum(bins.counts) or new.is_empty():
        return {}
    counts = bins.count(new).tolist()
    return distances(bins.counts, counts, ordered=not bins.values)


def cumulated(upto: Sequence[int], total: int) -> list[int]:
    """Counts in bins from counts up to each edge."""
    return [b - a for a, b in itertools.pairwise([0, *upto, total])]
