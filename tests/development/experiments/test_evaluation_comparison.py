"""Paired tests against their sources and against simulation; thresholds; gates."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression, Ridge

from madang.development.experiments.evaluation import (
    Costs,
    Gate,
    calibration,
    compare,
    evaluate,
    thresholds,
)
from madang.development.experiments.evaluation._comparison import compared
from madang.development.experiments.evaluation._delong import delong, placements
from madang.development.experiments.evaluation._inputs import Predictions
from madang.errors import ConfigurationError, GateFailedError, InvalidInputError, MadangError


def judged(scores, truth):
    proba = np.column_stack([1 - scores, scores])
    return Predictions(
        "classification", truth.astype(int), (scores > 0.5).astype(int), proba, (0, 1)
    )


def pair(rows, seed, gap=0.0):
    """Two equally good scores, unless the second is blurred by `gap`."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=rows)
    truth = random.random(rows) < 1 / (1 + np.exp(-signal))
    first, second = (1 / (1 + np.exp(-(signal + random.normal(0, s, rows)))) for s in (1, 1 + gap))
    return first, second, truth


class Fixed:
    """A model whose first column is its probability."""

    classes_ = np.array([0, 1])

    def __init__(self, column=0):
        self.column = column

    def predict_proba(self, rows):
        high = np.asarray(rows)[:, self.column]
        return np.column_stack([1 - high, high])

    def predict(self, rows):
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(int)


def test_placements_are_shares_of_beaten_rows():
    scores = np.array([0.1, 0.4, 0.4, 0.8, 0.9, 0.4])
    truth = np.array([0, 0, 1, 1, 0, 0], dtype=bool)
    area, each = placements(scores, truth)
    assert area == pytest.approx(sk.roc_auc_score(truth, scores))
    yes, no = scores[truth], scores[~truth]
    beats = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
    assert each[truth] == pytest.approx(beats.mean(axis=1))
    assert each[~truth] == pytest.approx(beats.mean(axis=0))


def test_delong_equals_the_papers_formula():
    first, second, truth = pair(150, 0)
    area, other, error, p_value = delong(first, second, truth)
    difference = area - other
    # DeLong and others (1988): covariances of the placements of each kind of row, V10 and V01.
    psi = []
    for scores in (first, second):
        yes, no = scores[truth][:, None], scores[~truth][None]
        psi.append((yes > no) + 0.5 * (yes == no))
    s10 = np.cov([one.mean(axis=1) for one in psi])
    s01 = np.cov([one.mean(axis=0) for one in psi])
    covariance = s10 / truth.sum() + s01 / (~truth).sum()
    contrast = np.array([1, -1])
    expected = np.sqrt(contrast @ covariance @ contrast)
    assert error == pytest.approx(expected)
    areas = [sk.roc_auc_score(truth, scores) for scores in (first, second)]
    assert difference == pytest.approx(areas[0] - areas[1])
    assert p_value == pytest.approx(2 * stats.norm.sf(abs(difference) / expected))


def test_accuracy_is_tested_by_mcnemar():
    truth = np.ones(100, dtype=bool)
    first, second = np.full(100, 0.9), np.full(100, 0.9)
    first[:15], second[15:18] = 0.1, 0.1
    one = compared(judged(first, truth), judged(second, truth), {}).differences["accuracy"]
    assert one.p_value == pytest.approx(stats.binomtest(3, 18).pvalue)
    assert (one.test, one.verdict) == ("McNemar", "worse")


def test_equal_models_are_told_apart_about_as_rarely_as_stated():
    wrong = dict.fromkeys(("auc", "accuracy", "brier", "log_loss"), 0)
    for seed in range(200):
        first, second, truth = pair(300, seed)
        found = compared(judged(first, truth), judged(second, truth), {}, resamples=300)
        for key in wrong:
            wrong[key] += found.differences[key].verdict != "no difference"
    for key, count in wrong.items():
        assert count <= 21, key  # 5 % of 200 and a binomial's slack (p < 0.001)


