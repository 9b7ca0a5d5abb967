"""A worker's counters, and all workers' counters as Prometheus text.

The text format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import msgspec

BUCKETS_SECONDS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip
_EXACT_ROWS = 16
_TRIES = 10
SUPERVISOR = "supervisor.json"
"""Beside the workers' files: what only their supervisor can count, and the counts of the ended."""


class Executions(msgspec.Struct):
    """Calls of the model with one size of batch."""

    count: int = 0
    seconds: float = 0.0

    def add(self, other: Executions) -> None:
        """Adds another worker's counts."""
        self.count += other.count
        self.seconds += other.seconds


class Counters(msgspec.Struct):
    """What was counted for one version behind one endpoint, or for feature reads.

    Attributes:
        requests: Those that a call of the model answered, be it by an error; the `…_seconds` of
            reading, waiting, predicting and writing are theirs.
        waited_seconds: From the arrival of each request to the start of its computation, summed;
            with the time in the connection's buffer, while the worker had other things to do.
        waited_buckets: The same, counted by `BUCKETS_SECONDS`.
        last_us: When a prediction was last asked for, in microseconds since 1970 UTC.
        shadows: Copies of requests that were computed for a rollout.
        shadows_dropped: Copies for which there was no time or room.
        batch_sizes: Rows of a call of the model to such calls; above 16 rows, by powers of two, so
            that clients can't make it grow.
    """

    predictions: int = 0
    rows: int = 0
    batches: int = 0
    seconds: float = 0.0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    errors: dict[str, int] = {}
    fail_seconds: float = 0.0
    requests: int = 0
    input_seconds: float = 0.0
    queue_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0
    waited_seconds: float = 0.0
    waited_buckets: list[int] = msgspec.field(
        default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1)
    )
    last_us: int = 0
    batch_sizes: dict[int, Executions] = {}
    shadows: int = 0
    shadows_dropped: int = 0

    def executed(  # noqa: PLR0917 - called for each batch, where keywords would cost
        self,
        rows: int,
        requests: int,
        reading: float,
        waiting: float,
        predicting: float,
        writing: float,
    ) -> None:
        """Counts a call of the model that answered so many requests, and where their time went.

        Times are in seconds. Each request waited for all of the call, so it counts for each;
        the others are sums over the requests.
        """
        self.batches += 1
        self.requests += requests
        self.input_seconds += reading
        self.queue_seconds += waiting
        self.infer_seconds += predicting * requests
        self.output_seconds += writing
        self.last_us = time.time_ns() // 1000
        if rows > _EXACT_ROWS:
            rows = 1 << (rows - 1).bit_length()
        found = self.batch_sizes.get(rows)
        if found is None:
            found = self.batch_sizes[rows] = Executions()
        found.count += 1
        found.seconds += predicting

    def waited(self, seconds: float) -> None:
        """Counts how long a request waited until its computation began."""
        self.waited_seconds += seconds
        self.waited_buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1

    def observe(self, seconds: float, rows: int) -> None:
        """Counts an answered prediction."""
        self.predictions += 1
        self.rows += rows
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1

    def error(self, status: int, seconds: float = 0.0) -> None:
        """Counts a refused or failed request."""
        self.errors[str(status)] = self.errors.get(str(status), 0) + 1
        self.fail_seconds += seconds
        self.last_us = time.time_ns() // 1000

    def add(self, other: Counters) -> None:
        """Adds another worker's counts."""
        self.predictions += other.predictions
        self.rows += other.rows
        self.batches += other.batches
        self.seconds += other.seconds
        self.fail_seconds += other.fail_seconds
        self.requests += other.requests
        self.input_seconds += other.input_seconds
        self.queue_seconds += other.queue_seconds
        self.infer_seconds += other.infer_seconds
        self.output_seconds += other.output_seconds
        self.waited_seconds += other.waited_seconds
        self.waited_buckets = [
            a + b for a, b in zip(self.waited_buckets, other.waited_buckets, strict=True)
        ]
        self.last_us = max(self.last_us, other.last_us)
        self.shadows += other.shadows
        self.shadows_dropped += other.shadows_dropped
        for rows, executions in other.batch_sizes.items():
            self.batch_sizes.setdefault(rows, Executions()).add(executions)
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        for status, count in other.errors.items():
            self.errors[status] = self.errors.get(status, 0) + count


class Snapshot(msgspec.Struct):
    """All counts of a worker; the keys are `ENDPOINT/VERSION`, empty where they are unknown.

    Attributes:
        settled: The supervisor's alone: the files whose counts it has taken over, and that it is
            about to remove.
    """

    versions: dict[str, Counters] = {}
    features: Counters = msgspec.field(default_factory=Counters)
    log_written: int = 0
    log_lost: int = 0
    log_queued: int = 0
    connections: int = 0
    workers: int = 0
    workers_added: int = 0
    workers_removed: int = 0
    settled: list[str] = []

    def of(self, endpoint: str, version: str) -> Counters:
        """The counters of a version behind an endpoint; made at first use."""
        return self.versions.setdefault(f"{endpoint}/{version}", Counters())

    def error(self, endpoint: str, version: str, status: int, seconds: float = 0.0) -> None:
        """Counts a refused or failed request."""
        self.of(endpoint, version).error(status, seconds)

    def add(self, other: Snapshot) -> None:
        """Adds another worker's counts."""
        for key, counters in other.versions.items():
            self.versions.setdefault(key, Counters()).add(counters)
        self.features.add(other.features)
        self.log_written += other.log_written
        self.log_lost += other.log_lost
        self.log_queued += other.log_queued
        self.connections += other.connections
        self.workers += other.workers
        self.workers_added += other.workers_added
        self.workers_removed += other.workers_removed


