"""What windows show: their report, what of it is worth an alarm, and the numbers over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec
import pyarrow as pa

from madang.deployment.monitoring import _quality, _skew
from madang.deployment.monitoring._state import Configured, moment
from madang.deployment.monitoring.contract import SAMPLE_SCHEMA
from madang.deployment.monitoring.drift import compare
from madang.deployment.monitoring.sketches import Sketch
from madang.deployment.monitoring.values import (
    Finding,
    Monitor,
    MonitorReport,
    Quality,
    Skew,
)
from madang.development.experiments.evaluation import HIGHER_IS_BETTER
from madang.engines import Context
from madang.errors import MadangError

_ABOUT = {
    "distribution": "the distribution of {column} has moved: PSI {effect:.3f} (limit {limit:g})",
    "missing": "the share of missing {column} has moved by {effect:.3f} (limit {limit:g})",
    "new_categories": "{effect:.3%} of {column} are of new categories (limit {limit:.3%}): {new}",
}


def reported(
    context: Context,
    monitor: Configured,
    sketch: Sketch,
    ends: tuple[int, int],
    *,
    number: int = 1,
    skew: tuple[tuple[Skew, ...], tuple[str, ...]] = ((), ()),
) -> MonitorReport:
    """What is known of a stretch of time whose predictions are counted in `sketch`."""
    start_us, end_us = ends
    database, project = context.metadata, context.project
    columns = compare(monitor.reference, sketch, monitor.monitor.sensitivity, number=number)
    rows = _quality.joined(database, project, monitor, start_us, end_us)
    whole, each = _quality.qualities(rows, monitor)
    estimate = _quality.estimated(database, project, monitor, rows, start_us)
    return MonitorReport(
        monitor.monitor.name, moment(start_us), moment(end_us), sketch.rows,
        monitor.reference.basis, columns, rows.predictions, int(rows.known.sum()), rows.unusable,
        whole, estimate, each, *skew,
    )  # fmt: skip


def skewed(
    context: Context, monitor: Configured, start_us: int, end_us: int
) -> tuple[tuple[Skew, ...], tuple[str, ...]]:
    """How served features differ from history's, and why that could not be measured."""
    try:
        found = _skew.skew(context, monitor.monitor.name, monitor.spec.views, start_us, end_us)
    except MadangError as error:  # drift and quality must not wait for a view to come back
        return (), (f"skew was not measured: {error}",)
    return found, ()


def together(reports: Sequence[MonitorReport]) -> tuple[tuple[Skew, ...], tuple[str, ...]]:
    """The skew of several windows, and their notes."""
    by_feature: dict[str, list[Skew]] = {}
    for report in reports:
        for one in report.skew:
            by_feature.setdefault(one.feature, []).append(one)
    found = []
    for feature, parts in by_feature.items():
        rows = sum(one.rows for one in parts)
        differing = sum(one.rows * one.differing for one in parts) / rows
        examples = tuple(pair for one in parts for pair in one.examples)[: _skew.EXAMPLES]
        found.append(Skew(feature, rows, differing, examples))
    return tuple(found), tuple(dict.fromkeys(note for one in reports for note in one.notes))