def test_a_better_model_is_seen_and_many_rows_need_no_samples_of_rows():
    first, second, truth = pair(2000, 1, gap=1.0)
    found = compared(judged(first, truth), judged(second, truth), {})
    assert found.verdict == "better"
    assert found.metric == "auc"
    assert compared(judged(second, truth), judged(first, truth), {}).verdict == "worse"
    first, second, truth = pair(40_000, 1, gap=0.05)
    many = compared(judged(first, truth), judged(second, truth), {})
    losses = [np.mean((s - truth) ** 2) for s in (first, second)]
    one = many.differences["brier"]
    assert one.difference == pytest.approx(losses[0] - losses[1])
    paired = stats.ttest_rel((first - truth) ** 2, (second - truth) ** 2)
    assert one.p_value == pytest.approx(paired.pvalue, rel=0.5)
    low, high = paired.confidence_interval(0.95)
    assert one.interval == pytest.approx((low, high), abs=0.1 * (high - low))


def test_the_same_model_twice_is_no_difference():
    first, _, truth = pair(200, 0)
    found = compared(judged(first, truth), judged(first, truth), {})
    assert {one.verdict for one in found.differences.values()} == {"no difference"}
    assert {one.p_value for one in found.differences.values()} == {1.0}
    assert found.not_worse


def test_slices_are_corrected_and_small_ones_are_not_judged():
    first, second, truth = pair(3000, 3)
    part = np.random.default_rng(0).integers(0, 6, 3000)
    first[part == 2] = 0.5
    features = np.column_stack([first, second, part])
    found = compare(
        Fixed(0), Fixed(1), features, truth.astype(int), slices=["x2", "x2 = 2 AND x0 + x1 > 1.42"]
    )
    assert found.worse_slices == ("x2 = 2.0",)
    small = found.slices[-1]
    assert small.rows < 30
    assert {one.verdict for one in small.differences.values()} == {"too few rows"}
    alone = compare(Fixed(0), Fixed(1), features[part == 2], truth[part == 2].astype(int))
    expected = min(1.0, alone.differences["auc"].p_value * 6)  # smallest of six that were tested
    assert found.slices[2].differences["auc"].p_value == pytest.approx(expected)


def test_too_few_rows_prove_nothing():
    first, second, truth = pair(20, 0)
    found = compared(judged(first, truth), judged(second, truth), {})
    assert found.verdict == "too few rows"
    assert not found.not_worse


def test_within_a_margin_must_be_proven():
    first, second, truth = pair(400, 5)
    features = np.column_stack([first, second])
    wide = compare(Fixed(0), Fixed(1), features, truth.astype(int), margin=0.2)
    narrow = compare(Fixed(0), Fixed(1), features, truth.astype(int), margin=1e-4)
    assert wide.not_worse
    assert narrow.verdict == "no difference"
    assert not narrow.not_worse


def test_regressions_are_compared_too():
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 3))
    truth = rows @ [1.0, 2.0, 3.0] + random.normal(size=300)
    found = compare(Ridge().fit(rows, truth), Ridge(1e4).fit(rows, truth), rows, truth)
    assert (found.metric, found.verdict) == ("rmse", "better")
    assert set(found.differences) == {"mae", "rmse"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resamples": 1}, "a comparison needs 100 resamples or more, found 1"),
        ({"margin": math.nan}, "a margin is 0 or more; found nan"),
    ],
)
def test_impossible_comparisons(arguments, message):
    rows = judged(np.array([0.1, 0.9] * 20), np.array([0, 1] * 20))
    with pytest.raises(InvalidInputError, match=message):
        compared(rows, rows, {}, **arguments)


def test_costs_are_numbers():
    with pytest.raises(InvalidInputError, match="false_negative is a number, found nan"):
        Costs(false_negative=math.nan)


