"""The closed loop: what calls what, from event to prediction and back.

    event → topic → dataset version → feature view → training set → pipeline run → model version
    → endpoint → rollout → prediction → outcome → monitor → alert → trigger → pipeline run

This version holds the forward half that joins components: `ingest` moves a topic's events through
validation into a dataset. Training sets are the feature store's, runs are the pipelines', model
versions the registry's, endpoints and predictions the serving component's.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from madang.errors import ConflictError, DataContractError, NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.data.collection import Consumer, Topic
    from madang.data.validation import DataContract, Report
    from madang.stack import Stack

QUARANTINE = "_quarantine"
"""A dataset's bad rows are in the dataset of its name with this ending."""

_OFFSETS = "madang.offsets"

# A group of a broker takes some seconds to give out its partitions.
_JOIN_SECONDS = 30


@dataclass(frozen=True)
class Ingested:
    """What one call of `ingest` did.

    Attributes:
        events: How many events it read.
        valid: Rows that went into the dataset.
        quarantined: Rows that went into the quarantine dataset, with their reasons.
        versions: The versions that it wrote: dataset name to numbers.
        reasons: How many rows each check set aside.
    """

    events: int
    valid: int
    quarantined: int
    versions: Mapping[str, list[int]]
    reasons: Mapping[str, int]


def ingest(
    stack: Stack,
    topic: str,
    dataset: str | None = None,
    *,
    batch_events: int = 25_000,
    on_batch: Callable[[Report], None] | None = None,
) -> Ingested:
    """Moves a topic's new events, validated, into a dataset, and the bad ones to its quarantine.

    The dataset's contract is `contracts/DATASET.yaml`. Each written version holds the offsets up to
    which it took the topic, so a call that was killed between two writes is repeated without
    losing or doubling a row.

    Args:
        stack: The project.
        topic: Its events are JSON objects.
        dataset: Default: the dataset of the topic's name.
        batch_events: How many events at once; the memory that it needs grows with it.
        on_batch: Called with each batch's report.

    Raises:
        NotFoundError: There is no such topic, or no contract for the dataset.
        DataContractError: A check with severity "block" failed; nothing of that batch was written.
        ConflictError: Another process ingests this topic into this dataset now.
    """
    from madang.data.validation.contract_file import contract_path, read_contract

    name = dataset or topic
    contract = read_contract(contract_path(stack.root, name))
    stack.collection.topic(topic)  # says that it isn't there before anything is made
    with _alone(stack, topic, name):
        return _ingest(stack, topic, name, contract, batch_events, on_batch)


@contextmanager
def _alone(stack: Stack, topic: str, dataset: str) -> Iterator[None]:
    """Two at once would each go by what the other had written when it began."""
    folder = stack.home / "ingest"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{topic}.{dataset}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"topic {topic!r} is being ingested into dataset {dataset!r}; let that one finish"
            ) from error
        yield


def _ingest(  # noqa: PLR0917 - the arguments of `ingest`, checked
    stack: Stack,
    topic: str,
    name: str,
    contract: DataContract,
    batch_events: int,
    on_batch: Callable[[Report], None] | None,
) -> Ingested:
    writers = {table: _Writer(stack, table, topic) for table in (name, name + QUARANTINE)}
    events = 0
    reasons: dict[str, int] = {}
    consumer = stack.collection.consumer(topic, f"ingest.{name}")
    try:
        for batch in _batches(consumer, stack.collection.topic(topic), batch_events):
            for part, missing in _parts(batch, list(writers.values())):
                report = _ingest_part(stack, part, contract, missing, valid=writers[name])
                _count(report, reasons)
                if on_batch:
                    on_batch(report)
            events += batch.num_rows
            consumer.commit()
    finally:
        consumer.close()
    valid, bad = writers[name], writers[name + QUARANTINE]
    versions = {w.table: w.versions for w in (valid, bad) if w.versions}
    return Ingested(events, valid.rows, bad.rows, versions, reasons)


def settle(stack: Stack) -> None:
    """Writes down the outcome of what a killed process left open in outside systems."""
    from madang.ledger import Settles

    for component in (stack.storage, stack.collection, stack.features):
        if isinstance(component, Settles):
            component.settle()


