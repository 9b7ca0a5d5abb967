"""Metrics over weighted cells equal scikit-learn's; intervals cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from madang.development.experiments.evaluation import evaluate, quantile_loss
from madang.development.experiments.evaluation._binary import Cells, binary_metrics, measure
from madang.development.experiments.evaluation._bootstrap import draws
from madang.development.experiments.evaluation._multiclass import Confusion, multiclass_metrics
from madang.development.experiments.evaluation._regression import regression_metrics
from madang.errors import InvalidInputError

RANDOM = np.random.default_rng(0)


def scored(rows, seed=0):
    random = np.random.default_rng(seed)
    scores = random.beta(2, 5, rows)
    return scores, random.random(rows) < scores


class TestWeights:
    """A sample's metrics equal scikit-learn's with sample weights."""

    random = np.random.default_rng(0)
    weights = random.integers(0, 4, 300).astype(float)

    def test_two_classes_with_ties(self):
        scores = np.sort(self.random.integers(0, 20, 300) / 20)  # cells stand by score
        truth = self.random.random(300) < scores
        found = measure(Cells.of_rows(scores, truth, 0.5), self.weights[None])
        w, guess = self.weights, scores > 0.5
        expected = {
            "auc": sk.roc_auc_score(truth, scores, sample_weight=w),
            "average_precision": sk.average_precision_score(truth, scores, sample_weight=w),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess, sample_weight=w),
            "log_loss": sk.log_loss(truth, scores, sample_weight=w),
            "brier": sk.brier_score_loss(truth, scores, sample_weight=w),
            "accuracy": sk.accuracy_score(truth, guess, sample_weight=w),
            "f1": sk.f1_score(truth, guess, sample_weight=w),
            "mcc": sk.matthews_corrcoef(truth, guess, sample_weight=w),
            "precision": sk.precision_score(truth, guess, sample_weight=w),
            "recall": sk.recall_score(truth, guess, sample_weight=w),
            "base_rate": np.average(truth, weights=w),
        }
        assert {key: found[key][0] for key in expected} == pytest.approx(expected)

    def test_more_classes(self):
        proba = self.random.dirichlet([1, 1, 1], 300)
        codes = self.random.integers(0, 3, 300)
        guess = proba.argmax(axis=1)
        order = np.argsort(codes * 3 + guess, kind="stable")  # as the cells stand
        w = np.empty(300)
        w[order] = self.weights
        found = Confusion(proba, codes).measure(self.weights[None])
        brier = ((proba - np.eye(3)[codes]) ** 2).sum(axis=1)
        how = {"average": "macro", "sample_weight": w}
        assert {key: value[0] for key, value in found.items()} == pytest.approx(
            {
                "accuracy": sk.accuracy_score(codes, guess, sample_weight=w),
                "balanced_accuracy": sk.balanced_accuracy_score(codes, guess, sample_weight=w),
                "brier": np.average(brier, weights=w),
                "f1": sk.f1_score(codes, guess, **how),
                "log_loss": sk.log_loss(codes, proba, sample_weight=w),
                "mcc": sk.matthews_corrcoef(codes, guess, sample_weight=w),
                "precision": sk.precision_score(codes, guess, **how),
                "recall": sk.recall_score(codes, guess, **how),
            }
        )


def test_lift_gives_a_run_of_equal_scores_its_share():
    scores = np.array([0.9] * 20 + [0.1] * 80)
    truth = np.array([True] * 10 + [False] * 10 + [True] * 10 + [False] * 70)
    values, _ = binary_metrics(scores, truth, 0.5, 0, RANDOM)
    # Ten of the twenty highest: half of them yes, and the base rate is 0.2.
    assert values["lift_top_10"] == pytest.approx(2.5)


@pytest.mark.parametrize("kind", ["spread", "few"])
def test_binned_samples_give_the_intervals_of_single_rows(kind, monkeypatch):
    scores, truth = scored(12_000)
    if kind == "few":
        scores = scores.round(2)
    module = "madang.development.experiments.evaluation._binary.EXACT_ROWS"
    values, binned = binary_metrics(scores, truth, 0.3, 1500, np.random.default_rng(1))
    monkeypatch.setattr(module, 10**9)
    expected, exact = binary_metrics(scores, truth, 0.3, 400, np.random.default_rng(2))
    assert values == expected
    assert set(binned) == set(exact) == set(values)
    for key, (low, high) in exact.items():
        width = high - low
        assert binned[key] == pytest.approx((low, high), abs=0.15 * width), key


def test_many_rows_of_more_classes_and_of_numbers_too(monkeypatch):
    random = np.random.default_rng(3)
    proba = random.dirichlet([1, 2, 3], 12_000)
    codes = (random.random(12_000)[:, None] > proba.cumsum(axis=1)).sum(axis=1)
    truth = random.lognormal(size=12_000)
    guess = truth + random.normal(size=12_000)
    for function, arguments, name in (
        (multiclass_metrics, (proba, codes), "_multiclass"),
        (regression_metrics, (guess, truth), "_regression"),
    ):
        values, many = function(*arguments, 1500, np.random.default_rng(1))
        with monkeypatch.context() as patch:
            patch.setattr(f"madang.development.experiments.evaluation.{name}.EXACT_ROWS", 10**9)
            expected, exact = function(*arguments, 300, np.random.default_rng(2))
        assert values == pytest.approx(expected)
        for key, (low, high) in exact.items():
            assert many[key] == pytest.approx((low, high), abs=0.2 * (high - low)), key


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Truth: AUC and Brier of the scores' own law, from a million rows.
    truth = binary_metrics(*scored(1_000_000, 99), 0.5, 0, RANDOM)[0]
    covered = dict.fromkeys(("auc", "brier", "log_loss", "recall"), 0)
    for seed in range(200):
        _, found = binary_metrics(*scored(300, seed), 0.5, 200, np.random.default_rng(seed))
        for key in covered:
            low, high = found[key]
            covered[key] += low <= truth[key] <= high
    for key, count in covered.items():
        assert 178 <= count <= 199, key  # 95 %, with small samples' and 200 repeats' slack


def test_draws_are_the_bootstrap_of_single_rows():
    counts = np.array([1.0, 5.0, 94.0])
    found = draws(counts, 4000, np.random.default_rng(0))
    assert (found.sum(axis=1) == 100).all()
    assert found.mean(axis=0) == pytest.approx(counts, abs=0.5)
    assert found.var(axis=0) == pytest.approx(counts * (1 - counts / 100), rel=0.1)


class Constant:
    classes_ = np.array([0, 1])

    def __init__(self, value=0.3):
        self.value = value

    def predict(self, rows):
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(int)

    def predict_proba(self, rows):
        high = np.full(len(rows), self.value)
        return np.column_stack([1 - high, high])


def test_one_row():
    found = evaluate(Constant(), [[1.0]], [1], slices=["x0"], find_slices=True, explain=True)
    assert found.metrics["brier"] == pytest.approx(0.49)
    assert "auc" not in found.metrics
    assert found.found_slices == ()
    found.to_html()
    found.to_json()


def test_constant_scores():
    found = evaluate(Constant(), np.zeros((50, 1)), [0, 1] * 25)
    assert found.metrics["auc"] == 0.5
    assert found.metrics["average_precision"] == 0.5
    assert found.metrics["lift_top_10"] == 1.0
    assert len(found.calibration.bins) == 1
    found.to_html()


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(InvalidInputError, match=r"2 of 2 probabilities are NaN or infinite"):
        evaluate(Constant(np.nan), [[1.0]], [1])


def test_very_many_classes():
    class Many:
        classes_ = np.array([f"c{i:04}" for i in range(1500)])

        def predict_proba(self, rows):
            random = np.random.default_rng(0)
            return random.dirichlet(np.ones(1500), len(rows))

        def predict(self, rows):
            return self.classes_[self.predict_proba(rows).argmax(axis=1)]

    labels = Many.classes_[np.random.default_rng(1).integers(0, 1500, 400)]
    found = evaluate(Many(), np.zeros((400, 2)), labels)
    guess = Many().predict(np.zeros(400))
    assert found.metrics["recall"] == pytest.approx(
        sk.recall_score(labels, guess, average="macro", zero_division=0)
    )
    assert "auc" not in found.metrics
    assert len(found.to_html()) < 200_000


def test_metrics_of_ones_own_have_intervals():
    class Median:
        def predict(self, rows):
            return np.asarray(rows)[:, 0]

    truth = RANDOM.exponential(size=400)
    loss = quantile_loss(0.9)
    found = evaluate(Median(), np.full((400, 1), 2.0), truth, metrics={"pinball_90": loss})
    expected = sk.mean_pinball_loss(truth, np.full(400, 2.0), alpha=0.9)
    assert found.metrics["pinball_90"] == pytest.approx(expected)
    low, high = found.intervals["pinball_90"]
    assert low < expected < high
    with pytest.raises(InvalidInputError, match="the metric 'odd' gave nan"):
        evaluate(Median(), np.ones((4, 1)), truth[:4], metrics={"odd": lambda t, p: np.nan})


def test_a_constant_truth_has_no_r2_and_zeros_no_percentage():
    class Guess:
        def predict(self, rows):
            return np.asarray(rows)[:, 0]

    found = evaluate(Guess(), RANDOM.normal(size=(30, 1)), np.full(30, 0.1))
    assert "r2" not in found.metrics
    found = evaluate(Guess(), RANDOM.normal(size=(30, 1)), np.r_[0.0, np.ones(29)])
    assert "mape" not in found.metrics
    assert "mape" not in found.intervals
