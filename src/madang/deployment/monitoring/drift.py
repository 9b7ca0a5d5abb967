"""Whether rows still look like a reference: distances, tests, and the correction for many of them.

Of each column three things are tested: whether its values are distributed as in the reference
(Kolmogorov-Smirnov for numbers, chi-square for categories), whether as many are missing, and whether
categories came that the reference did not have. An alarm needs a small p-value, after the correction
for all tests of the window, and a change that is large enough to matter.

What is assumed: with a reference in one piece, that rows are independent of each other. Rows of one
day seldom are. With a reference of several windows (at least `MIN_WINDOWS`), a window is judged by
how far the reference's windows lie from each other as well, so that what varies from day to day
anyhow raises no alarm; what is then assumed is that windows are like draws from one population. A
season that the reference has not seen is a change, and is reported as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from madang.data.validation.bins import Array, distances
from madang.deployment.monitoring.sketches import ColumnLayout, ColumnSketch, Sketch
from madang.deployment.monitoring.values import ColumnDrift, ColumnTest, Sensitivity
from madang.errors import InvalidInputError

MIN_WINDOWS = 8
"""Fewer windows of a reference say too little about how much windows vary."""

GROUPS = 20
"""PSI and JS are taken over so many groups of bins: in 256 bins, chance alone would be large."""


class Reference:
    """What windows are compared with.

    Args:
        total: All of its rows.
        windows: The same rows by window; empty for a reference in one piece.

    Attributes:
        total: All of its rows.
        windows: Its windows, if there are enough of them to judge by.
    """

    def __init__(self, total: Sketch, windows: Sequence[Sketch] = ()) -> None:
        self.total = total
        self.windows = tuple(windows) if len(windows) >= MIN_WINDOWS else ()

    @property
    def basis(self) -> str:
        """What is assumed when a window is judged, in words."""
        if self.windows:
            return f"windows vary as the reference's {len(self.windows)} did"
        return "rows are independent of each other"

    @cached_property
    def typical_rows(self) -> float:
        """The median number of rows of the reference's windows; 0 without."""
        return float(np.median([one.rows for one in self.windows])) if self.windows else 0.0

    @cached_property
    def spreads(self) -> dict[str, tuple[Array, Array]]:
        """By column, each window's distance from the other windows and its missing share, evened."""
        return {column.name: self._spread(column) for column in self.total.layout.columns}

    def _spread(self, column: ColumnLayout) -> tuple[Array, Array]:
        whole, found, missing = self.total.columns[column.name], [], []
        for one in self.windows:
            part = one.columns[column.name]
            rest = whole.counts - part.counts
            if rest.sum() and part.counts.sum():
                found.append(_evened(_distance(column, rest, part.counts)))
            if one.rows:
                missing.append(math.asin(math.sqrt(part.missing / one.rows)))
        return np.array(found), np.array(missing)


def compare(
    reference: Reference, window: Sketch, sensitivity: Sensitivity | None = None, *, number: int = 1
) -> tuple[ColumnDrift, ...]:
    """How far each column of a window lies from the reference, and what of it is an alarm.

    Args:
        reference: What to compare with.
        window: Rows counted in the reference's layout.
        sensitivity: When a change is an alarm.
        number: Which window since the reference this is; counts with `Sensitivity.lifetime`.

    Raises:
        InvalidInputError: The window is counted in another layout.
    """
    rules = sensitivity or Sensitivity()
    if window.layout.digest != reference.total.layout.digest:
        raise InvalidInputError(
            "the window is counted in another layout than the reference; count it in "
            "reference.total.layout"
        )
    judged = window.rows >= max(rules.min_rows, reference.typical_rows / 2, 1)
    measured = [_measured(reference, window, column) for column in window.layout.columns]
    found = [_tests(reference, window, one) if judged else [] for one in measured]
    adjusted = iter(_holm([p for tests in found for _, p, _ in tests]))
    level, floors = rules.level(number), _floors(rules)
    result = []
    for one, tests in zip(measured, found, strict=True):
        made = []
        for kind, p_value, effect in tests:
            corrected = next(adjusted)
            alarm = corrected <= level and effect >= floors[kind]
            made.append(ColumnTest(kind, p_value, corrected, effect, alarm))
        result.append(_with_tests(one, made))
    return tuple(result)


def _floors(rules: Sensitivity) -> dict[str, float]:
    return {
        "distribution": rules.min_psi,
        "missing": rules.min_missing,
        "new_categories": rules.min_new,
    }


def _with_tests(one: ColumnDrift, tests: Sequence[ColumnTest]) -> ColumnDrift:
    return replace(one, tests=tuple(tests))


def _measured(reference: Reference, window: Sketch, column: ColumnLayout) -> ColumnDrift:
    old, new = reference.total.columns[column.name], window.columns[column.name]
    found: dict[str, Any] = {}
    if old.present and new.present:
        one, other = _grouped(column, old.counts), _grouped(column, new.counts)
        coarse = distances(one, other)
        chance = (len(one) - 1) * (1 / old.present + 1 / new.present)
        found = {"psi": max(coarse["psi"] - chance, 0.0), "js": coarse["js"]}
        if column.kind == "number":
            found["ks"] = _distance(column, old.counts, new.counts)
            if old.moments.count and new.moments.count:
                found["mean"] = old.moments.mean, new.moments.mean
    if column.kind == "category" and column.known is not None and new.present:
        found |= {"new_share": new.new / new.present, "new_examples": new.examples}
    shares = tuple(
        part.missing / rows if rows else 0.0
        for part, rows in ((old, reference.total.rows), (new, window.rows))
    )
    return ColumnDrift(
        column.name, column.kind, (old.present, new.present), (shares[0], shares[1]), **found
    )


