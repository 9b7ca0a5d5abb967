"""The default event log: topics are folders of segment files on this machine.

<folder>/<project>/<topic>/
    topic.json              {"partitions": 3}
    0/ … 2/                 segments, their indexes, `lock`, `end`
    groups/<group>/         members and committed offsets
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from madang.data.collection import _groups
from madang.data.collection._batches import Batch, Spreader, check_name, check_partitions
from madang.data.collection._locks import Descriptor
from madang.data.collection._partition import Partition
from madang.data.collection._segments import sync_folder
from madang.data.collection.contract import Collection, Consumer, Topic
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
)

MAX_EVENT_BYTES = 16 << 20
SEGMENT_BYTES = 64 << 20
_LEFTOVER_SECONDS = 3600
_SYNC_THREADS = 8


class _OpenTopic:
    """A topic's open files; `check_present` says whether they still are the topic's."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.name = folder.name
        self.folder = folder
        try:
            # Held open, so that its inode can't come back as another topic of the same name.
            self._identity = Descriptor(folder / "topic.json", os.O_RDONLY)
            settings = json.loads((folder / "topic.json").read_bytes())
            count = int(settings["partitions"])
            self.partitions = [
                Partition(folder / str(number), number, segment_bytes) for number in range(count)
            ]
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no topic {folder.name!r}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{folder / 'topic.json'} is damaged ({error}); restore it from a backup"
            ) from error

    def present(self) -> bool:
        """Whether the folder still holds this topic, not none and not a later one."""
        try:
            return os.path.samestat(self._identity.path.stat(), os.fstat(self._identity.fd))
        except FileNotFoundError:
            return False

    def check_present(self) -> None:
        """Raises NotFoundError when the topic was deleted."""
        if not self.present():
            raise NotFoundError(f"topic {self.name!r} was deleted")

    def describe(self) -> Topic:
        """The topic as the contract shows it."""
        return Topic(
            self.name,
            len(self.partitions),
            tuple(part.first_offset for part in self.partitions),
            tuple(part.next_offset for part in self.partitions),
        )


