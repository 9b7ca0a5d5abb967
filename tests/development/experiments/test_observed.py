"""Metrics of earlier predictions, and estimates without outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as scikit

from madang.development.experiments.evaluation import MIN_KNOWN, expected, observed
from madang.errors import InvalidInputError

COMMON = ("accuracy", "auc", "brier", "log_loss", "precision", "recall", "f1", "base_rate")


def drawn(seed, rows=4_000):
    random = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-random.normal(-0.5, 1.5, rows)))
    return chance, (random.random(rows) < chance).astype(int)


def both(chance):
    return np.column_stack([1 - chance, chance])


def test_observed_metrics_are_scikits():
    chance, truth = drawn(0)
    found, intervals = observed(both(chance), truth, classes=("no", "yes"))
    assert found["auc"] == pytest.approx(scikit.roc_auc_score(truth, chance))
    assert found["brier"] == pytest.approx(scikit.brier_score_loss(truth, chance))
    assert intervals["auc"][0] < found["auc"] < intervals["auc"][1]
    numbers, _ = observed(chance[:, None], truth.astype(float))
    assert numbers["rmse"] == pytest.approx(scikit.root_mean_squared_error(truth, chance))
    three = np.column_stack([both(chance) * 0.8, np.full(len(chance), 0.2)])
    assert "log_loss" in observed(three, truth, classes=(0, 1, 2))[0]


def test_what_fits_no_metric_is_refused():
    with pytest.raises(InvalidInputError, match="0 predictions and 0 outcomes"):
        observed(np.empty((0, 2)), np.empty(0), classes=(0, 1))
    with pytest.raises(InvalidInputError, match="2 probabilities of 3 classes"):
        observed(np.ones((1, 2)), np.ones(1), classes=(0, 1, 2))
    with pytest.raises(InvalidInputError, match="no predictions to estimate"):
        expected(np.empty(0))


def test_estimates_of_right_probabilities_hold_the_truth_as_often_as_their_intervals_say():
    inside = dict.fromkeys(COMMON, 0)
    for seed in range(40):
        chance, truth = drawn(seed, 1_000)
        _, bounds = expected(chance, seed=seed, resamples=100)
        known, _ = observed(both(chance), truth, classes=(0, 1), resamples=0)
        for name in COMMON:
            low, high = bounds[name]
            inside[name] += low <= known[name] <= high
    # Rows are drawn anew as well, so that the intervals are wider than these outcomes need.
    assert min(inside.values()) >= 36, inside


def test_wrong_probabilities_are_put_right_by_known_outcomes():
    chance, truth = drawn(7, 8_000)
    said = chance**2  # far too low
    known = said[:4_000], truth[:4_000]
    real, _ = observed(both(said[4_000:]), truth[4_000:], classes=(0, 1), resamples=0)
    blind, _ = expected(said[4_000:])
    seeing, bounds = expected(said[4_000:], known=known)
    for name in ("accuracy", "log_loss", "base_rate", "recall"):
        assert abs(seeing[name] - real[name]) < abs(blind[name] - real[name]) / 2
        low, high = bounds[name]
        assert low - 0.02 < real[name] < high + 0.02
    few = said[: MIN_KNOWN - 1], truth[: MIN_KNOWN - 1]
    assert expected(said[4_000:], known=few)[0] == blind


@pytest.mark.parametrize("scores", [np.zeros(50), np.ones(50), np.full(50, 0.5), np.array([0.3])])
def test_scores_that_say_little_can_be_estimated(scores):
    found, intervals = expected(scores)
    assert found["accuracy"] >= 0.5 or len(scores) == 1
    assert all(np.isfinite(list(found.values())))
    assert all(low <= high for low, high in intervals.values())
