"""The partitioner against Kafka's own code, row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, strategies as st

from madang.data.collection._partitioner import murmur2


def kafka_murmur2(data):
    """org.apache.kafka.common.utils.Utils.murmur2, line by line."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for at in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[len(data) // 4 * 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@given(st.lists(st.none() | st.binary(max_size=40)), st.integers(0, 5))
def test_murmur2_is_kafkas(keys, skipped):
    array = pa.array(keys, pa.binary()).slice(skipped)
    expected = [kafka_murmur2(key or b"") for key in keys[skipped:]]
    assert murmur2(array).tolist() == expected
    assert murmur2(array).dtype == np.uint32
