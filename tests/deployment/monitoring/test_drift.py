"""Distances and tests beside SciPy, and the rate of false alarms by simulation."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy import stats

from madang.deployment.monitoring import Sensitivity
from madang.deployment.monitoring.drift import MIN_WINDOWS, Reference, compare
from madang.deployment.monitoring.freezing import freeze, sketch
from madang.deployment.monitoring.sketches import Sketch
from madang.errors import InvalidInputError


def compared(old, new, **rules):
    reference = sketch(lambda: [pa.table(old)])
    window = Sketch(reference.layout)
    window.add(pa.table(new))
    found = compare(Reference(reference), window, Sensitivity(**rules) if rules else None)
    return {column.column: column for column in found}, reference


def test_of(column, kind):
    return next(test for test in column.tests if test.kind == kind)


test_of.__test__ = False


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "whole"])
def test_the_ks_distance_is_scipys_within_the_largest_bin(draw, shift):
    random = np.random.default_rng(1)
    make = {
        "normal": lambda n, s: random.normal(s, 1, n),
        "lognormal": lambda n, s: random.lognormal(s, 1, n),
        "whole": lambda n, s: np.floor(random.normal(s * 5, 5, n)),
    }[draw]
    old, new = make(8_000, 0.0), make(3_000, shift)
    found, reference = compared({"x": old}, {"x": new})
    exact = stats.ks_2samp(old, new, method="asymp")
    if draw == "whole":  # each value is a bin of its own
        assert found["x"].ks == pytest.approx(exact.statistic, abs=1e-12)
    widest = reference.columns["x"].counts.max() / 8_000
    assert exact.statistic - widest <= found["x"].ks <= exact.statistic + 1e-12
    p = test_of(found["x"], "distribution").p_value
    assert p >= exact.pvalue * (1 - 1e-9)


def test_the_test_of_categories_is_pearsons():
    random = np.random.default_rng(2)
    old, new = random.choice(list("abcd"), 3_000), random.choice(list("abcd"), 900)
    found, _ = compared({"x": old}, {"x": new})
    table = [[(side == one).sum() for one in "abcd"] for side in (old, new)]
    wanted = stats.chi2_contingency(table, correction=False).pvalue
    assert test_of(found["x"], "distribution").p_value == pytest.approx(wanted)


def test_missing_values_are_tested_by_fisher_or_pearson():
    old = {"x": [None] * 3 + [1.0] * 1_997}
    found, _ = compared(old, {"x": [None] * 6 + [1.0] * 594})
    wanted = stats.fisher_exact([[3, 1_997], [6, 594]])[1]
    assert test_of(found["x"], "missing").p_value == pytest.approx(wanted)
    found, _ = compared({"x": [None] * 300 + [1.0] * 1_700}, {"x": [None] * 150 + [1.0] * 450})
    wanted = stats.chi2_contingency([[300, 1_700], [150, 450]]).pvalue
    column = found["x"]
    assert test_of(column, "missing").p_value == pytest.approx(wanted)
    assert test_of(column, "missing").alarm
    assert column.missing == (0.15, 0.25)


def test_psi_and_js_of_one_distribution_are_about_0():
    random = np.random.default_rng(3)
    found, _ = compared({"x": random.normal(size=100_000)}, {"x": random.normal(size=2_000)})
    assert found["x"].psi < 0.01
    assert found["x"].js < 0.01
    moved, _ = compared({"x": random.normal(size=100_000)}, {"x": random.normal(1, 1, 50_000)})
    # Of two normal distributions one standard deviation apart it is 1; groups hide a little.
    assert 0.85 < moved["x"].psi < 1.05


def test_new_categories_are_an_alarm_unless_the_reference_always_had_new_ones():
    random = np.random.default_rng(4)
    old = random.choice(["a", "b"], 5_000)
    new = np.concatenate([random.choice(["a", "b"], 980), ["x"] * 20])
    found, _ = compared({"t": old}, {"t": new})
    assert test_of(found["t"], "new_categories").alarm
    assert found["t"].new_share == 0.02
    assert found["t"].new_examples == ("x",)
    names = [f"tail{i}" for i in range(5_000)]  # each once: so the next one is new as well
    found, _ = compared({"t": names}, {"t": [f"other{i}" for i in range(1_000)]})
    assert test_of(found["t"], "new_categories").p_value > 0.5


def test_a_small_change_is_no_alarm_however_certain_it_is():
    random = np.random.default_rng(5)
    old, new = random.normal(size=400_000), random.normal(0.05, 1, 400_000)
    found, _ = compared({"x": old}, {"x": new})
    test = test_of(found["x"], "distribution")
    assert test.adjusted < 1e-20
    assert not test.alarm
    found, _ = compared({"x": old}, {"x": new}, min_psi=0.001)
    assert test_of(found["x"], "distribution").alarm


def test_too_few_rows_are_measured_and_not_judged():
    random = np.random.default_rng(6)
    found, _ = compared({"x": random.normal(size=5_000)}, {"x": random.normal(9, 1, 499)})
    assert found["x"].tests == ()
    assert found["x"].ks > 0.9


def test_the_level_is_spent_over_a_lifetime():
    rules = Sensitivity(false_alarms=0.05, lifetime=True)
    assert sum(rules.level(number) for number in range(1, 200_000)) == pytest.approx(0.05, rel=1e-4)
    assert Sensitivity().level(7) == 0.05


@pytest.mark.parametrize("rules", [{"false_alarms": 0}, {"false_alarms": 1}, {"min_psi": -1}])
def test_rules_that_mean_nothing_are_refused(rules):
    with pytest.raises(InvalidInputError, match="found"):
        Sensitivity(**rules)


# -- false alarms ----------------------------------------------------------------------------------


def day(random, effect, shift=0.0, rows=500):
    """30 features; each moved by an effect of the day."""
    columns = {}
    for i in range(27):
        values = random.normal(random.normal(0, effect) if effect else 0.0, 1, rows)
        values[random.random(rows) < 0.02] = np.nan
        columns[f"n{i}"] = np.exp(values) if i % 3 == 0 else values
    columns["n1"] = columns["n1"] + shift
    for i in range(3):
        columns[f"c{i}"] = random.choice(list("abcdefgh"), rows)
    return pl.DataFrame(columns)


def rate(days, effect, *, windows, seed, shift=0.0, rules=None):
    """The share of days with an alarm."""
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(days // 40):
        parts = [day(random, effect) for _ in range(20)]
        whole = pl.concat(parts).to_arrow()
        layout = freeze(lambda whole=whole: [whole])
        made = []
        for part in parts:
            made.append(Sketch(layout))
            made[-1].add(part)
        total = Sketch(layout)
        for one in made:
            total.merge(one)
        reference = Reference(total, made if windows else ())
        for _ in range(40):
            window = Sketch(layout)
            window.add(day(random, effect, shift))
            alarms += any(column.alarms for column in compare(reference, window, rules))
    return alarms / days


ALL = Sensitivity(min_psi=0, min_missing=0, min_new=0)
"""Alarms by the p-value alone."""


def test_quiet_days_alarm_no_more_often_than_promised():
    # Of 120 days at 5 %, 13 or more have a chance of 1 % (binomial); the seed is fixed.
    assert rate(120, 0.0, windows=False, seed=1, rules=ALL) <= 12 / 120


def test_days_that_differ_anyhow_alarm_no_more_often_than_promised_with_windows():
    assert rate(120, 0.2, windows=True, seed=2, rules=ALL) <= 12 / 120


def test_without_windows_days_that_differ_are_the_known_trap():
    assert rate(40, 0.2, windows=False, seed=3) > 0.5


def test_a_real_shift_is_found():
    assert rate(40, 0.0, windows=False, seed=4, shift=0.5) == 1.0
    assert rate(40, 0.05, windows=True, seed=4, shift=0.6) > 0.9


def test_a_reference_of_few_windows_is_taken_in_one_piece():
    random = np.random.default_rng(7)
    layout = freeze(lambda: [day(random, 0).to_arrow()])
    parts = [Sketch(layout) for _ in range(MIN_WINDOWS - 1)]
    for part in parts:
        part.add(day(random, 0))
    total = Sketch(layout)
    for part in parts:
        total.merge(part)
    assert Reference(total, parts).basis == "rows are independent of each other"
    small = Sketch(layout)
    small.add(day(random, 0, rows=200))
    reference = Reference(total, [*parts, parts[0]])
    assert reference.basis == "windows vary as the reference's 8 did"
    # A window of much fewer rows than the reference's windows varies more than they did.
    assert compare(reference, small, Sensitivity(min_rows=1))[0].tests == ()
