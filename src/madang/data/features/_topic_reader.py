"""A topic's partitions read in step, by the times of their events.

A stream has one clock. Were one partition read to its end before the next one is begun, the events of
the others would all be late.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from madang.data.collection import Collection
from madang.errors import ConflictError


class TopicReader:
    """Reads the events that a topic has when this is made.

    Args:
        collection: Has the topic.
        topic: Its name.
        offsets: Partition to the next offset to read; partitions that are missing begin at the
            first event that is kept.

    Raises:
        NotFoundError: There is no such topic.
        ConflictError: The topic ends before an offset: it is another one of the same name.
    """

    def __init__(self, collection: Collection, topic: str, offsets: dict[int, int]) -> None:
        known = collection.topic(topic)
        self._collection, self._topic = collection, topic
        self._ends = known.next_offsets
        self.offsets = {p: offsets.get(p, known.first_offsets[p]) for p in range(known.partitions)}
        self.missed = 0
        for partition, offset in self.offsets.items():
            first, end = known.first_offsets[partition], self._ends[partition]
            if offset > end:
                raise ConflictError(
                    f"the stream has read partition {partition} of topic {topic!r} up to offset "
                    f"{offset}, and the topic ends at {end}: it was deleted and made anew; begin "
                    "another stream"
                )
            self.missed += max(0, first - offset)
            self.offsets[partition] = max(offset, first)

    def next(self, max_events: int) -> pa.RecordBatch | None:
        """The next events of all partitions, or `None` at the end; moves `offsets`."""
        behind = [p for p, offset in self.offsets.items() if offset < self._ends[p]]
        chunks = {p: self._read(p, max_events) for p in behind}
        # Behind the last event there may be a gap, where older events of a key were removed.
        chunks = {p: chunk for p, chunk in chunks.items() if chunk.num_rows}
        if not chunks:
            return None
        # A partition's events of one batch are taken up to where the slowest partition has come.
        times = {p: np.maximum.accumulate(_times(chunk)) for p, chunk in chunks.items()}
        unfinished = [times[p][-1] for p, chunk in chunks.items() if not self._is_last(p, chunk)]
        limit = min(unfinished, default=max(part[-1] for part in times.values()))
        parts, orders = [], []
        for partition, chunk in chunks.items():
            count = int(np.searchsorted(times[partition], limit, side="right"))
            if count:
                parts.append(chunk.slice(0, count))
                orders.append(times[partition][:count])
                self.offsets[partition] = chunk["offset"][count - 1].as_py() + 1
        # Stable, and by the latest time so far: each partition keeps its order.
        order = np.argsort(np.concatenate(orders), kind="stable")
        return pa.concat_batches(parts).take(pa.array(order))

    def _read(self, partition: int, max_events: int) -> pa.RecordBatch:
        chunk = self._collection.read(
            self._topic, partition, self.offsets[partition], max_events=max_events
        )
        return chunk.slice(0, np.searchsorted(chunk["offset"].to_numpy(), self._ends[partition]))

    def _is_last(self, partition: int, chunk: pa.RecordBatch) -> bool:
        return bool(chunk["offset"][-1].as_py() + 1 >= self._ends[partition])


def _times(chunk: pa.RecordBatch) -> np.ndarray:
    times: np.ndarray = chunk["timestamp"].cast(pa.int64()).to_numpy()
    return times
