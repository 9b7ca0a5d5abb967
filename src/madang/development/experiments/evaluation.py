"""How good a model is: metrics with bootstrap intervals, calibration, and a one-page report.

result = evaluate(model, features, labels)
result.metrics["auc"], result.intervals["auc"]
registry.register(…, evaluation=result.metrics, report=result.to_html().encode())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from sklearn import metrics as sk

from madang.development.experiments import _charts
from madang.development.experiments._bootstrap import (
    Array,
    binary_statistics,
    intervals,
    multiclass_statistics,
    regression_statistics,
)
from madang.development.experiments.formats import LoadedModel
from madang.errors import InvalidInputError

Task = Literal["classification", "regression"]
_BINS = 10


@dataclass(frozen=True)
class Bin:
    """A tenth of the rows by predicted probability: how many, mean prediction, observed rate."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Evaluation:
    """What was found on one set of rows.

    Attributes:
        task: `classification` or `regression`.
        rows: How many rows.
        metrics: Classification: `auc`, `log_loss`, `brier`, `accuracy`, `precision`, `recall` (at
            0.5), `base_rate`. With more than two classes `auc` is one against the rest, precision
            and recall are macro means, `brier` sums over the classes (Brier, 1950), and there is
            no base rate. Regression: `mae`, `rmse`, `r2`. One that is
            not defined on these rows (AUC of a single class) is left out.
        intervals: Metric to the 95 % percentile bootstrap interval (Efron and Tibshirani, An
            Introduction to the Bootstrap, 1993, chapter 13).
        calibration: Bins of equal size, two classes only.
        charts: Title to an inline SVG.
    """

    task: Task
    rows: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    calibration: tuple[Bin, ...] = ()
    charts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values, without the charts."""
        content = asdict(self)
        del content["charts"]
        return content

    def to_html(self, title: str = "Evaluation") -> str:
        """One page that needs nothing else: no script, no font, no network."""
        return str(_template().render(title=title, evaluation=self))


def evaluate(
    model: Any,
    features: Any,
    labels: Any,
    *,
    task: Task | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Evaluation:
    """Compares a model's predictions with what happened.

    Args:
        model: A `LoadedModel`, or a fitted estimator with `predict` (and `predict_proba`).
        features: Its input rows: an array or a table.
        labels: What happened, shape (rows,).
        task: What to measure; by default classification if the model gives probabilities.
        resamples: How many bootstrap samples.
        seed: Of the bootstrap: the same seed gives the same intervals.

    Raises:
        InvalidInputError: Rows and labels differ in number, there are none, the model has no
            probabilities for a classification, or a label is none of its classes.
    """
    truth = np.asarray(labels)
    predicted, proba, classes = _outputs(model, features)
    if truth.ndim != 1 or len(truth) == 0 or len(truth) != len(predicted):
        raise InvalidInputError(
            f"evaluation needs one label a row: {len(predicted)} rows, labels of {truth.shape}"
        )
    task = task or ("regression" if proba is None else "classification")
    random = np.random.default_rng(seed)
    if task == "regression":
        return _regression(predicted.astype(float), truth.astype(float), resamples, random)
    if proba is None or classes is None:
        raise InvalidInputError(
            "a classification is evaluated by probabilities; the model has none"
        )
    unknown = sorted(set(np.unique(truth).tolist()) - set(classes.tolist()))
    if unknown:
        raise InvalidInputError(
            f"the labels {', '.join(map(repr, unknown[:5]))} are none of the model's classes: "
            f"{', '.join(map(repr, classes[:20].tolist()))}"
        )
    if len(classes) == 2:
        return _binary(proba[:, 1], truth == classes[1], resamples, random)
    codes = np.searchsorted(classes, truth)
    return _multiclass(proba, codes, resamples, random)


def _outputs(model: Any, features: Any) -> tuple[Array, Array | None, Array | None]:
    """Predictions, probabilities (or `None`), and the classes in the probabilities' order."""
    if isinstance(model, LoadedModel):
        outputs = model.predict(model.inputs(features))
        classes = model.manifest.facts.get("classes")
        if "predict" not in outputs:
            raise InvalidInputError(
                f"the model's outputs are {', '.join(outputs)}; to be evaluated it needs `predict`"
            )
        found = None if classes is None else np.array(classes)
        return outputs["predict"], outputs.get("predict_proba"), found
    predicted = np.asarray(model.predict(features))
    if not hasattr(model, "predict_proba"):
        return predicted, None, None
    return predicted, np.asarray(model.predict_proba(features)), np.asarray(model.classes_)


