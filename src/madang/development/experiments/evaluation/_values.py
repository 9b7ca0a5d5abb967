"""What an evaluation found, as values, as data and as tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.development.experiments.evaluation._attribution import Attributions
from madang.development.experiments.evaluation._bootstrap import Interval
from madang.development.experiments.evaluation._calibration import Calibration
from madang.development.experiments.evaluation._comparison import Comparison
from madang.development.experiments.evaluation._fairness import Fairness
from madang.development.experiments.evaluation._influence import Dependence, Importance
from madang.development.experiments.evaluation._inputs import Task
from madang.development.experiments.evaluation._robustness import Robustness
from madang.development.experiments.evaluation._slices import Slice
from madang.development.experiments.evaluation._thresholds import Thresholds

if TYPE_CHECKING:
    from madang.development.experiments.evaluation._gate import Gate, GateResult


@dataclass(frozen=True)
class Evaluation:
    """What was found on one set of rows. What was not asked for is empty or `None`.

    Attributes:
        task: `classification` or `regression`.
        rows: How many rows.
        metrics: Two classes: `accuracy`, `auc`, `average_precision`, `balanced_accuracy`,
            `base_rate`, `brier`, `ece` (expected calibration error over tenths by score), `f1`,
            `lift_top_10` (precision in the tenth of the highest scores, by the base rate),
            `log_loss`, `mcc`, `precision`, `recall`; decisions are at `threshold`. More classes:
            the same without `average_precision`, `base_rate`, `ece` and `lift_top_10`; `auc` is one
            against the rest, precision, recall and F1 are means over the classes, `brier` sums over
            the classes (Brier, 1950). Regression: `bias` (mean predicted - observed), `mae`,
            `mape` (if no observed value is 0), `r2`, `rmse`. One that is not defined on these rows
            (AUC of a single class) is left out.
        intervals: Metric to the 95 % percentile bootstrap interval (Efron and Tibshirani, An
            Introduction to the Bootstrap, 1993, chapter 13); `auc` of more than two classes by
            DeLong's error. `ece` is never below 0, so it and its interval lie above 0 by chance
            alone: test calibration by `calibration.p_value`.
        threshold: Of two classes: yes is said above it.
        calibration: Two classes only.
        thresholds: Two classes only.
        slices: The slices that were asked for; p-values are corrected for their number.
        found_slices: Slices in which the model does worse, found by search; `None`: not searched.
        fairness: For each grouping that was asked for.
        attributions: Mean absolute SHAP values.
        importance: The features by permutation importance, the largest first.
        dependence: Partial dependence of the most important features.
        robustness: How the metric falls when inputs go bad.
        comparison: With the champion.
        gate: What a gate said about all this.
        charts: Title to an inline SVG.
    """

    task: Task
    rows: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    threshold: float | None = None
    calibration: Calibration | None = None
    thresholds: Thresholds | None = None
    slices: tuple[Slice, ...] = ()
    found_slices: tuple[Slice, ...] | None = None
    fairness: tuple[Fairness, ...] = ()
    attributions: Attributions | None = None
    importance: tuple[Importance, ...] = ()
    dependence: tuple[Dependence, ...] = ()
    robustness: Robustness | None = None
    comparison: Comparison | None = None
    gate: GateResult | None = None
    charts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def judged(self, gate: Gate) -> Evaluation:
        """The same with what `gate` says about it, which then stands in the report."""
        return dataclasses.replace(self, gate=gate.check(self))

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values, without the charts."""
        content: dict[str, Any] = _plain(self)
        del content["charts"]
        if self.comparison is not None:
            one = self.comparison
            content["comparison"] |= {
                "verdict": one.verdict,
                "not_worse": one.not_worse,
                "worse_slices": list(one.worse_slices),
            }
        return content

    def to_json(self) -> bytes:
        """`to_dict` as a JSON document."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False).encode()

    def tables(self) -> dict[str, pa.Table]:
        """The figures as Arrow tables, one for each part of the evaluation that is there.

        `metrics` (metric, value, low, high), `calibration`, `thresholds`, `slices` (slice, found,
        metric, …), `fairness` (column, group, rate, …), `attributions`, `importance`, `dependence`, `robustness`,
        `comparison` (slice, metric, …; the slice of all rows is null).
        """
        return {name: table for name, part in _TABLES.items() if (table := part(self)) is not None}

    def to_html(self, title: str = "Evaluation") -> str:
        """One page that needs nothing else: no script, no font, no network."""
        from madang.development.experiments.evaluation._page import page

        return page(self, title)


def _plain(value: Any) -> Any:
    if isinstance(value, pa.Table):
        return value.to_pydict()
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table | None:
    return pa.Table.from_pylist([dict(row) for row in rows]) if rows else None


def _ends(bounds: Interval | None) -> dict[str, float | None]:
    low, high = bounds or (None, None)
    return {"low": low, "high": high}


def _metrics(one: Evaluation) -> pa.Table | None:
    return _table(
        [
            {"metric": key, "value": value, **_ends(one.intervals.get(key))}
            for key, value in one.metrics.items()
        ]
    )


def _slices(one: Evaluation) -> pa.Table | None:
    return _table(
        [
            {"slice": part.name, "found": found, "rows": part.rows, "loss": part.loss,
             "effect": part.effect, "p_value": part.p_value, "metric": key, "value": value,
             **_ends(part.intervals.get(key))}
            for found, parts in ((False, one.slices), (True, one.found_slices or ()))
            for part in parts
            for key, value in part.metrics.items()
        ]
    )  # fmt: skip


def _fairness(one: Evaluation) -> pa.Table | None:
    return _table(
        [
            {"column": part.column, "group": group.name, "rows": group.rows, "rate": key,
             "value": value, **_ends(group.intervals.get(key))}
            for part in one.fairness
            for group in part.groups
            for key, value in group.rates.items()
        ]
    )  # fmt: skip


def _dependence(one: Evaluation) -> pa.Table | None:
    return _table(
        [
            {"feature": part.feature, "value": str(value), "mean": mean}
            for part in one.dependence
            for value, mean in zip(part.values, part.mean, strict=True)
        ]
    )


def _comparison(one: Evaluation) -> pa.Table | None:
    if one.comparison is None:
        return None
    parts = [(None, one.comparison.rows, one.comparison.differences)]
    parts += [(part.name, part.rows, part.differences) for part in one.comparison.slices]  # type: ignore[misc]
    return _table(
        [
            {"slice": name, "rows": rows, "metric": key, "challenger": d.challenger,
             "champion": d.champion, "difference": d.difference, **_ends(d.interval),
             "p_value": d.p_value, "test": d.test, "verdict": d.verdict}
            for name, rows, differences in parts
            for key, d in differences.items()
        ]
    )  # fmt: skip


_TABLES: Mapping[str, Callable[[Evaluation], pa.Table | None]] = {
    "metrics": _metrics,
    "calibration": lambda one: _table(_plain(one.calibration.bins) if one.calibration else ()),
    "thresholds": lambda one: one.thresholds.table if one.thresholds else None,
    "slices": _slices,
    "fairness": _fairness,
    "attributions": lambda one: _table(
        [{"feature": key, "mean": value} for key, value in one.attributions.mean.items()]
        if one.attributions
        else ()
    ),
    "importance": lambda one: _table(_plain(one.importance)),
    "dependence": _dependence,
    "robustness": lambda one: _table(_plain(one.robustness.changes) if one.robustness else ()),
    "comparison": _comparison,
}
