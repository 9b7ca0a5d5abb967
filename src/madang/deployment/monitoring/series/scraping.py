"""What this project's own processes count, gathered into the series."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from madang.deployment.monitoring.series.contract import (
    SAMPLES,
    Labels,
    Matcher,
    SampleSource,
    SeriesStore,
)

if TYPE_CHECKING:
    from madang.stack import Stack

SCRAPE_SECONDS = 15.0
RETENTION_SECONDS = 35 * 86_400
"""A month of error budget, and some days to look back at it."""

_log = logging.getLogger("madang.monitoring")
_LABELS = pa.map_(pa.string(), pa.string())


def table(rows: Sequence[tuple[str, Mapping[str, str], float]], time_ms: int) -> pa.Table:
    """Samples of one time, from name, labels and value."""
    return pa.table(
        {
            "name": [name for name, _, _ in rows],
            "labels": pa.array([list(labels.items()) for _, labels, _ in rows], _LABELS),
            "time": pa.array([time_ms * 1000] * len(rows), pa.timestamp("us", tz="UTC")),
            "value": pa.array([float(value) for _, _, value in rows], pa.float64()),
        },
        schema=SAMPLES,
    )


def exposed(text: str, time_ms: int) -> pa.Table:
    """The samples of a text in Prometheus' exposition format, at one time."""
    from prometheus_client.parser import text_string_to_metric_families

    found = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    return table(found, time_ms)


class InferenceSource:
    """What the inference workers of this machine count, those that ended included.

    Args:
        folder: Where they write it.
    """

    name = "inference"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def text(self) -> str:
        """As `/metrics` of a worker has it."""
        from madang.deployment.serving._metrics import Snapshot, exposition, merged

        return exposition(merged(Snapshot(), self._folder, self._folder / "none")).decode()

    def samples(self) -> pa.Table:
        return exposed(self.text(), 0)


class ControlSource:
    """What the control process takes of the machine."""

    name = "control"

    def text(self) -> str:
        """In Prometheus' exposition format, with the names that its client libraries use."""
        import psutil

        process = psutil.Process(os.getpid())
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info().rss
            values = [
                ("process_cpu_seconds_total", "counter", "User and system time, in seconds",
                 times.user + times.system),
                ("process_resident_memory_bytes", "gauge", "Memory in use, in bytes", memory),
                ("process_start_time_seconds", "gauge", "Start, in seconds since 1970 UTC",
                 process.create_time()),
                ("process_open_fds", "gauge", "Open file descriptors", process.num_fds()),
            ]  # fmt: skip
        lines = []
        for name, kind, about, value in values:
            lines += [f"# HELP {name} {about}.", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join([*lines, ""])

    def samples(self) -> pa.Table:
        return exposed(self.text(), 0)


def sources_of(stack: Stack) -> list[SampleSource]:
    """The processes of a project on this machine."""
    from madang.deployment.serving.local import LocalServing

    found: list[SampleSource] = [ControlSource()]
    if isinstance(stack.serving, LocalServing):
        found.append(InferenceSource(stack.home / "serving" / "metrics"))
    return found


def scrape(store: SeriesStore, sources: Sequence[SampleSource], time_ms: int) -> int:
    """Appends what every source says now, with the source's name as `job`, in one piece.

    As with Prometheus, `up` is 1 for a source that answered and 0 for one that did not; why it
    did not is logged.

    Returns:
        How many samples were appended.
    """
    parts, up = [], []
    for source in sources:
        try:
            parts.append(_of_job(source.samples(), source.name, time_ms))
            up.append(("up", {"job": source.name}, 1.0))
        except Exception:
            _log.exception("the metrics of %s could not be read", source.name)
            up.append(("up", {"job": source.name}, 0.0))
    return store.append(pa.concat_tables([*parts, table(up, time_ms)]))


def _of_job(samples: pa.Table, job: str, time_ms: int) -> pa.Table:
    labels = [[*pairs, ("job", job)] for pairs in samples["labels"].to_pylist()]
    times = pa.array([time_ms * 1000] * len(labels), pa.timestamp("us", tz="UTC"))
    columns = [samples["name"], pa.array(labels, _LABELS), times, samples["value"]]
    return pa.table(columns, schema=SAMPLES)


def append_new(store: SeriesStore, samples: pa.Table) -> int:
    """Appends those samples that the store does not have with the same value; repeating it is safe.

    For sources that give all of a time again, such as a monitor its windows, of which one may have
    been judged again meanwhile.

    Args:
        store: Where they go.
        samples: With the columns `SAMPLES`.

    Returns:
        How many were new or differed.
    """
    if samples.num_rows == 0:
        return 0
    times = pc.divide(samples["time"].cast(pa.int64()), 1000)
    span = (pc.min(times).as_py(), pc.max(times).as_py())
    known = {
        (series.labels, time): value
        for name in pc.unique(samples["name"]).to_pylist()
        for series in store.select([Matcher("__name__", "=", name)], *span)
        for time, value in zip(series.times_ms.tolist(), series.values.tolist(), strict=True)
    }
    columns = zip(
        samples["name"].to_pylist(), samples["labels"].to_pylist(), times.to_pylist(),
        samples["value"].to_pylist(), strict=True,
    )  # fmt: skip
    missing = [
        not _equal(known.get((_named(name, labels), time)), value)
        for name, labels, time, value in columns
    ]
    return store.append(samples.filter(pa.array(missing)))


def _named(name: str, labels: Sequence[tuple[str, str]]) -> Labels:
    return tuple(sorted([("__name__", name), *(pair for pair in labels if pair[1])]))


def _equal(one: float | None, other: float) -> bool:
    return one == other or (one is not None and math.isnan(one) and math.isnan(other))