def _batches(consumer: Consumer, topic: Topic, size: int) -> Iterator[pa.RecordBatch]:
    """The events up to where the topic ended when this began, so that it ends under a steady load."""
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        batch = consumer.poll(max_events=size, timeout_seconds=0.2)
        if batch.num_rows:
            yield batch
        position = consumer.position()
        if position:
            if all(offset >= topic.next_offsets[p] for p, offset in position.items()):
                return
        elif time.monotonic() > deadline:
            raise ConflictError(
                f"other ingestions hold all {topic.partitions} partitions of topic {topic.name!r}; "
                "let them finish"
            )


def _parts(
    batch: pa.RecordBatch, writers: list[_Writer]
) -> Iterator[tuple[pa.RecordBatch, list[_Writer]]]:
    """The events by which writers don't hold them yet: after a kill, some may and some may not."""
    import numpy as np
    import pyarrow as pa

    partitions, offsets = batch["partition"].to_numpy(), batch["offset"].to_numpy()
    held = np.zeros(batch.num_rows, dtype=np.int64)
    for bit, writer in enumerate(writers):
        for partition in np.unique(partitions):
            taken = (partitions == partition) & (offsets < writer.taken.get(str(partition), 0))
            held[taken] |= 1 << bit
    # What one writer holds already comes first: were later events written before it and the process
    # killed then, the version's offsets would say that the earlier ones are there too.
    for code in np.unique(held)[::-1]:
        missing = [w for bit, w in enumerate(writers) if not code >> bit & 1]
        if missing:
            yield batch.filter(pa.array(held == code)), missing


def _ingest_part(
    stack: Stack,
    batch: pa.RecordBatch,
    contract: DataContract,
    missing: list[_Writer],
    *,
    valid: _Writer,
) -> Report:

    outcome = stack.validation.validate(batch, contract)
    if outcome.report.blocked:
        failed = [r for r in outcome.report.results if not r.ok and r.check.severity == "block"]
        raise DataContractError(
            f"dataset {contract.dataset!r}: "
            + "; ".join(
                f"{r.check.kind} of {r.check.column or 'rows'}: {r.message}" for r in failed
            )
            + "; nothing of this batch was written"
        )
    for writer in missing:
        writer.write(outcome.valid if writer is valid else outcome.quarantined, batch)
    return outcome.report


def _count(report: Report, reasons: dict[str, int]) -> None:
    for result in report.results:
        if result.failed and result.check.severity == "quarantine":
            key = f"{result.check.column or 'row'}: {result.check.kind}"
            reasons[key] = reasons.get(key, 0) + result.failed


class _Writer:
    """Writes a topic's rows to one table, and knows how far it has come."""

    def __init__(self, stack: Stack, table: str, topic: str) -> None:
        self.table, self.rows = table, 0
        self.versions: list[int] = []
        self._storage = stack.storage
        self._topic = topic
        self.taken = self._progress()

    def _progress(self) -> dict[str, int]:
        """Partition to the next offset, from the metadata of the table's versions."""
        found: dict[str, int] = {}
        try:
            versions = self._storage.versions(self.table)
        except NotFoundError:
            return found
        for version in versions:
            offsets = json.loads(version.metadata.get(_OFFSETS, "{}")).get(self._topic, {})
            for partition, offset in offsets.items():
                found[partition] = max(offset, found.get(partition, 0))
        return found

    def write(self, rows: pa.Table, batch: pa.RecordBatch) -> None:
        """Writes rows that were made from `batch`, and with them how far they go."""
        if not rows.num_rows:
            return
        spans = _spans(batch)
        offsets = {p: last + 1 for p, (_, last) in spans.items()}
        version = self._storage.write(
            self.table,
            rows,
            metadata={_OFFSETS: json.dumps({self._topic: offsets})},
            inputs=[f"topic:{self._topic}/{p}@{a}-{b}" for p, (a, b) in spans.items()],
        )
        self.versions.append(version)
        self.rows += rows.num_rows
        self.taken.update(offsets)


def _spans(batch: pa.RecordBatch) -> dict[str, Any]:
    """Partition to the first and last offset in a batch."""
    import pyarrow as pa

    grouped = (
        pa.table({"p": batch["partition"], "o": batch["offset"]})
        .group_by("p")
        .aggregate([("o", "min"), ("o", "max")])
    )
    return {
        str(p): (first, last)
        for p, first, last in zip(
            grouped["p"].to_pylist(),
            grouped["o_min"].to_pylist(),
            grouped["o_max"].to_pylist(),
            strict=True,
        )
    }
