"""Kafka's default partitioner, for a whole column of keys at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def partition_of_keys(keys: pa.Array, partitions: int) -> npt.NDArray[np.int64]:
    """Kafka's default partitioner: `(murmur2(key) & 0x7fffffff) % partitions`, for all rows.

    The same on every engine, so that a key keeps its partition when a topic moves to Kafka.
    Source: `org.apache.kafka.clients.producer.internals.BuiltInPartitioner.partitionForKey`.
    """
    return (murmur2(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def murmur2(keys: pa.Array) -> npt.NDArray[np.uint32]:
    """MurmurHash2, 32 bits, seed 0x9747b28c, of each key (binary array); a null hashes as empty.

    Source: Austin Appleby's MurmurHash2 as in `org.apache.kafka.common.utils.Utils.murmur2`.
    """
    buffers = keys.buffers()
    offsets = np.frombuffer(buffers[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    if keys.null_count:
        lengths[keys.is_null().to_numpy(zero_copy_only=False)] = 0
    order = np.argsort(-lengths, kind="stable")  # longest first: the rows still at work lead
    start, length = offsets[:-1][order].astype(np.int64), lengths[order]
    hashed = np.uint32(0x9747B28C) ^ length.astype(np.uint32)
    _mix_words(hashed, data, start, length)
    _mix_rest(hashed, data, start, length)
    hashed ^= hashed >> np.uint32(13)
    hashed *= _M
    hashed ^= hashed >> np.uint32(15)
    result = np.empty_like(hashed)
    result[order] = hashed
    return result


_M = np.uint32(0x5BD1E995)


def _mix_words(
    hashed: npt.NDArray[np.uint32],
    data: npt.NDArray[np.uint8],
    start: npt.NDArray[np.int64],
    length: npt.NDArray[np.int32],
) -> None:
    words = length >> 2
    for word in range(int(words[0]) if len(words) else 0):
        rows = int(np.searchsorted(-words, -word))
        at = start[:rows] + 4 * word
        k = data[at].astype(np.uint32)
        for byte in (1, 2, 3):
            k |= data[at + byte].astype(np.uint32) << np.uint32(8 * byte)
        k *= _M
        k ^= k >> np.uint32(24)
        k *= _M
        hashed[:rows] *= _M
        hashed[:rows] ^= k


def _mix_rest(
    hashed: npt.NDArray[np.uint32],
    data: npt.NDArray[np.uint8],
    start: npt.NDArray[np.int64],
    length: npt.NDArray[np.int32],
) -> None:
    rest = length & 3
    base = start + (length & ~np.int32(3))
    for byte in (2, 1, 0):
        rows = np.flatnonzero(rest > byte)
        hashed[rows] ^= data[base[rows] + byte].astype(np.uint32) << np.uint32(8 * byte)
    hashed[rest > 0] *= _M
