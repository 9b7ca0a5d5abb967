"""The default event log: topics are folders of segment files on this machine.

<folder>/<project>/<topic>/
    topic.json              {"partitions": 3}
    settings.json           what it keeps, where it was told
    0/ … 2/                 segments, their indexes, `lock`, `end`, `upkeep`
    groups/<group>/         members and committed offsets
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from madang.data.collection import _compaction, _groups, _retention, _topic_files
from madang.data.collection._batches import (
    Batch,
    Spreader,
    check_keys,
    check_name,
    check_partitions,
    microseconds,
    room_bytes,
)
from madang.data.collection._partition import Partition
from madang.data.collection._segments import sync_folder
from madang.data.collection._space import full_disk_told
from madang.data.collection._topic_files import OpenTopic
from madang.data.collection.contract import Collection, Consumer, Topic, TopicSettings
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    InvalidInputError,
    NotFoundError,
    OutOfSpaceError,
)

MAX_EVENT_BYTES = 16 << 20
SEGMENT_BYTES = 64 << 20
MIN_FREE_BYTES = 256 << 20
"""At so few free bytes `append` refuses, rather than fill the disk."""
_LEFTOVER_SECONDS = 3600
_SYNC_THREADS = 8


class LocalCollection(Collection):
    """Topics in a folder, for many threads and processes of one machine.

    An event has at most 16 MiB, a key 64 KiB.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self._folder = folder / project
        self._segment_bytes = segment_bytes
        self._min_free_bytes = min_free_bytes
        self._spreader = Spreader(MAX_EVENT_BYTES)
        self._topics: dict[str, OpenTopic] = {}
        self._lock = threading.Lock()
        self._syncing: tuple[int, ThreadPoolExecutor] | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        numbers = {"segment_bytes": SEGMENT_BYTES, "min_free_bytes": MIN_FREE_BYTES}
        url.check_options(set(numbers))
        folder = url.local_path(context.root) if url.path.strip("/") else context.home / "events"
        for option in numbers.keys() & url.query.keys():
            text = url.query[option]
            if not text.isdecimal() or int(text) < 1:
                raise ConfigurationError(f"local://?{option} must be a positive number: {text!r}")
            numbers[option] = int(text)
        return cls(folder, context.project, **numbers)

    # -- topics -------------------------------------------------------------------------------

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: TopicSettings | None = None
    ) -> Topic:
        check_name("topic", name)
        check_partitions(partitions)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        coming = self._folder / f"~new-{secrets.token_hex(8)}"
        with full_disk_told(f"making topic {name!r}", self._folder):
            _topic_files.make(coming, partitions, self._segment_bytes, settings)
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

    def configure_topic(self, name: str, settings: TopicSettings) -> Topic:
        topic = self._open(name)
        with topic.partitions[0].lock:  # which whoever deletes the topic takes too
            topic.check_present()
            with full_disk_told(f"configuring topic {name!r}", self._folder):
                _topic_files.configure(topic.folder, settings)
        return topic.describe()

    def topics(self) -> list[Topic]:
        if not self._folder.is_dir():
            return []
        names = sorted(path.name for path in self._folder.iterdir() if path.name[0] != "~")
        found = []
        for name in names:
            try:
                found.append(_described(self._open(name), settled=False))
            except NotFoundError:  # deleted since it was listed
                continue
        return found

    def topic(self, name: str) -> Topic:
        return _described(self._open(name), settled=True)

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
        parts = self._spreader.spread(events, len(opened.partitions), room_bytes=room_bytes(topic))
        settings = opened.settings
        if settings.compact:
            check_keys(topic, parts)
        self._check_space(topic)
        with ExitStack() as held, full_disk_told(f"append to topic {topic!r}", self._folder):
            logs = {number: opened.partitions[number] for number in parts}
            for log in logs.values():  # by number, so that two appends can't wait for each other
                held.enter_context(log.lock)
            opened.check_present()
            for log in logs.values():
                log.open_tail()
                if log.rolled:
                    _retention.retain(log, settings)
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
        found = self._partition(topic, partition)
        if offset < 0:
            raise InvalidInputError(f"an offset is 0 or more; found {offset}")
        return found.read(offset, max_events)[0]

    def offset_at(self, topic: str, partition: int, timestamp: datetime) -> int:
        return self._partition(topic, partition).offset_at(microseconds(timestamp))

    def _partition(self, topic: str, number: int) -> Partition:
        partitions = self._open(topic).partitions
        if not 0 <= number < len(partitions):
            raise NotFoundError(
                f"topic {topic!r} has partitions 0 to {len(partitions) - 1}; there is no {number}"
            )
        return partitions[number]

    def consumer(self, topic: str, group: str) -> Consumer:
        check_name("group", group)
        opened = self._open(topic)
        return _groups.LocalConsumer(opened, opened.folder / "groups" / group)

    def committed(self, topic: str, group: str) -> dict[int, int]:
        check_name("group", group)
        return _groups.read_committed(self._open(topic).folder / "groups" / group)

    # -- space --------------------------------------------------------------------------------

    def enforce(self) -> None:
        """Also compacts, reading each compacted topic of which half is new."""
        for described in self.topics():
            try:
                topic = self._open(described.name)
                for partition in topic.partitions:
                    with partition.lock:
                        topic.check_present()
                        partition.open_tail()
                        _retention.retain(partition, topic.settings)
                    if topic.settings.compact:
                        with full_disk_told(f"compacting topic {topic.name!r}", self._folder):
                            _compaction.compact(partition, topic.settings, topic.check_present)
            except NotFoundError:  # deleted since it was listed
                continue

    def _check_space(self, topic: str) -> None:
        """Leaves the machine its last bytes: a full disk stops more than this log."""
        found = os.statvfs(self._folder)
        free = found.f_bavail * found.f_frsize
        if free < self._min_free_bytes:
            raise OutOfSpaceError(
                f"append to topic {topic!r} was refused: {free} bytes are free for {self._folder} "
                f"and {self._min_free_bytes} are kept free (local://?min_free_bytes=); "
                "make room, or let topics keep less: madang topics configure"
            )

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
        ok = free > self._min_free_bytes + 4 * self._segment_bytes
        detail = f"local event log, {count} topics, {free / 1e9:.1f} GB free"
        return Health(ok, detail, "" if ok else "make room on the disk")

    def close(self) -> None:
        with self._lock:
            self._topics.clear()
            if self._syncing is not None and self._syncing[0] == os.getpid():
                self._syncing[1].shutdown()
            self._syncing = None

    def _open(self, name: str) -> OpenTopic:
        check_name("topic", name)
        topic = self._topics.get(name)
        if topic is not None and topic.present():
            return topic
        with self._lock:
            topic = self._topics.get(name)
            if topic is None or not topic.present():
                self._topics.pop(name, None)
                topic = OpenTopic(self._folder / name, self._segment_bytes)
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


def _described(topic: OpenTopic, *, settled: bool) -> Topic:
    try:
        for partition in topic.partitions if settled else ():
            partition.settle()
        return topic.describe()
    except FileNotFoundError:
        topic.check_present()
        raise