class LocalCollection(Collection):
    """Topics in a folder, for many threads and processes of one machine.

    An event has at most 16 MiB, a key 64 KiB.
    """

    def __init__(self, folder: Path, project: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder / project
        self._segment_bytes = segment_bytes
        self._spreader = Spreader(MAX_EVENT_BYTES)
        self._topics: dict[str, _OpenTopic] = {}
        self._lock = threading.Lock()
        self._syncing: tuple[int, ThreadPoolExecutor] | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"segment_bytes"})
        folder = url.local_path(context.root) if url.path.strip("/") else context.home / "events"
        text = url.query.get("segment_bytes", str(SEGMENT_BYTES))
        if not text.isdigit() or int(text) < 1:
            raise ConfigurationError(f"local://?segment_bytes must be a positive number: {text!r}")
        return cls(folder, context.project, segment_bytes=int(text))

    # -- topics -------------------------------------------------------------------------------

    def create_topic(self, name: str, *, partitions: int = 1) -> Topic:
        check_name("topic", name)
        check_partitions(partitions)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        coming = self._folder / f"~new-{secrets.token_hex(8)}"
        _make_topic(coming, partitions)
        try:
            # A folder can be renamed over an empty one only, and a topic's is never empty.
            coming.rename(self._folder / name)
        except OSError as error:
            shutil.rmtree(coming)
            if not (self._folder / name).is_dir():
                raise
            raise AlreadyExistsError(f"topic {name!r} already exists") from error
        sync_folder(self._folder)
        return self.topic(name)

    def topics(self) -> list[Topic]:
        if not self._folder.is_dir():
            return []
        names = sorted(path.name for path in self._folder.iterdir() if path.name[0] != "~")
        found = []
        for name in names:
            try:
                found.append(self.topic(name))
            except NotFoundError:  # deleted since it was listed
                continue
        return found

    def topic(self, name: str) -> Topic:
        return self._open(name).describe()

    def delete_topic(self, name: str) -> None:
        try:
            topic = self._open(name)
        except NotFoundError:
            return
        with ExitStack() as held:
            for partition in topic.partitions:
                held.enter_context(partition.lock)
            if topic.present():
                topic.folder.rename(self._folder / f"~deleted-{secrets.token_hex(8)}")
                sync_folder(self._folder)
        with self._lock:
            self._topics.pop(name, None)
        self._sweep()

    # -- events -------------------------------------------------------------------------------

    def append(self, topic: str, events: Any) -> dict[int, tuple[int, int]]:
        opened = self._open(topic)
        parts = self._spreader.spread(events, len(opened.partitions))
        with ExitStack() as held:
            logs = {number: opened.partitions[number] for number in parts}
            for log in logs.values():  # by number, so that two appends can't wait for each other
                held.enter_context(log.lock)
            opened.check_present()
            for log in logs.values():
                log.open_tail()
            try:
                offsets = {number: log.write(parts[number]) for number, log in logs.items()}
                self._sync(list(logs.values()))
                for log in logs.values():
                    log.publish()
            except BaseException:
                for log in logs.values():
                    log.roll_back()
                raise
        return offsets

    def _sync(self, logs: list[Partition]) -> None:
        """Syncs all partitions of an append at once: the file system then commits them together."""
        if len(logs) == 1:
            logs[0].sync()
            return
        with self._lock:
            if self._syncing is None or self._syncing[0] != os.getpid():  # threads don't fork
                self._syncing = os.getpid(), ThreadPoolExecutor(_SYNC_THREADS, "madang-sync")
            threads = self._syncing[1]
        done = [threads.submit(log.sync) for log in logs]
        wait(done)  # all of them, before a failed one lets others take the locks
        for future in done:
            future.result()

    def read(self, topic: str, partition: int, offset: int, *, max_events: int = 10_000) -> Batch:
        opened = self._open(topic)
        if not 0 <= partition < len(opened.partitions):
            raise NotFoundError(
                f"topic {topic!r} has partitions 0 to {len(opened.partitions) - 1}; "
                f"there is no {partition}"
            )
        if offset < 0:
            raise InvalidInputError(f"an offset is 0 or more; found {offset}")
        return opened.partitions[partition].read(offset, max_events)

    def consumer(self, topic: str, group: str) -> Consumer:
        check_name("group", group)
        opened = self._open(topic)
        return _groups.LocalConsumer(opened, opened.folder / "groups" / group)

    def committed(self, topic: str, group: str) -> dict[int, int]:
        check_name("group", group)
        return _groups.read_committed(self._open(topic).folder / "groups" / group)

    # -- the engine ---------------------------------------------------------------------------

    def health(self) -> Health:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
            count = sum(path.name[0] != "~" for path in self._folder.iterdir())
        except OSError as error:
            return Health(False, str(error), "make the folder writable, or choose another one")
        if not os.access(self._folder, os.W_OK):
            return Health(False, f"{self._folder} is read-only", "make the folder writable")
        ok = free > 4 * self._segment_bytes
        detail = f"local event log, {count} topics, {free / 1e9:.1f} GB free"
        return Health(ok, detail, "" if ok else "make room on the disk")

    def close(self) -> None:
        with self._lock:
            self._topics.clear()
            if self._syncing is not None and self._syncing[0] == os.getpid():
                self._syncing[1].shutdown()
            self._syncing = None

    def _open(self, name: str) -> _OpenTopic:
        check_name("topic", name)
        topic = self._topics.get(name)
        if topic is not None and topic.present():
            return topic
        with self._lock:
            topic = self._topics.get(name)
            if topic is None or not topic.present():
                self._topics.pop(name, None)
                topic = _OpenTopic(self._folder / name, self._segment_bytes)
                self._topics[name] = topic
        return topic

    def _sweep(self) -> None:
        """Removes what was deleted, and what a process that died left half made."""
        for entry in self._folder.glob("~*"):
            try:
                old = time.time() - entry.stat().st_mtime > _LEFTOVER_SECONDS
                if old or entry.name.startswith("~deleted-"):
                    shutil.rmtree(entry)
            except FileNotFoundError:  # another process sweeps too
                continue


def _make_topic(folder: Path, partitions: int) -> None:
    """Makes a topic's folder, durable, under a name that nobody sees yet."""
    folder.mkdir()
    (folder / "groups").mkdir()
    for number in range(partitions):
        part = folder / str(number)
        part.mkdir()
        (part / "lock").touch()
        Partition(part, number, SEGMENT_BYTES)  # makes the first segment and the end
    settings = folder / "topic.json"
    settings.write_text(json.dumps({"partitions": partitions}), encoding="utf-8")
    Descriptor(settings, os.O_RDONLY).sync()
    for number in range(partitions):
        sync_folder(folder / str(number))
    sync_folder(folder)