def test_models_of_different_classes_are_not_compared():
    other = LogisticRegression().fit([[0.0], [1.0], [2.0]], [0, 1, 2])
    with pytest.raises(InvalidInputError, match="the models have different classes"):
        compare(Fixed(), other, [[0.5]], [1])
    with pytest.raises(InvalidInputError, match="'f1' is not compared on these rows; compared are"):
        compare(Fixed(), Fixed(), [[0.5]], [1], metric="f1")
    with pytest.raises(InvalidInputError, match="a margin is 0 or more"):
        compare(Fixed(), Fixed(), [[0.5]], [1], margin=-1.0)


# -- calibration and thresholds ----------------------------------------------------------------


def test_the_brier_score_is_its_parts():
    random = np.random.default_rng(0)
    scores = random.integers(0, 8, 4000) / 8  # as many values as bins: the parts are exact
    truth = random.random(4000) < scores**1.3
    found = calibration(scores, truth)
    parts = found.reliability - found.resolution + found.uncertainty
    assert parts == pytest.approx(np.mean((scores - truth) ** 2))


def test_the_calibration_test_rejects_as_often_as_stated():
    rejected = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        scores = random.beta(2, 3, 400)
        rejected += calibration(scores, random.random(400) < scores).p_value < 0.05
    assert 4 <= rejected <= 28
    random = np.random.default_rng(0)
    truth = random.random(2000) < 0.5 + 0.5 * (random.random(2000) - 0.5)
    sure = np.where(random.random(2000) < 0.5, 0.05, 0.95)
    found = calibration(sure, truth)
    assert found.p_value < 1e-6
    assert found.z > 0


def test_the_interval_of_an_observed_rate_is_wilsons():
    found = calibration(np.full(40, 0.3), np.arange(40) < 10).bins[0]
    expected = stats.binomtest(10, 40).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_thresholds_count_decisions_and_find_the_least_cost():
    random = np.random.default_rng(0)
    scores = random.random(1500)
    truth = random.random(1500) < scores
    found = thresholds(scores, truth, Costs(1.0, 4.0, -0.5, 0.25, "EUR"))
    for row in found.table.to_pylist()[::17]:
        guess = scores > row["threshold"]
        true_no, false_yes, false_no, true_yes = sk.confusion_matrix(
            truth, guess, labels=[False, True]
        ).ravel()
        cost = (false_yes + 4 * false_no - 0.5 * true_yes + 0.25 * true_no) / 1500
        assert row["cost"] == pytest.approx(cost)
        assert row["recall"] == pytest.approx(sk.recall_score(truth, guess))
        assert row["precision"] == pytest.approx(sk.precision_score(truth, guess))
        assert row["false_positive_rate"] == pytest.approx(false_yes / (false_yes + true_no))
        assert row["selected"] == pytest.approx(guess.mean())
    costs = found.table["cost"].to_numpy()
    assert found.best_cost == costs.min()
    # Of calibrated scores the best threshold is where both decisions cost the same.
    expected = (1.0 - 0.25) / (1.0 - 0.25 + 4.0 + 0.5)
    low, high = found.best_interval
    assert low <= expected <= high
    assert found.best_cost_interval[0] < found.best_cost < found.best_cost_interval[1]


def test_thresholds_need_scores():
    with pytest.raises(InvalidInputError, match="one finite score and one outcome a row"):
        thresholds(np.array([0.1, np.nan]), np.array([True, False]))


# -- gates ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    first, second, truth = pair(2000, 1, gap=1.0)
    part = np.arange(2000) % 2
    features = np.column_stack([second, first, part])  # the challenger is the blurred one
    return evaluate(
        Fixed(0), features, truth.astype(int), champion=Fixed(1), slices=["x2"], groups=["x2"],
        find_slices=True,
    )  # fmt: skip


