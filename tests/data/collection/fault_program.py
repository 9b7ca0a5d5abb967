"""What is done to a log while faults are injected: `python fault_program.py FOLDER SCENARIO`.

It prints what was acknowledged, and `refused` for what a full disk did not take.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from tests import faults

from madang.data.collection import TopicSettings, events
from madang.data.collection.local import LocalCollection
from madang.errors import OutOfSpaceError

KEYS = [b"a", b"b", b"c"]
LONG_AGO = datetime(2013, 1, 1, tzinfo=UTC)


def open_log(folder):
    return LocalCollection(Path(folder), "test", segment_bytes=900)


def batch(number):
    """The events of append `number`: two or three, of which one goes to each of two partitions."""
    at = [number * 3, number * 3 + 1, number * 3 + 2]
    return events([b"%d" % n + b"." * 100 for n in at], keys=[KEYS[n % 3] for n in at])


def say(*words):
    print(*words, flush=True)


def attempt(what, *words):
    try:
        what()
    except OutOfSpaceError:
        say("refused", *words)
    else:
        say("done", *words)


def append(log, numbers):
    for number in numbers:
        attempt(lambda number=number: log.append("t", batch(number)), "append", number)


def prepare(log, scenario):
    if scenario == "create":
        return
    settings = TopicSettings(compact=True) if scenario == "compaction" else None
    log.create_topic("t", partitions=2 if scenario == "append" else 1, settings=settings)
    for number in range(2 if scenario == "append" else 8):
        log.append("t", batch(number))


def act(log, scenario):
    if scenario == "append":
        append(log, range(2, 8))
    elif scenario == "retention":
        keep = TopicSettings(retention_bytes=1500)
        attempt(lambda: log.configure_topic("t", keep), "configure")
        append(log, range(8, 11))
        attempt(log.enforce, "enforce")
    elif scenario == "compaction":
        attempt(log.enforce, "enforce")
        append(log, range(8, 14))
        attempt(log.enforce, "enforce")
    elif scenario == "commit":
        member = log.consumer("t", "g")
        for offset in (5, 9, 14):
            attempt(lambda offset=offset: member.commit({0: offset}), "commit", offset)
    elif scenario == "create":
        kept = TopicSettings(retention_seconds=5)
        attempt(lambda: log.create_topic("t", partitions=2, settings=kept), "create")
        attempt(lambda: log.delete_topic("t"), "delete")


if __name__ == "__main__":
    log = open_log(sys.argv[1])
    prepare(log, sys.argv[2])
    faults.arm()
    act(log, sys.argv[2])
