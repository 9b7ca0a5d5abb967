"""What the processes do that tests kill; started from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import madang
from madang import engines
from madang.data.collection import _partition, cloudevents, connect, events
from madang.data.collection.inbox import Inbox
from madang.data.collection.local import LocalCollection

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class Program:
    """A running program; what it said is in a file, so that nothing is lost with it."""

    def __init__(self, target, folder, *arguments):
        self.said = Path(folder) / f"said-{time.time_ns()}"
        self.said.touch()
        self.process = _context.Process(target=target, args=(folder, self.said, *arguments))
        self.process.start()

    def wait_for(self, count, *, seconds=60):
        """Waits until it has said `count` lines."""
        deadline = time.monotonic() + seconds
        while len(self.lines()) < count:
            assert self.process.is_alive(), self.process.exitcode
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.005)

    def lines(self):
        """What it has said, as lists of words."""
        whole = self.said.read_text().rpartition("\n")[0]
        return [line.split() for line in whole.splitlines()]

    def kill(self):
        """Kills it if it didn't die by itself, and returns what it has said."""
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL
        return self.lines()


def _say(said, *words):
    fd = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def append(folder, said, name, segment_bytes):
    """Appends for ever, and says `PARTITION FIRST LAST NUMBER` of what was acknowledged."""
    log = LocalCollection(folder, "test", segment_bytes=segment_bytes)
    keys = [b"a", b"b", b"c", b"d", b"e", b"f", None]
    at = 0
    while True:
        batch = [b"%s %d" % (name.encode(), number) for number in range(at, at + len(keys))]
        placed = log.append("t", events(batch, keys=keys))
        for partition, (first, last) in placed.items():
            _say(said, partition, first, last, at)
        at += len(keys)


def consume(folder, said, url=None, project="test"):
    """Polls 30 events, commits 10 of them, and waits."""
    context = engines.Context(project, folder)
    member = connect(url or f"local:///{folder}", context).consumer("t", "g")
    batch = member.poll(max_events=30, timeout_seconds=30)
    member.commit({0: 10})
    _say(said, batch.num_rows, *member.position().items())
    signal.pause()


def change(root, said, action, before, *arguments):
    """Dies in the middle of a change of a topic: before it was made, or after."""
    stack = madang.open(root)
    engine = stack.collection.engine
    real = getattr(engine, action)

    def dies(*given, **options):
        if not before:
            real(*given, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(engine, action, dies)
    getattr(stack.collection, action)("t", *arguments)


def receive(root, said, found, failing=None, after=True):
    """Receives CloudEvents, and dies before it could answer, or at a step of the local log."""
    stack = madang.open(root)
    if failing is not None:
        real = getattr(_partition.Partition, failing)

        def dies(*given):
            if after:
                real(*given)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(_partition.Partition, failing, dies)
    Inbox(stack).receive("t", cloudevents.read({"content-type": cloudevents.BATCH}, found.encode()))
    os.kill(os.getpid(), signal.SIGKILL)
