"""Evaluation: figures equal to scikit-learn's, intervals that cover, a page that needs nothing."""

from __future__ import annotations

import json
import math
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
    guess = proba > 0.5
    top = np.sort(proba)[-len(proba) // 10 :].min()  # no two are equal here
    assert found.metrics == pytest.approx(
        {
            "accuracy": binary.score(CANCER, MALIGNANT),
            "auc": sk.roc_auc_score(MALIGNANT, proba),
            "average_precision": sk.average_precision_score(MALIGNANT, proba),
            "balanced_accuracy": sk.balanced_accuracy_score(MALIGNANT, guess),
            "base_rate": MALIGNANT.mean(),
            "brier": sk.brier_score_loss(MALIGNANT, proba),
            "ece": sum(b.rows * abs(b.predicted - b.observed) for b in found.calibration.bins)
            / len(CANCER),
            "f1": sk.f1_score(MALIGNANT, guess),
            "lift_top_10": MALIGNANT[proba >= top].mean() / MALIGNANT.mean(),
            "log_loss": sk.log_loss(MALIGNANT, proba),
            "mcc": sk.matthews_corrcoef(MALIGNANT, guess),
            "precision": sk.precision_score(MALIGNANT, guess),
            "recall": sk.recall_score(MALIGNANT, guess),
        }
    )
    assert set(found.intervals) == set(found.metrics)
    for key, (low, high) in found.intervals.items():
        assert low <= found.metrics[key] <= high
    bins = found.calibration.bins
    assert sum(b.rows for b in bins) == found.rows == len(CANCER)
    predicted = [b.predicted for b in bins]
    assert predicted == sorted(predicted)
    assert bins[0].observed == 0.0
    assert bins[-1].observed == 1.0


def test_more_classes_with_names():
    model = LogisticRegression(max_iter=500).fit(IRIS, NAMES)
    found = evaluate(model, IRIS, NAMES)
    proba = model.predict_proba(IRIS)
    assert found.metrics["auc"] == pytest.approx(sk.roc_auc_score(NAMES, proba, multi_class="ovr"))
    assert found.metrics["log_loss"] == pytest.approx(sk.log_loss(NAMES, proba))
    guess = model.predict(IRIS)
    assert found.metrics["accuracy"] == pytest.approx(model.score(IRIS, NAMES))
    assert found.metrics["mcc"] == pytest.approx(sk.matthews_corrcoef(NAMES, guess))
    assert found.metrics["f1"] == pytest.approx(sk.f1_score(NAMES, guess, average="macro"))
    for key, (low, high) in found.intervals.items():
        assert low <= found.metrics[key] <= high
    assert "base_rate" not in found.metrics


def test_regression():
    model = Ridge().fit(DIABETES, PROGRESS)
    found = evaluate(model, DIABETES, PROGRESS)
    guess = model.predict(DIABETES)
    assert found.metrics == pytest.approx(
        {
            "bias": (guess - PROGRESS).mean(),
            "mae": sk.mean_absolute_error(PROGRESS, guess),
            "mape": sk.mean_absolute_percentage_error(PROGRESS, guess),
            "r2": sk.r2_score(PROGRESS, guess),
            "rmse": sk.root_mean_squared_error(PROGRESS, guess),
        }
    )
    assert set(found.intervals) == {"bias", "mae", "mape", "r2", "rmse"}


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
    assert first.to_json() == second.to_json()
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resamples": -1}, "resamples is 0 or more, found -1"),
        ({"threshold": math.nan}, "a threshold is a number, found nan"),
    ],
)
def test_impossible_numbers(binary, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        evaluate(binary, CANCER, MALIGNANT, **arguments)


@pytest.mark.parametrize("labels", [[None, 1], [None, "a"], ["a", 1]])
def test_labels_of_several_types(binary, labels):
    labels = np.array(labels * 100, object)
    with pytest.raises(InvalidInputError, match="are none of the model's classes: 0, 1"):
        evaluate(binary, CANCER[:200], labels)


class Said:
    def __init__(self, proba, classes):
        self.proba, self.classes_ = proba, np.array(classes)

    def predict_proba(self, _):
        return self.proba


def test_what_is_no_probability_is_refused():
    proba = np.array([[-0.5, 1.5], [0.5, 0.5]])
    with pytest.raises(InvalidInputError, match=r"between 0 and 1, the model gives -0.5 to 1.5"):
        evaluate(Said(proba, [0, 1]), np.zeros((2, 1)), [0, 1])
    with pytest.raises(InvalidInputError, match=r"the model knows one class only, \[3\]"):
        evaluate(Said(np.ones((2, 1)), [3]), np.zeros((2, 1)), [3, 3])


def test_the_page_needs_nothing_else(binary):
    page = evaluate(binary, CANCER, MALIGNANT).to_html("<script>alert(1)</script>")
    assert "<script>" not in page
    assert not re.search(r"(src|href)=|url\(|@import|http", page)
    assert page.count("<svg") == 5
    assert "0.99" in page


def test_to_dict_is_json(binary):
    content = json.loads(json.dumps(evaluate(binary, CANCER, MALIGNANT).to_dict()))
    assert content["task"] == "classification"
    assert content["calibration"]["bins"][0]["observed"] == 0.0
    assert len(content["thresholds"]["table"]["cost"]) > 100
    assert "charts" not in content
