"""Logs in JSON-lines files, one for each process, with a search index built on demand."""

from __future__ import annotations

import math
import os
import sqlite3
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec

from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, UnavailableError
from madang.platform.logs._index import Index, Place, match
from madang.platform.logs._segments import SegmentWriter, sizes
from madang.platform.logs.contract import LEVELS, LogRecord, Logs

_SEGMENT_BYTES = 16 << 20
_MAX_LIMIT = 100_000

_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder(LogRecord).decode
_open: weakref.WeakSet[LocalLogs] = weakref.WeakSet()


class LocalLogs(Logs):
    """Logs in `.madang/logs/PROJECT/`, as JSON lines that any tool reads.

    Appending is one write to a file that no other process writes: no lock, no server, no database.
    What was appended survives the death of the process; a power cut may take the last seconds.
    """

    def __init__(self, folder: Path, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._writer = SegmentWriter(folder, segment_bytes)
        self._index = Index(folder)
        _open.add(self)

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"segment_bytes"})
        folder = url.local_path(context.root) if url.path else context.home / "logs"
        text = url.query.get("segment_bytes", str(_SEGMENT_BYTES))
        if not text.isdecimal() or int(text) < 1:
            raise ConfigurationError(f"local:// logs: segment_bytes must be above 0, found {text}")
        return cls(folder / context.project, int(text))

    def append(self, records: Sequence[LogRecord]) -> None:
        if records:
            self._writer.append(_lines(records))

    def search(
        self,
        text: str = "",
        *,
        fields: Mapping[str, Any] | None = None,
        level: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        limit: int = 100,
    ) -> list[LogRecord]:
        lowest = 0 if level is None else _level(level)
        wanted = dict(fields or {})
        _check_fields(wanted)
        if not 1 <= limit <= _MAX_LIMIT:
            raise InvalidInputError(f"limit must be 1 to {_MAX_LIMIT}, found {limit}")
        words = match(text, wanted)
        try:
            places = self._index.search(
                words, level=lowest, since_us=since_us, until_us=until_us, limit=limit
            )
        except sqlite3.Error as error:
            raise UnavailableError(
                f"the log index in {self._folder} can't be used ({error}); is the disk full?"
            ) from error
        return self._read(places)

    def health(self) -> Health:
        try:
            found = sizes(self._folder)
            unreadable = self._index.unreadable()
        except (OSError, sqlite3.Error) as error:
            return Health(False, f"{self._folder}: {error}", "make the folder writable")
        detail = f"{len(found)} files, {sum(found.values()) / 1e6:.1f} MB in {self._folder}"
        if unreadable:
            return Health(
                False,
                f"{detail}; {unreadable} lines are no log records",
                "something else writes into these files, or the disk is failing",
            )
        return Health(True, detail)

    def close(self) -> None:
        self._writer.close()

    def _read(self, places: Iterable[Place]) -> list[LogRecord]:
        with ExitStack() as opened:
            files: dict[str, int | None] = {}
            found = []
            for place in places:
                if place.segment not in files:
                    files[place.segment] = self._opened(place.segment, opened)
                file = files[place.segment]
                if file is not None:
                    found.append(_decode(os.pread(file, place.length, place.offset)))
            return found

    def _opened(self, segment: str, opened: ExitStack) -> int | None:
        try:
            file = os.open(self._folder / segment, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # deleted since the index was asked, and its records with it
        opened.callback(os.close, file)
        return file

    def _after_fork(self) -> None:
        self._writer.after_fork()


def _after_fork_in_child() -> None:
    for logs in list(_open):
        logs._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _lines(records: Sequence[LogRecord]) -> bytes:
    for record in records:
        _level(record.level)
        _check_fields(record.fields)
    try:
        return _encoder.encode_lines(records)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"a log record is not JSON: {error}") from error


def _level(name: str) -> int:
    number = LEVELS.get(name)
    if number is None:
        raise InvalidInputError(f"unknown level {name!r}; levels are: {', '.join(LEVELS)}")
    return number


def _check_fields(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        scalar = value is None or isinstance(value, (str, int, float))
        if not scalar or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidInputError(
                f"log field {name!r} must be text, a finite number, true, false or null, "
                f"found {type(value).__name__}"
            )
