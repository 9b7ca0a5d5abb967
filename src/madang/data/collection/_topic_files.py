"""A topic's folder in the local log: how it is made, and what it says of itself."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path

from madang.data.collection._locks import Descriptor
from madang.data.collection._partition import Partition
from madang.data.collection._segments import sync_folder
from madang.data.collection.contract import Topic, TopicSettings
from madang.errors import IntegrityError, NotFoundError


class OpenTopic:
    """A topic's open files; `check_present` says whether they still are the topic's."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.name = folder.name
        self.folder = folder
        self._settings: tuple[tuple[int, int], TopicSettings] | None = None
        try:
            # Held open, so that its inode can't come back as another topic of the same name.
            self._identity = Descriptor(folder / "topic.json", os.O_RDONLY)
            settings = json.loads((folder / "topic.json").read_bytes())
            count = int(settings["partitions"])
            self.partitions = [
                Partition(folder / str(number), number, segment_bytes) for number in range(count)
            ]
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no topic {folder.name!r}; make it first: madang topics create "
                f"{folder.name}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(folder / "topic.json", error) from error

    @property
    def settings(self) -> TopicSettings:
        """What the topic keeps, as any process has set it."""
        path = self.folder / "settings.json"
        try:
            found = path.stat()
        except FileNotFoundError:  # none were given
            return TopicSettings()
        version = (found.st_ino, found.st_mtime_ns)
        if self._settings is None or self._settings[0] != version:
            try:
                self._settings = version, TopicSettings(**json.loads(path.read_bytes()))
            except (ValueError, TypeError) as error:
                raise _damaged(path, error) from error
        return self._settings[1]

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
        identity = os.fstat(self._identity.fd)
        return Topic(
            self.name,
            len(self.partitions),
            tuple(part.first_offset for part in self.partitions),
            tuple(part.next_offset for part in self.partitions),
            self.settings,
            f"{identity.st_ino:x}-{identity.st_ctime_ns:x}",
        )


def make(folder: Path, partitions: int, segment_bytes: int, settings: TopicSettings | None) -> None:
    """Makes a topic's folder, durable, under a name that nobody sees yet."""
    folder.mkdir()
    (folder / "groups").mkdir()
    for number in range(partitions):
        part = folder / str(number)
        part.mkdir()
        (part / "lock").touch()
        Partition(part, number, segment_bytes)  # makes the first segment and the end
    _write(folder / "topic.json", {"partitions": partitions})
    if settings is not None:
        _write(folder / "settings.json", dataclasses.asdict(settings))
    for number in range(partitions):
        sync_folder(folder / str(number))
    sync_folder(folder)


def configure(folder: Path, settings: TopicSettings) -> None:
    """Changes a topic's settings, all at once."""
    coming = folder / f"~{secrets.token_hex(8)}"
    try:
        _write(coming, dataclasses.asdict(settings))
        coming.rename(folder / "settings.json")
    finally:
        coming.unlink(missing_ok=True)
    sync_folder(folder)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
    Descriptor(path, os.O_RDONLY).sync()


def _damaged(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path} is damaged ({error}); restore it from a backup")