def merged(own: Snapshot, folder: Path, own_file: Path) -> Snapshot:
    """This worker's counts and what the others last wrote, those that ended included.

    The supervisor takes over the counts of workers that ended, so that a restarted worker never
    makes a counter fall.
    """
    for _ in range(_TRIES):
        try:
            return _merged(own, folder, own_file)
        except FileNotFoundError:
            continue  # its counts were taken over meanwhile
    return _merged(own, folder, own_file)


def _merged(own: Snapshot, folder: Path, own_file: Path) -> Snapshot:
    total = Snapshot()
    total.add(own)
    supervisor, settled = folder / SUPERVISOR, frozenset[str]()
    if supervisor.exists():  # before the others: what it settles later has a file until then
        found = read_snapshot(supervisor)
        total.add(found)
        settled = frozenset(found.settled)
    for file in folder.glob("*.json"):
        if file not in (own_file, supervisor) and file.name not in settled:
            total.add(read_snapshot(file))
    return total


def read_snapshot(file: Path) -> Snapshot:
    """What a worker last wrote of its counts.

    Raises:
        FileNotFoundError: It did not write any yet.
    """
    return msgspec.json.decode(file.read_bytes(), type=Snapshot)


def exposition(total: Snapshot) -> bytes:
    """Prometheus text of a snapshot."""
    lines: list[str] = []
    named = [(_labels(key), counters) for key, counters in sorted(total.versions.items())]
    _family(
        lines, "madang_predictions_total", "counter", "Answered predictions",
        [(labels, c.predictions) for labels, c in named],
    )  # fmt: skip
    _family(
        lines, "madang_prediction_rows_total", "counter", "Rows predicted",
        [(labels, c.rows) for labels, c in named],
    )  # fmt: skip
    _family(
        lines, "madang_model_calls_total", "counter", "Calls of the model; one may answer many",
        [(labels, c.batches) for labels, c in named],
    )  # fmt: skip
    _family(
        lines, "madang_prediction_errors_total", "counter", "Refused or failed requests",
        [(f'{labels},status="{s}"', n) for labels, c in named for s, n in sorted(c.errors.items())],
    )  # fmt: skip
    _histogram(
        lines, "madang_prediction_seconds", "From the whole request to its answer",
        [(labels, c.buckets, c.seconds) for labels, c in named],
    )  # fmt: skip
    _histogram(
        lines, "madang_prediction_queue_seconds", "From a request's arrival to its computation",
        [(labels, c.waited_buckets, c.waited_seconds) for labels, c in named],
    )  # fmt: skip
    _family(
        lines, "madang_shadows_total", "counter", "Copies of requests, for a rollout's shadow",
        [(f'{labels},fate="{fate}"', count) for labels, c in named if c.shadows or c.shadows_dropped
         for fate, count in (("computed", c.shadows), ("dropped", c.shadows_dropped))],
    )  # fmt: skip
    _features(lines, total.features)
    _family(
        lines, "madang_prediction_log_written_total", "counter", "Events in the prediction log",
        [("", total.log_written)],
    )  # fmt: skip
    _family(
        lines, "madang_prediction_log_lost_total", "counter", "Predictions that were not logged",
        [("", total.log_lost)],
    )  # fmt: skip
    _family(
        lines, "madang_prediction_log_queued", "gauge", "Predictions waiting for the log",
        [("", total.log_queued)],
    )  # fmt: skip
    _family(
        lines, "madang_connections", "gauge", "Open connections", [("", total.connections)]
    )  # fmt: skip
    if total.workers:  # a worker that was started by hand knows of itself alone
        _family(
            lines, "madang_workers", "gauge", "Inference workers", [("", total.workers)]
        )  # fmt: skip
        _family(
            lines, "madang_worker_scalings_total", "counter", "Workers added and removed by load",
            [('direction="up"', total.workers_added), ('direction="down"', total.workers_removed)],
        )  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def _family(
    lines: list[str], name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]
) -> None:
    lines += [f"# HELP {name} {text}.", f"# TYPE {name} {kind}"]
    lines += [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
              for labels, value in samples]  # fmt: skip


def _features(lines: list[str], counters: Counters) -> None:
    _family(
        lines, "madang_feature_reads_total", "counter", "Answered feature reads",
        [("", counters.predictions)],
    )  # fmt: skip
    _family(
        lines, "madang_feature_rows_total", "counter", "Entities whose features were read",
        [("", counters.rows)],
    )  # fmt: skip
    _family(
        lines, "madang_feature_read_errors_total", "counter", "Refused or failed feature reads",
        [(f'status="{status}"', n) for status, n in sorted(counters.errors.items())],
    )  # fmt: skip
    _histogram(
        lines, "madang_feature_read_seconds", "From the whole request to its answer",
        [("", counters.buckets, counters.seconds)],
    )  # fmt: skip


def _histogram(
    lines: list[str], name: str, text: str, named: list[tuple[str, list[int], float]]
) -> None:
    lines += [f"# HELP {name} {text}, in seconds.", f"# TYPE {name} histogram"]
    for labels, buckets, seconds in named:
        own, total = f"{{{labels}}}" if labels else "", 0
        for edge, count in zip((*BUCKETS_SECONDS, "+Inf"), buckets, strict=True):
            total += count
            edges = f'{labels},le="{edge}"' if labels else f'le="{edge}"'
            lines.append(f"{name}_bucket{{{edges}}} {total}")
        lines.append(f"{name}_sum{own} {seconds}")
        lines.append(f"{name}_count{own} {total}")


def _labels(key: str) -> str:
    endpoint, _, version = key.rpartition("/")
    return f'endpoint="{endpoint}",model_version="{version}"'