def findings(monitor: Monitor, report: MonitorReport, found: datetime) -> list[Finding]:
    """What of a report is worth an alarm."""

    def finding(
        about: tuple[str, str], value: float, limit: float, message: str, p: float | None = None
    ) -> Finding:
        return Finding(
            monitor.name, report.start, report.end, *about, value, limit, p, message, found
        )

    rules = monitor.sensitivity
    limits = {"distribution": rules.min_psi, "missing": rules.min_missing,
              "new_categories": rules.min_new}  # fmt: skip
    made = []
    for column in report.columns:
        for test in column.alarms:
            limit = limits[test.kind]
            message = _ABOUT[test.kind].format(
                column=column.column, effect=test.effect, limit=limit,
                new=", ".join(column.new_examples),
            )  # fmt: skip
            made.append(
                finding((test.kind, column.column), test.effect, limit, message, test.adjusted)
            )
    for metric, limit in monitor.quality.items():
        if (value := _beyond(report.quality, metric, limit)) is not None:
            assert report.quality is not None
            low, high = report.quality.intervals[metric]
            message = (
                f"{metric} is {value:.4g} ({low:.4g} to {high:.4g}) of {report.quality.rows} "
                f"outcomes, and the limit is {limit:g}"
            )
            made.append(finding(("quality", metric), value, limit, message))
    for skew in report.skew:
        if skew.differing > monitor.max_skew:
            message = (
                f"{skew.differing:.1%} of {skew.rows} served values of {skew.feature} differ from "
                f"history (limit {monitor.max_skew:.1%}), such as {skew.examples[:1]}"
            )
            about = ("skew", skew.feature)
            made.append(finding(about, skew.differing, monitor.max_skew, message))
    return made


def _beyond(quality: Quality | None, metric: str, limit: float) -> float | None:
    """The metric, if its interval as a whole is worse than the limit."""
    if quality is None or metric not in quality.intervals:
        return None
    low, high = quality.intervals[metric]
    worse = high < limit if metric in HIGHER_IS_BETTER else low > limit
    return quality.metrics[metric] if worse else None


Sample = tuple[str, dict[str, str], datetime, float]


def samples(monitor: Monitor, reports: Sequence[MonitorReport]) -> pa.Table:
    """The reports as numbers over time."""
    rows = [sample for report in reports for sample in _samples(monitor, report)]
    names, labels, times, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "name": pa.array(names, pa.string()),
            "labels": pa.array(
                [list(one.items()) for one in labels], SAMPLE_SCHEMA.field("labels").type
            ),
            "time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "value": pa.array(values, pa.float64()),
        },
        schema=SAMPLE_SCHEMA,
    )


def _samples(monitor: Monitor, report: MonitorReport) -> Iterator[Sample]:
    own = {"monitor": monitor.name, "endpoint": monitor.endpoint}

    def sample(name: str, value: float, **labels: str) -> Sample:
        return f"madang_monitor_{name}", own | labels, report.end, float(value)

    yield sample("rows", report.rows)
    yield sample("predictions", report.predictions)
    yield sample("outcomes", report.outcomes)
    yield sample("alarms", sum(len(column.alarms) for column in report.columns))
    for column in report.columns:
        about = {
            "psi": column.psi, "js": column.js, "ks": column.ks,
            "new_categories": column.new_share, "missing": column.missing[1],
            "mean": None if column.mean is None else column.mean[1],
        }  # fmt: skip
        for name, value in about.items():
            if value is not None:
                yield sample(name, value, column=column.column)
        for test in column.tests:
            yield sample("p_value", test.adjusted, column=column.column, test=test.kind)
    for quality, name in ((report.quality, "quality"), (report.estimate, "estimated_quality")):
        if quality is not None:
            for metric, bound, value in _bounds(quality):
                yield sample(name, value, metric=metric, bound=bound)
    for model, quality in report.by_model.items():
        for metric, bound, value in _bounds(quality):
            yield sample("model_quality", value, metric=metric, bound=bound, model=model)
    for skew in report.skew:
        yield sample("skew", skew.differing, feature=skew.feature)


def _bounds(quality: Quality) -> Iterator[tuple[str, str, float]]:
    for metric, value in quality.metrics.items():
        yield metric, "value", value
        if metric in quality.intervals:
            low, high = quality.intervals[metric]
            yield metric, "low", low
            yield metric, "high", high


def report_json(report: MonitorReport) -> str:
    """A report as text."""
    return msgspec.json.encode(report).decode()


def report_from(text: str) -> MonitorReport:
    """The report that gave this text."""
    return msgspec.json.decode(text, type=MonitorReport)
