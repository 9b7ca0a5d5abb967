"""The search index over the segment files: SQLite with FTS5, filled when somebody searches.

It holds where each record lies, never the record, and can be deleted at any time: the next search
builds it again. A field is a word of its own, the hash of its name and value, so that text and
fields are one lookup in one inverted index.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from madang.errors import InvalidInputError
from madang.platform.logs._segments import sizes, whole_lines
from madang.platform.logs.contract import LEVELS, LogRecord

_VERSION = 1
_BUSY_SECONDS = 60
_SCHEMA = f"""
CREATE TABLE segment (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, indexed INTEGER NOT NULL, bad INTEGER NOT NULL
);
CREATE TABLE record (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, level INTEGER NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
);
CREATE INDEX record_by_time ON record (time, id);
CREATE VIRTUAL TABLE word USING fts5(
    message, field, content='', tokenize="unicode61 remove_diacritics 0"
);
PRAGMA user_version = {_VERSION};
"""
_TERM = re.compile(r'"([^"]*)"|([^\s"]+)')
_decode = msgspec.json.Decoder(LogRecord).decode


@dataclass(frozen=True)
class Place:
    """Where a record lies."""

    segment: str
    offset: int
    length: int


class Index:
    """The index of one folder of segments; holds nothing open, so any process and thread may ask."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "index.db"

    def search(
        self, words: str, *, level: int, since_us: int | None, until_us: int | None, limit: int
    ) -> list[Place]:
        """Where the newest records lie that match everything, newest first.

        Args:
            words: What `match` made; empty for any.
            level: The number of this level or a higher one; 0 for any.
            since_us: Not before, microseconds since 1970 UTC.
            until_us: Before.
            limit: At most so many.
        """
        where, values = ["1"], list[Any]()
        for condition, value in (
            ("word MATCH ?", words or None),
            ("level >= ?", level or None),
            ("time >= ?", since_us),
            ("time < ?", until_us),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        source = "word JOIN record r ON r.id = word.rowid" if words else "record r"
        if not self._folder.is_dir():
            return []
        with contextlib.closing(self._synced()) as connection:
            rows = connection.execute(
                f"SELECT s.name, r.offset, r.length FROM {source} "  # noqa: S608 - conditions above
                f"JOIN segment s ON s.id = r.segment WHERE {' AND '.join(where)} "
                "ORDER BY r.time DESC, r.id DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [Place(*row) for row in rows]

    def unreadable(self) -> int:
        """How many whole lines are no record, because somebody changed the files."""
        if not self._folder.is_dir():
            return 0
        with contextlib.closing(self._synced()) as connection:
            return int(connection.execute("SELECT ifnull(sum(bad), 0) FROM segment").fetchone()[0])

    # -- keeping up ---------------------------------------------------------------------------

    def _synced(self) -> sqlite3.Connection:
        """A connection to the index, which now knows every whole line."""
        with self._alone():
            try:
                return self._open_and_sync()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # locked, or the disk is full: building it again would not help
                self._forget()
                return self._open_and_sync()

    def _open_and_sync(self) -> sqlite3.Connection:
        connection = self._open()
        try:
            self._sync(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self._folder / "index.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError("the index was written by another Madang")
                connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _forget(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _sync(self, connection: sqlite3.Connection) -> None:
        known = {
            name: (id, indexed)
            for id, name, indexed in connection.execute("SELECT id, name, indexed FROM segment")
        }
        found = sizes(self._folder)
        for name in known.keys() - found.keys():
            with _transaction(connection):
                connection.execute("DELETE FROM record WHERE segment = ?", (known[name][0],))
                connection.execute("DELETE FROM segment WHERE id = ?", (known[name][0],))
        for name, size in found.items():
            id, indexed = known.get(name, (None, 0))
            if size > indexed:
                self._take(connection, name, id, indexed)

    def _take(
        self, connection: sqlite3.Connection, name: str, id: int | None, indexed: int
    ) -> None:
        for offset, lines in whole_lines(self._folder / name, indexed):
            with _transaction(connection):
                if id is None:
                    id = connection.execute(
                        "INSERT INTO segment (name, indexed, bad) VALUES (?, 0, 0)", (name,)
                    ).lastrowid
                bad = _add(connection, id, offset, lines)
                connection.execute(
                    "UPDATE segment SET indexed = ?, bad = bad + ? WHERE id = ?",
                    (offset + len(lines), bad, id),
                )


def _add(connection: sqlite3.Connection, segment: int | None, offset: int, lines: bytes) -> int:
    """Adds the lines of a chunk; returns how many are no record."""
    id = connection.execute("SELECT ifnull(max(id), 0) FROM record").fetchone()[0]
    records, words, bad = [], [], 0
    for line in lines.splitlines(keepends=True):
        try:
            record = _decode(line)
            level = LEVELS[record.level]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            bad += 1  # counted and shown by health(); one bad line must not hide the others
        else:
            id += 1
            fields = " ".join([field_word(*item) for item in record.fields.items()])
            records.append((id, record.time_us, level, segment, offset, len(line)))
            words.append((id, record.message, fields))
        offset += len(line)
    connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", records)
    connection.executemany("INSERT INTO word (rowid, message, field) VALUES (?, ?, ?)", words)
    return bad


def field_word(name: str, value: Any) -> str:
    """The word that stands for a field's value: 1 and 1.0 are the same, 1 and "1" are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    digest = hashlib.blake2b(json.dumps([name, value]).encode(), digest_size=8)
    return f"f{digest.hexdigest()}"


def match(text: str, fields: Mapping[str, Any]) -> str:
    """The FTS5 condition for the words and phrases of `text` and the values of `fields`.

    Raises:
        InvalidInputError: `text` can't be understood.
    """
    if text.count('"') % 2 or "\0" in text:
        raise InvalidInputError(f'can\'t search for {text!r}: each " needs a closing "')
    terms = [phrase or word for phrase, word in _TERM.findall(text)]
    for term in terms:
        if not any(character.isalnum() for character in term):
            raise InvalidInputError(
                f"can't search for {term!r}: it holds no letter or digit, and words are made of them"
            )
    conditions = [f'message : "{term}"' for term in terms]
    conditions += [f"field : {field_word(*item)}" for item in fields.items()]
    return " AND ".join(conditions)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
