"""Evaluation: figures equal to scikit-learn's, intervals that cover, a page that needs nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from madang.development.experiments import formats
from madang.development.experiments._bootstrap import (
    binary_statistics,
    intervals,
    multiclass_statistics,
    regression_statistics,
)
from madang.development.experiments.evaluation import evaluate
from madang.errors import InvalidInputError

CANCER, MALIGNANT = load_breast_cancer(return_X_y=True)
IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["c", "a", "b"])[SPECIES]
DIABETES, PROGRESS = load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def binary():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(CANCER, MALIGNANT)


def test_two_classes(binary):
    found = evaluate(binary, CANCER, MALIGNANT)
    proba = binary.predict_proba(CANCER)[:, 1]
    assert found.metrics == pytest.approx(
        {
            "accuracy": binary.score(CANCER, MALIGNANT),
            "auc": sk.roc_auc_score(MALIGNANT, proba),
            "base_rate": MALIGNANT.mean(),
            "brier": sk.brier_score_loss(MALIGNANT, proba),
            "log_loss": sk.log_loss(MALIGNANT, proba),
            "precision": sk.precision_score(MALIGNANT, proba > 0.5),
            "recall": sk.recall_score(MALIGNANT, proba > 0.5),
        }
    )
    assert set(found.intervals) == set(found.metrics)
    for key, (low, high) in found.intervals.items():
        assert low < found.metrics[key] < high
    assert sum(b.rows for b in found.calibration) == found.rows == len(CANCER)
    predicted = [b.predicted for b in found.calibration]
    assert predicted == sorted(predicted)
    assert found.calibration[0].observed == 0.0
    assert found.calibration[-1].observed == 1.0


def test_more_classes_with_names():
    model = LogisticRegression(max_iter=500).fit(IRIS, NAMES)
    found = evaluate(model, IRIS, NAMES)
    proba = model.predict_proba(IRIS)
    assert found.metrics["auc"] == pytest.approx(sk.roc_auc_score(NAMES, proba, multi_class="ovr"))
    assert found.metrics["log_loss"] == pytest.approx(sk.log_loss(NAMES, proba))
    assert found.metrics["accuracy"] == model.score(IRIS, NAMES)
    assert "base_rate" not in found.metrics


def test_regression():
    model = Ridge().fit(DIABETES, PROGRESS)
    found = evaluate(model, DIABETES, PROGRESS)
    guess = model.predict(DIABETES)
    assert found.metrics == pytest.approx(
        {
            "mae": sk.mean_absolute_error(PROGRESS, guess),
            "r2": sk.r2_score(PROGRESS, guess),
            "rmse": sk.root_mean_squared_error(PROGRESS, guess),
        }
    )
    assert set(found.intervals) == {"mae", "r2", "rmse"}


def test_a_loaded_model_of_a_table(tmp_path, binary):
    names = [f"c{i}" for i in range(30)]
    table = pa.table(dict(zip(names, CANCER.T, strict=True)))
    manifest = formats.save(binary, tmp_path, example=table.slice(0, 3))
    found = evaluate(formats.load(tmp_path, digest=manifest.digest), table, pa.array(MALIGNANT))
    assert found.metrics == pytest.approx(evaluate(binary, CANCER, MALIGNANT).metrics)


def test_one_class_alone_has_no_auc(binary):
    rows = CANCER[MALIGNANT == 1]
    found = evaluate(binary, rows, np.ones(len(rows), int))
    assert "auc" not in found.metrics
    assert "auc" not in found.intervals
    assert found.metrics["base_rate"] == 1.0
    found.to_html()


def test_the_same_seed_gives_the_same_intervals(binary):
    first, second, other = (evaluate(binary, CANCER, MALIGNANT, seed=s) for s in (1, 1, 2))
    assert first == second
    assert first.intervals != other.intervals


def test_bad_arguments(binary):
    with pytest.raises(InvalidInputError, match="one label a row: 569 rows"):
        evaluate(binary, CANCER, MALIGNANT[:3])
    with pytest.raises(
        InvalidInputError, match="the labels 7 are none of the model's classes: 0, 1"
    ):
        evaluate(binary, CANCER, np.where(MALIGNANT, 7, 0))
    classifier = RidgeClassifier().fit(CANCER, MALIGNANT)
    with pytest.raises(InvalidInputError, match="evaluated by probabilities"):
        evaluate(classifier, CANCER, MALIGNANT, task="classification")


def test_the_page_needs_nothing_else(binary):
    page = evaluate(binary, CANCER, MALIGNANT).to_html("<script>alert(1)</script>")
    assert "<script>" not in page
    assert not re.search(r"(src|href)=|url\(|@import|http", page)
    assert page.count("<svg") == 3
    assert "0.99" in page


def test_to_dict_is_json(binary):
    content = json.loads(json.dumps(evaluate(binary, CANCER, MALIGNANT).to_dict()))
    assert content["task"] == "classification"
    assert set(content) == {"task", "rows", "metrics", "intervals", "calibration"}


class TestWeightedStatistics:
    """The bootstrap's metrics with weights equal scikit-learn's with sample weights."""

    random = np.random.default_rng(0)
    weights = random.integers(0, 4, 300).astype(float)

    def test_binary_with_ties(self):
        scores = self.random.integers(0, 20, 300) / 20
        truth = self.random.random(300) < scores
        found = binary_statistics(scores, truth)(self.weights)
        w, guess = self.weights, scores > 0.5
        assert found == pytest.approx(
            {
                "auc": sk.roc_auc_score(truth, scores, sample_weight=w),
                "log_loss": sk.log_loss(truth, scores, sample_weight=w),
                "brier": sk.brier_score_loss(truth, scores, sample_weight=w),
                "accuracy": sk.accuracy_score(truth, guess, sample_weight=w),
                "precision": sk.precision_score(truth, guess, sample_weight=w),
                "recall": sk.recall_score(truth, guess, sample_weight=w),
                "base_rate": np.average(truth, weights=w),
            }
        )

    def test_multiclass(self):
        proba = self.random.dirichlet([1, 1, 1], 300)
        codes = self.random.integers(0, 3, 300)
        found = multiclass_statistics(proba, codes)(self.weights)
        w = self.weights
        assert found["log_loss"] == pytest.approx(sk.log_loss(codes, proba, sample_weight=w))
        expected = sk.accuracy_score(codes, proba.argmax(axis=1), sample_weight=w)
        assert found["accuracy"] == pytest.approx(expected)
        brier = ((proba - np.eye(3)[codes]) ** 2).sum(axis=1)
        assert found["brier"] == pytest.approx(np.average(brier, weights=w))

    def test_regression(self):
        truth = self.random.normal(size=300)
        guess = truth + self.random.normal(size=300)
        w = self.weights
        assert regression_statistics(guess, truth)(w) == pytest.approx(
            {
                "mae": sk.mean_absolute_error(truth, guess, sample_weight=w),
                "rmse": sk.root_mean_squared_error(truth, guess, sample_weight=w),
                "r2": sk.r2_score(truth, guess, sample_weight=w),
            }
        )

    def test_intervals_cover_the_truth_about_as_often_as_they_say(self):
        covered = 0
        for seed in range(200):
            random = np.random.default_rng(seed)
            sample = random.normal(3.0, 1.0, 100)
            statistics = regression_statistics(np.zeros(100), sample)
            low, high = intervals(statistics, 100, 200, random)["rmse"]
            covered += low <= np.sqrt(10.0) <= high
        assert 180 <= covered <= 199  # 95 %, with small samples' and 200 repeats' slack