def test_a_gate_that_is_passed(found):
    gate = Gate(
        min={"auc": 0.5}, max={"brier": 0.5}, slices={"auc": 0.5, "brier": 0.5},
        fairness={"demographic_parity_difference": 0.5, "demographic_parity_ratio": 0.1},
        found_slices=20, no_worse_than_champion=[],
    )  # fmt: skip
    result = gate.check(found)
    assert (result.passed, result.reasons, result.checked) == (True, (), 9)
    result.require()
    page = found.judged(gate).to_html()
    assert "passes all 9 conditions" in page


def test_a_gate_says_each_reason(found):
    auc = found.metrics["auc"]
    gate = Gate(
        min={"auc": 0.99, "r2": 0.5}, max={"brier": 0.01}, no_worse_than_champion=["auc", "f1"],
        slices={"auc": 0.98}, fairness={"demographic_parity_ratio": 1.0},
    )  # fmt: skip
    result = gate.check(found)
    assert not result.passed
    text = "; ".join(result.reasons)
    assert f"auc is {auc:.4g}, below the 0.99 allowed" in text
    assert "r2 was not measured" in text
    assert "above the 0.01 allowed" in text
    assert "must be no worse than the champion's" in text
    assert "auc where x2 = 0.0 is" in text
    assert "f1 was not compared with the champion's" in text
    assert "demographic_parity_ratio by x2 is" in text
    with pytest.raises(GateFailedError, match=r"fails \d+ of 10 conditions of its gate: auc is"):
        result.require()
    assert issubclass(GateFailedError, MadangError)
    content = json.loads(found.judged(gate).to_json())
    assert content["gate"]["passed"] is False
    assert content["comparison"]["verdict"] == "worse"
    assert content["comparison"]["worse_slices"] == ["x2 = 0.0", "x2 = 1.0"]
    assert "The gate says no" in found.judged(gate).to_html()


def test_what_was_not_measured_is_not_passed():
    bare = evaluate(Fixed(), np.linspace(0, 1, 20)[:, None], [0, 1] * 10, resamples=0)
    for gate, reason in (
        (Gate(no_worse_than_champion=["auc"]), "auc was not compared with the champion's"),
        (Gate(slices={"auc": 0.5}), "auc was measured on no slice"),
        (Gate(fairness={"x": 0.5}), "x was measured between no groups"),
        (Gate(found_slices=0), "no slices were searched for"),
        (Gate(min={"auc": 0.1}, judge="interval"), "lower end of auc's interval was not measured"),
    ):
        (said,) = gate.check(bare).reasons
        assert reason in said
    with pytest.raises(InvalidInputError, match="the gate has no condition"):
        Gate().check(bare)


def test_a_gate_may_judge_by_the_interval(found):
    low, _ = found.intervals["auc"]
    between = (low + found.metrics["auc"]) / 2
    assert Gate(min={"auc": between}).check(found).passed
    assert not Gate(min={"auc": between}, judge="interval").check(found).passed


def test_a_gate_from_yaml(tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text("min: {auc: 0.7}\nno_worse_than_champion: [auc]\nmargin: 0.01\n")
    assert Gate.from_file(file) == Gate(
        min={"auc": 0.7}, no_worse_than_champion=["auc"], margin=0.01
    )
    for text, message in (
        ("minimum: {auc: 1}", "unknown key minimum; the keys are: min, max"),
        ("min: {auc: high}", "min maps names to numbers"),
        ("no_worse_than_champion: auc", "is a list of metrics"),
        ("margin: -1", "margin is 0 or more"),
        ("judge: feeling", "judge is `value` or `interval`"),
        ("slices: {profit: 1}", "a gate can't bound 'profit' on slices"),
        ("- auc", "is no mapping"),
        ("min: [", "can't be read"),
        ("margin: much", "margin and found_slices are numbers"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            Gate.from_file(file)
    with pytest.raises(ConfigurationError, match="can't be read"):
        Gate.from_file(tmp_path / "none.yaml")