def _binary(scores: Array, truth: Array, resamples: int, random: np.random.Generator) -> Evaluation:
    guess = scores > 0.5
    values = {
        "log_loss": sk.log_loss(truth, scores, labels=[False, True]),
        "brier": sk.brier_score_loss(truth, scores),
        "accuracy": sk.accuracy_score(truth, guess),
        "precision": sk.precision_score(truth, guess, zero_division=0.0),
        "recall": sk.recall_score(truth, guess, zero_division=0.0),
        "base_rate": truth.mean(),
    }
    charts = {"Scores": _charts.histogram(scores, truth)}
    bins = _calibration(scores, truth)
    charts["Calibration"] = _charts.calibration([(b.predicted, b.observed) for b in bins])
    if 0 < truth.sum() < len(truth):
        values["auc"] = sk.roc_auc_score(truth, scores)
        charts["ROC"] = _charts.roc(*sk.roc_curve(truth, scores)[:2])
    found = intervals(binary_statistics(scores, truth), len(truth), resamples, random)
    return Evaluation(
        "classification", len(truth), _sorted(values), _of(found, values), tuple(bins), charts
    )


def _multiclass(
    proba: Array, codes: Array, resamples: int, random: np.random.Generator
) -> Evaluation:
    every = list(range(proba.shape[1]))
    guess = proba.argmax(axis=1)
    values = {
        "log_loss": sk.log_loss(codes, proba, labels=every),
        "brier": float(((proba - np.eye(len(every))[codes]) ** 2).sum(axis=1).mean()),
        "accuracy": sk.accuracy_score(codes, guess),
        "precision": sk.precision_score(codes, guess, average="macro", zero_division=0.0),
        "recall": sk.recall_score(codes, guess, average="macro", zero_division=0.0),
    }
    if len(np.unique(codes)) == len(every):
        values["auc"] = sk.roc_auc_score(codes, proba, multi_class="ovr", labels=every)
    found = intervals(multiclass_statistics(proba, codes), len(codes), resamples, random)
    charts = {"Scores": _charts.histogram(proba.max(axis=1), guess == codes)}
    return Evaluation(
        "classification", len(codes), _sorted(values), _of(found, values), charts=charts
    )


def _regression(
    predicted: Array, truth: Array, resamples: int, random: np.random.Generator
) -> Evaluation:
    values = {
        "mae": sk.mean_absolute_error(truth, predicted),
        "rmse": sk.root_mean_squared_error(truth, predicted),
    }
    if np.ptp(truth) > 0:
        values["r2"] = sk.r2_score(truth, predicted)
    found = intervals(regression_statistics(predicted, truth), len(truth), resamples, random)
    charts = {"Predicted and observed": _charts.scatter(predicted, truth)}
    return Evaluation("regression", len(truth), _sorted(values), _of(found, values), charts=charts)


def _sorted(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(values[key]) for key in sorted(values)}


def _of(
    found: Mapping[str, tuple[float, float]], values: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """The intervals of the metrics that are defined on all rows."""
    return {key: found[key] for key in sorted(found) if key in values}


def _calibration(scores: Array, truth: Array) -> list[Bin]:
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(_BINS, len(order)))
    return [Bin(len(p), float(scores[p].mean()), float(truth[p].mean())) for p in parts]


@cache
def _template() -> Any:
    import jinja2

    text = resources.files(__package__).joinpath("evaluation.html").read_text("utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