def _tests(
    reference: Reference, window: Sketch, one: ColumnDrift
) -> list[tuple[str, float, float]]:
    """What is tested in a column: kind, p-value, effect."""
    column = next(c for c in window.layout.columns if c.name == one.column)
    old, new = reference.total.columns[one.column], window.columns[one.column]
    spread = reference.spreads[one.column] if reference.windows else None
    tests = []
    if one.psi is not None:
        p = _distribution_p(column, old.counts, new.counts)
        if spread is not None:
            p = max(
                p,
                _beyond(spread[0], _evened(_distance(column, old.counts, new.counts))),
            )
        tests.append(("distribution", p, one.psi))
    p = _shares_p((old.missing, reference.total.rows), (new.missing, window.rows))
    if spread is not None:
        turned = math.asin(math.sqrt(new.missing / window.rows))
        p = max(p, min(1.0, 2 * min(_beyond(spread[1], turned), _beyond(-spread[1], -turned))))
    tests.append(("missing", p, abs(one.missing[0] - one.missing[1])))
    if one.new_share is not None:
        tests.append(("new_categories", _new_p(column, old, new), one.new_share))
    return tests


def _distance(column: ColumnLayout, old: Array, new: Array) -> float:
    """The Kolmogorov-Smirnov distance of numbers; of categories the root of the divergence."""
    if column.kind == "number":
        return min(float(np.abs(np.cumsum(old / old.sum() - new / new.sum())).max()), 1.0)
    return math.sqrt(distances(old.tolist(), new.tolist(), ordered=False)["js"])


def _evened(distance: float) -> float:
    """A distance on a scale on which chance is nearly normal.

    Its square is about a chi-square value of few degrees of freedom, whose fourth root is nearly
    normal (Hawkins and Wixley, "A note on the transformation of chi-squared variables to
    normality", The American Statistician 40, 1986).
    """
    return math.sqrt(distance)


def _grouped(column: ColumnLayout, counts: Array) -> list[int]:
    """Counts in at most `GROUPS` groups of neighbouring bins, of about equal size in the reference."""
    if column.kind == "category":
        kept = counts[: GROUPS - 1]
        return [*kept.tolist(), int(counts[GROUPS - 1 :].sum())]
    frozen = np.asarray(column.bins.counts, float)
    total = frozen.sum()
    if not total:
        return [int(counts.sum())]
    middle = (np.cumsum(frozen) - frozen / 2) / total
    group = np.minimum((middle * GROUPS).astype(int), GROUPS - 1)
    return [int(n) for n in np.bincount(np.unique(group, return_inverse=True)[1], counts)]


def _distribution_p(column: ColumnLayout, old: Array, new: Array) -> float:
    """The chance of so large a distance between two samples of one distribution.

    Numbers: the two-sample Kolmogorov-Smirnov test's asymptotic distribution, as SciPy's
    `ks_2samp(method="asymp")`. The distance over bins is never larger than that over values, so
    the p-value is never smaller. Categories: Pearson's chi-square for homogeneity, categories of
    less than 5 expected values together (Cochran, "The chi-square test of goodness of fit", 1952).
    """
    from scipy import stats

    n, m = float(old.sum()), float(new.sum())
    if column.kind == "number":
        return float(stats.kstwo.sf(_distance(column, old, new), max(1, round(n * m / (n + m)))))
    expected = (old + new) * min(n, m) / (n + m)
    rare = expected < 5
    table = np.array([[*side[~rare], side[rare].sum()] for side in (old, new)])
    table = table[:, table.sum(axis=0) > 0]
    return _homogeneity_p(table)


def _homogeneity_p(table: Array, correction: float = 0.0) -> float:
    """Pearson's chi-square test that two rows of counts are of one distribution."""
    from scipy import special  # a tenth of the time of scipy.stats, which checks for more

    if table.shape[1] < 2:
        return 1.0
    wanted = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    apart = np.maximum(np.abs(table - wanted) - correction, 0.0)
    return float(special.chdtrc(table.shape[1] - 1, (apart**2 / wanted).sum()))


def _shares_p(old: tuple[int, int], new: tuple[int, int]) -> float:
    """Fisher's exact test of two shares; for many rows the chi-square test with Yates' correction."""
    from scipy import stats

    table = np.array([[old[0], old[1] - old[0]], [new[0], new[1] - new[0]]])
    margins = table.sum(axis=0)
    if not margins.all() or not table.sum(axis=1).all():
        return 1.0
    if margins.min() * table.sum(axis=1).min() / table.sum() < 5:
        return float(stats.fisher_exact(table)[1])
    return _homogeneity_p(table, correction=0.5)


def _new_p(column: ColumnLayout, old: ColumnSketch, new: ColumnSketch) -> float:
    """The chance of so many values of categories that the reference did not have.

    How likely a value is of a new category is estimated by the share of categories seen once (Good,
    1953), with one more, so that a reference without any does not make the first one impossible.
    """
    from scipy import stats

    chance = min((column.singletons + 1) / (old.present + 1), 1.0)
    return float(stats.binom.sf(new.new - 1, new.present, chance)) if new.new else 1.0


def _beyond(known: Array, value: float) -> float:
    """The chance that a further draw lies above `value`: the normal prediction interval's (Student)."""
    from scipy import special

    if len(known) < MIN_WINDOWS:
        return 1.0
    spread = float(known.std(ddof=1)) * math.sqrt(1 + 1 / len(known))
    if spread == 0:
        return float(value <= known[0])
    return float(special.stdtr(len(known) - 1, (known.mean() - value) / spread))


def _holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
