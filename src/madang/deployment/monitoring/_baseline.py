"""What a monitor compares with: where it comes from, and its sketches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from madang.deployment.monitoring._reading import PREDICTION, SCORE, decoded, outputs_of, rows_of
from madang.deployment.monitoring._state import Spec, microseconds
from madang.deployment.monitoring.drift import MIN_WINDOWS
from madang.deployment.monitoring.freezing import freeze, parts, supported
from madang.deployment.monitoring.sketches import Layout, Sketch
from madang.deployment.monitoring.values import Baseline, Monitor
from madang.errors import (
    InvalidInputError,
    NotFoundError,
    SchemaMismatchError,
)

if TYPE_CHECKING:
    from madang.data.collection import Collection
    from madang.deployment.serving import Arm, Endpoint
    from madang.development.experiments.formats import LoadedModel
    from madang.engines import Context

EVENTS = 2_000
"""How many events are read at a time."""

MAX_WINDOWS = 400
"""A baseline of more windows than this asks for longer windows."""


@dataclass(frozen=True)
class Frozen:
    """A baseline, ready to compare with.

    Attributes:
        spec: The monitor and what followed.
        total: The sketch of all rows.
        windows: Those of its windows; empty for one piece.
    """

    spec: Spec
    total: Sketch
    windows: tuple[Sketch, ...]


def frozen(context: Context, monitor: Monitor) -> Frozen:
    """Reads a monitor's baseline.

    Raises:
        NotFoundError: The endpoint, model, dataset or version is not there, or the log holds
            nothing of that time.
        InvalidInputError: The baseline is not one of the three, or has no rows.
        SchemaMismatchError: A column is missing.
    """
    endpoint = context.component("serving").get(monitor.endpoint)
    arm = max(endpoint.arms, key=lambda one: one.weight)
    baseline = monitor.baseline or Baseline(model=_model_of(endpoint, arm))
    _check(baseline)
    name = baseline.model or (f"{arm.model}@{arm.version}" if arm.graph is None else None)
    model = None if name is None else _loaded(context, name)
    views = arm.features.columns if arm.features is not None else ()
    matrix = model.manifest.columns if model is not None else ()
    classes = tuple(model.manifest.facts.get("classes") or ()) if model is not None else ()
    made = Spec(replace(monitor, baseline=baseline), tuple(matrix), classes, tuple(views))
    if baseline.start is not None:
        return _of_log(context.component("collection"), made, baseline)
    if baseline.dataset is not None:
        datasets = [baseline.dataset]
    else:
        datasets = _datasets(context, str(baseline.model))
    return _of_dataset(context, made, datasets, model)


def _model_of(endpoint: Endpoint, arm: Arm) -> str:
    if arm.graph is not None:
        raise InvalidInputError(
            f"endpoint {endpoint.name!r} serves a graph of models; say what to compare with: "
            "Baseline(dataset=…), or Baseline(start=…, end=…) of its log"
        )
    return f"{arm.model}@{arm.version}"


def _check(baseline: Baseline) -> None:
    given = [baseline.model is not None, baseline.dataset is not None, baseline.start is not None]
    if sum(given) != 1 or (baseline.start is None) != (baseline.end is None):
        raise InvalidInputError(
            f"a baseline is one of: model, dataset, or start and end of the log; found {baseline}"
        )
    if baseline.start is not None and baseline.end is not None:
        ends = microseconds(baseline.start, "start"), microseconds(baseline.end, "end")
        if ends[0] >= ends[1]:
            raise InvalidInputError(f"a baseline's start is before its end; found {baseline}")


def _loaded(context: Context, name: str) -> LoadedModel:
    model, _, version = name.partition("@")
    registry = context.component("experiments").registry
    found: LoadedModel = registry.load(
        model, int(version) if version.isdigit() else version or None
    )
    return found


def _datasets(context: Context, model: str) -> list[str]:
    name, _, version = model.partition("@")
    details = context.component("experiments").registry.describe(
        name, int(version) if version.isdigit() else version or None
    )
    found = [ref.removeprefix("dataset:") for ref in details.datasets]
    if not found:
        raise NotFoundError(
            f"{details.version.ref} says of no dataset that it was made from it; register it with "
            "inputs=['dataset:NAME@VERSION'], or say what to compare with: Baseline(dataset=…), or "
            "Baseline(start=…, end=…) of the log"
        )
    return found


# -- a dataset -------------------------------------------------------------------------------------


def _of_dataset(
    context: Context, spec: Spec, datasets: Sequence[str], model: LoadedModel | None
) -> Frozen:
    name, version, columns = _chosen(context, spec, datasets, model)
    timestamp = spec.monitor.baseline.timestamp if spec.monitor.baseline else None
    needed = list(columns)
    inputs = [] if model is None else _inputs(model)
    schema = context.component("storage").read(name, version=version).schema
    if model is not None and inputs and all(one in schema.names for one in inputs):
        needed = list(dict.fromkeys([*needed, *inputs]))
    else:
        model = None
    read = needed if timestamp is None else list(dict.fromkeys([*needed, timestamp]))
    missing = [one for one in read if one not in schema.names]
    if missing:
        raise SchemaMismatchError(
            f"dataset {name!r} has no column {missing[0]!r}; it has: {', '.join(schema.names)}"
        )

    def batches() -> Iterator[pa.Table]:
        for batch in context.component("storage").read(name, version=version, columns=read):
            table = pa.Table.from_batches([batch])
            yield table if model is None else _predicted(table, model, inputs)

    own = [PREDICTION, *([SCORE] if model is not None and _is_binary(spec) else [])]
    _require_free(columns)
    watched = [*columns, *(own if model is not None else [])]
    spec = replace(
        spec,
        monitor=replace(spec.monitor, columns=tuple(columns)),
        refs=(f"dataset:{name}@{version}",),
    )
    return _counted(spec, batches, freeze(batches, watched), timestamp)


def _require_free(columns: Sequence[str]) -> None:
    taken = [name for name in columns if name in (PREDICTION, SCORE)]
    if taken:
        raise InvalidInputError(
            f"the input {taken[0]!r} can't be watched: the predictions' own columns are called "
            f"{PREDICTION} and {SCORE}; name the inputs to watch (columns=…)"
        )


def _is_binary(spec: Spec) -> bool:
    return len(spec.classes) == 2


def _inputs(model: LoadedModel) -> list[str]:
    return list(model.manifest.columns or [one.name for one in model.signature.inputs])


def _chosen(
    context: Context, spec: Spec, datasets: Sequence[str], model: LoadedModel | None
) -> tuple[str, int, list[str]]:
    """The dataset that has the columns, its version, and the columns that are watched."""
    wanted = list(spec.monitor.columns) or ([] if model is None else _inputs(model))
    seen = []
    for dataset in datasets:
        name, _, number = dataset.partition("@")
        version = (
            int(number)
            if number
            else context.component("storage").versions(name, limit=1)[-1].version
        )
        schema = context.component("storage").read(name, version=version).schema
        if all(column in schema.names for column in wanted):
            usable = supported(schema)
            return name, version, [c for c in wanted or usable if c in usable]
        lacking = [column for column in wanted if column not in schema.names]
        seen.append(f"{dataset} lacks {', '.join(lacking)}")
    raise SchemaMismatchError(
        f"no dataset has all columns to watch: {'; '.join(seen)}; name those to watch (columns=…), "
        "another dataset, or a stretch of the log: Baseline(start=…, end=…)"
    )


def _predicted(table: pa.Table, model: LoadedModel, inputs: Sequence[str]) -> pa.Table:
    """The rows with the model's own predictions; of rows that it can't take, null."""
    try:
        rows, answer = np.arange(table.num_rows), model.predict(model.inputs(table.select(inputs)))
    except InvalidInputError:
        whole = pl.DataFrame(pl.from_arrow(table.select(inputs))).fill_nan(None)
        kept = whole.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
        rows = np.flatnonzero(kept.to_numpy())
        if not len(rows):
            raise
        answer = model.predict(model.inputs(table.select(inputs).take(pa.array(rows))))
    for name, values in outputs_of(answer, len(rows)).items():
        held: Any = np.full(table.num_rows, None, object)
        held[rows] = values.tolist()
        table = table.append_column(name, pa.array(held.tolist()))
    return table


# -- the log ---------------------------------------------------------------------------------------


def _of_log(collection: Collection, spec: Spec, baseline: Baseline) -> Frozen:
    """Reads the log twice: to freeze its bins, and to count in them."""
    first, last_moment = baseline.start, baseline.end
    assert first is not None
    assert last_moment is not None
    topic = f"predictions.{spec.monitor.endpoint}"
    ends = microseconds(first, "start"), microseconds(last_moment, "end")
    columns: dict[str, None] = {}

    def batches() -> Iterator[pa.Table]:
        described = collection.topic(topic)
        for partition, last in enumerate(described.next_offsets):
            offset = collection.offset_at(topic, partition, first)
            while offset < last:
                batch = collection.read(topic, partition, offset, max_events=EVENTS)
                if not batch.num_rows:
                    break
                offset = batch["offset"][-1].as_py() + 1
                events = [e for e in decoded(batch)[0] if ends[0] <= e.time_us < ends[1]]
                for rows in rows_of(events, spec.matrix)[0]:
                    columns.update(dict.fromkeys(rows.frame.columns))
                    times = pl.Series(_TIME, rows.times_us).cast(pl.Datetime("us", "UTC"))
                    yield rows.frame.with_columns(times).to_arrow()

    for _ in batches():
        pass
    if not columns:
        raise NotFoundError(
            f"the log of endpoint {spec.monitor.endpoint!r} holds no prediction from "
            f"{baseline.start} until {baseline.end}"
        )
    own = [name for name in (PREDICTION, SCORE) if name in columns]
    given = [name for name in columns if name not in own and not name.startswith(_TIME)]
    wanted = list(spec.monitor.columns) or given
    _require_free(spec.monitor.columns)
    lacking = [name for name in wanted if name not in columns]
    if lacking:
        raise SchemaMismatchError(
            f"the log has no input {lacking[0]!r}; it has: {', '.join(given)}"
        )
    spec = replace(
        spec, monitor=replace(spec.monitor, columns=tuple(wanted)), refs=(f"topic:{topic}",)
    )
    return _counted(spec, batches, freeze(batches, [*wanted, *own]), _TIME)


_TIME = "madang.time"  # no input is called so

# -- counting --------------------------------------------------------------------------------------


def _counted(spec: Spec, batches: Any, layout: Layout, timestamp: str | None) -> Frozen:
    total = Sketch(layout)
    windows: dict[int, Sketch] = {}
    for table in batches():
        total.add(table)
        if timestamp is None:
            continue
        for start, rows in parts(table, timestamp, spec.monitor.window_seconds):
            if start not in windows and len(windows) == MAX_WINDOWS:
                raise InvalidInputError(
                    f"the baseline has more than {MAX_WINDOWS} windows of "
                    f"{spec.monitor.window_seconds} s; choose longer ones, or a shorter baseline"
                )
            windows.setdefault(start, Sketch(layout)).add(rows)
    kept = tuple(windows[start] for start in sorted(windows))
    if (
        spec.monitor.baseline is not None
        and spec.monitor.baseline.timestamp
        and len(kept) < MIN_WINDOWS
    ):
        raise InvalidInputError(
            f"the baseline has {len(kept)} windows by {timestamp!r}, and fewer than {MIN_WINDOWS} "
            "don't say how windows vary; choose shorter ones, or leave timestamp out"
        )
    return Frozen(spec, total, kept)
