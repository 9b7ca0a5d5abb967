"""Durable append and read of events beside the raw limit, in one run.

    python benchmarks/collection.py [--batches 300] [--kafka host:9092] [--json]

200-byte events in batches of 1000. The raw limit of the local log is a segment file by hand (the
same bytes, a CRC-32 and an fdatasync for each batch); the raw limit of Kafka is confluent-kafka
alone with acks=all (with `--kafka`, or where .ci/servers/kafka.sh has been run). Each pair takes
turns, so that a busy machine hits both alike. Figures are millions of events a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

from madang import engines
from madang.data.collection import connect, events

ROWS, BYTES, ROUNDS = 1000, 200, 5
sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--kafka", help="host:port of a broker")
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        figures |= local(Path(folder), settings.batches)
        with broker(settings.kafka, Path(folder)) as address:
            if address:
                figures |= kafka(Path(folder), address, settings.batches)
            else:
                print("no Kafka: give --kafka, or run .ci/servers/kafka.sh", file=sys.stderr)
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:44} {value:8.3f}")


def timed(work, batches: int) -> float:
    start = time.perf_counter()
    work()
    return batches * ROWS / (time.perf_counter() - start) / 1e6


def in_turns(works, batches: int) -> list[float]:
    """The best rate of each, over rounds in which they take turns."""
    best = [0.0] * len(works)
    for _ in range(ROUNDS):
        for at, work in enumerate(works):
            best[at] = max(best[at], timed(work, batches // ROUNDS))
    return best


def local(folder: Path, batches: int) -> dict[str, float]:
    log = connect(f"local:///{folder.resolve()}/log", engines.Context("bench", folder))
    log.create_topic("one")
    log.create_topic("four", partitions=4)
    contents = [os.urandom(BYTES) for _ in range(ROWS)]
    batch = events(contents)
    keyed = events(contents, keys=[b"key-%d" % at for at in range(ROWS)])
    count = batches // ROUNDS

    def ours():
        for _ in range(count):
            log.append("one", batch)

    def spread():
        for _ in range(count):
            log.append("four", keyed)

    def by_hand():
        body = b"".join(struct.pack("<I", BYTES) + content for content in contents)
        for _ in range(count):
            os.write(file, struct.pack("<II", len(body), zlib.crc32(body)) + body)
            os.fdatasync(file)

    def read():
        offset, end = 0, count * ROWS
        while offset < end:
            offset += log.read("one", 0, offset).num_rows

    file = os.open(folder / "by_hand", os.O_WRONLY | os.O_CREAT)
    try:
        written, four, raw = in_turns([ours, spread, by_hand], batches)
    finally:
        os.close(file)
    (reading,) = in_turns([read], batches)
    return {
        "segment file by hand, append": raw,
        "local log, append": written,
        "local log, append / by hand": written / raw,
        "local log, append by key to 4 partitions": four,
        "local log, read": reading,
    }


def kafka(folder: Path, address: str, batches: int) -> dict[str, float]:
    from confluent_kafka import Producer

    collection = connect(f"kafka://{address}", engines.Context(f"bench-{os.getpid()}", folder))
    collection.create_topic("t")
    topic = f"bench-{os.getpid()}.t"
    contents = [os.urandom(BYTES) for _ in range(ROWS)]
    batch = events(contents)
    count = batches // ROUNDS
    config = {"bootstrap.servers": address, "acks": "all", "enable.idempotence": True}
    producer = Producer({**config, "linger.ms": 1})
    delivered: list[int] = []

    def report(error, message):
        if error is not None:
            raise RuntimeError(error)
        delivered.append(message.offset())

    def alone():
        for _ in range(count):
            for content in contents:
                producer.produce(topic, content, partition=0, on_delivery=report)
            producer.flush()

    def ours():
        for _ in range(count):
            collection.append("t", batch)

    alone(), ours()  # connections, and the broker's just-in-time compiler
    written, raw = in_turns([ours, alone], batches)
    collection.delete_topic("t")
    collection.close()
    return {
        "confluent-kafka alone, append": raw,
        "Kafka, append": written,
        "Kafka, append / alone": written / raw,
    }


@contextlib.contextmanager
def broker(address: str | None, folder: Path):
    """The given broker, or the one of the tests, or none."""
    from tests.servers import kafka as server

    if address or not server.available():
        yield address
        return
    with server.started(folder.resolve()) as own:
        yield own


if __name__ == "__main__":
    main()
