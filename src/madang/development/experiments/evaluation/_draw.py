"""Which charts an evaluation shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from madang.development.experiments.evaluation._binary import curves
from madang.development.experiments.evaluation._bootstrap import Array
from madang.development.experiments.evaluation._calibration import Calibration
from madang.development.experiments.evaluation._charts import Plot, lanes, thinned
from madang.development.experiments.evaluation._influence import Dependence, Importance
from madang.development.experiments.evaluation._inputs import Predictions
from madang.development.experiments.evaluation._thresholds import Thresholds

_CLASSES = 12


def charts(rows: Predictions, parts: Mapping[str, Any]) -> dict[str, str]:
    """Title to chart. `parts` are the evaluation's other attributes."""
    if rows.proba is None:
        found = _regression(rows)
    elif rows.binary:
        found = _binary(rows, parts["calibration"], parts["thresholds"])
    else:
        found = _multiclass(rows)
    if parts.get("importance"):
        found["Permutation importance"] = _importance(parts["importance"])
    for one in parts.get("dependence", ()):
        found[f"Partial dependence: {one.feature}"] = _dependence(one, rows.proba is None)
    return found


def _binary(rows: Predictions, found: Calibration, chosen: Thresholds) -> dict[str, str]:
    truth, charts = rows.truth == 1, {}
    one = curves(rows.scores, truth)
    keep = thinned(one["recall"])
    wrong, recall, precise = (
        one[key][keep].tolist() for key in ("false_positive_rate", "recall", "precision")
    )
    if 0 < truth.sum() < len(truth):
        charts["ROC"] = (
            Plot((0, 1), (0, 1), "false positive rate", "recall")
            .line([(0, 0), (1, 1)], "m", dashed=True)
            .line(zip(wrong, recall, strict=True))
            .svg()
        )
        rate = float(truth.mean())
        charts["Precision and recall"] = (
            Plot((0, 1), (0, 1), "recall", "precision")
            .line([(0, rate), (1, rate)], "m", dashed=True)
            .line(list(zip(recall, precise, strict=True))[1:])
            .svg()
        )
    bins = found.bins
    top = max(end for b in bins for end in (b.predicted, b.high))
    charts["Calibration"] = (
        Plot((0, top), (0, top), "predicted probability", "observed rate")
        .line([(0, 0), (top, top)], "m", dashed=True)
        .spans([(b.predicted, b.low, b.high) for b in bins])
        .line([(b.predicted, b.observed) for b in bins])
        .dots([(b.predicted, b.observed) for b in bins])
        .svg()
    )
    charts["Scores"] = _histogram(rows.scores, truth)
    charts["Cost of a threshold"] = _costs(chosen)
    return charts


def _histogram(scores: Array, truth: Array) -> str:
    edges = np.linspace(0, 1, 31)
    shares = [np.histogram(scores[truth == one], edges)[0] for one in (False, True)]
    shares = [counts / max(1, counts.sum()) for counts in shares]
    top = float(np.max(shares)) or 1.0
    plot = Plot((0, 1), (0, top), "score (blue: no, orange: yes)", "share of the outcome")
    return plot.bars(edges, shares[0], "a").bars(edges, shares[1], "b").svg()


def _costs(found: Thresholds) -> str:
    x, y = (found.table[name].to_numpy() for name in ("threshold", "cost"))
    unit = f" ({found.costs.unit})" if found.costs.unit else ""
    plot = Plot((0, 1), (min(0.0, y.min()), y.max()), "threshold", f"mean cost{unit}")
    low, high = plot_band = found.best_interval
    if high > low:
        plot.band([(x, *_whole(y)) for x in plot_band])
    return plot.line(zip(x, y, strict=True)).mark(found.best, f"least at {found.best:.3g}").svg()


def _whole(values: Array) -> tuple[float, float]:
    return min(0.0, float(values.min())), float(values.max())


def _multiclass(rows: Predictions) -> dict[str, str]:
    assert rows.proba is not None
    right = rows.predicted == rows.truth
    edges = np.linspace(0, 1, 31)
    shares = [np.histogram(rows.proba.max(axis=1)[right == one], edges)[0] for one in (False, True)]
    shares = [counts / max(1, counts.sum()) for counts in shares]
    plot = Plot(
        (0, 1), (0, float(np.max(shares)) or 1.0),
        "highest probability (blue: wrong, orange: right)", "share",
    )  # fmt: skip
    found = {"Certainty": plot.bars(edges, shares[0], "a").bars(edges, shares[1], "b").svg()}
    counts = np.bincount(rows.truth, minlength=len(rows.classes))
    often = [c for c in np.argsort(-counts, kind="stable")[:_CLASSES].tolist() if counts[c]]
    recall = [float(right[rows.truth == c].mean()) for c in often]
    found["Recall of the commonest classes"] = lanes(
        [(str(rows.classes[c]), r, r, r) for c, r in zip(often, recall, strict=True)], "recall"
    )
    return found


def _regression(rows: Predictions) -> dict[str, str]:
    keep = thinned(rows.truth, 600)
    predicted, truth = rows.predicted[keep], rows.truth[keep]
    ends = min(predicted.min(), truth.min()), max(predicted.max(), truth.max())
    errors = rows.predicted - rows.truth
    counts, edges = np.histogram(errors, 40)
    wide = float(np.abs(errors[keep]).max())
    return {
        "Predicted and observed": Plot(ends, ends, "predicted", "observed")
        .line([(e, e) for e in ends], "m", dashed=True)
        .dots(zip(predicted, truth, strict=True), radius=1.5)
        .svg(),
        "Errors": Plot((edges[0], edges[-1]), (0, counts.max()), "predicted - observed", "rows")
        .bars(edges, counts)
        .svg(),
        "Error over prediction": Plot(
            (predicted.min(), predicted.max()), (-wide, wide), "predicted", "predicted - observed"
        )
        .line([(predicted.min(), 0.0), (predicted.max(), 0.0)], "m", dashed=True)
        .dots(zip(predicted, errors[keep], strict=True), radius=1.5)
        .svg(),
    }


def _importance(found: tuple[Importance, ...]) -> str:
    return lanes(
        [(i.feature, i.drop, i.drop - i.deviation, i.drop + i.deviation) for i in found[:15]],
        "how much worse the metric gets when the feature is shuffled",
    )


def _dependence(one: Dependence, number: bool) -> str:  # noqa: FBT001 - private, named at its call
    names = [str(v) for v in one.values] if any(isinstance(v, str) for v in one.values) else None
    x = list(range(len(one.values))) if names else [float(v) for v in one.values]
    every = [v for curve in one.curves for v in curve] + list(one.mean)
    plot = Plot(
        (x[0], x[-1]), (min(every), max(every)), one.feature,
        "prediction" if number else "probability", (360, 230),
    )  # fmt: skip
    for curve in one.curves:
        plot.line(zip(x, curve, strict=True), "i")
    return (
        plot.line(zip(x, one.mean, strict=True))
        .dots(zip(x, one.mean, strict=True), "a", 2)
        .svg(names)
    )
