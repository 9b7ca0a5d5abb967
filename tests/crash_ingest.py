"""Ingests in a process that kills itself at the n-th passing of a point (see test_loop.py)."""

from __future__ import annotations

import os
import signal
import sys

import madang
from madang.data.ingestion._record import Record
from madang.loop import ingest


def main(root, what, when, passings, batch_events, source="trips"):
    with madang.open(root) as stack:
        left = int(passings)

        def passed():
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def around(target, name):
            original = getattr(target, name)

            def wrapped(*args, **kwargs):
                if when == "before":
                    passed()
                result = original(*args, **kwargs)
                if when == "after":
                    passed()
                return result

            setattr(target, name, wrapped)

        if what in ("put", "write", "delete"):
            # The engine's: after it, the ledger doesn't know of it yet.
            around(stack.storage.engine, what)
        elif what == "landed":
            around(Record, "landed")
        else:
            consumer = stack.collection.consumer

            def joined(*args):
                member = consumer(*args)
                around(member, "commit")
                return member

            stack.collection.consumer = joined
        ingest(stack, source, "trips", batch_events=int(batch_events))


if __name__ == "__main__":
    main(*sys.argv[1:])
