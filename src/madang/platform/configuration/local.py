"""Settings in the metadata database, each change a row, so that history and watch are one query."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any, Self

from madang.engines import Context, EngineURL, Health
from madang.errors import ConflictError, InvalidInputError, NotFoundError
from madang.ledger import Ledger, now_us
from madang.metadata import Database, Row, Transaction
from madang.platform.configuration.contract import Configuration, Setting

_KEY = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_MAX_KEY_LENGTH = 255
_MAX_VALUE_BYTES = 512 * 1024  # the limit that Consul has for a value, so that a move loses nothing
_POLL_SECONDS = 0.05
_BATCH = 1000
_COLUMNS = "key, value, version, time, deleted"


class LocalConfiguration(Configuration):
    """Settings in the metadata database (SQLite or PostgreSQL).

    Changes of one project are serialized by the database, so their versions become visible in
    order. A watcher asks for the newest version every 50 ms and reads rows only when it grew.
    """

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._project = ledger.project

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context.metadata, context.ledger)

    def set(self, key: str, value: Any, *, expected_version: int | None = None) -> Setting:
        _check_key(key)
        text = _encode(key, value)
        with self._database.transaction() as tx:
            self._lock(tx)
            if expected_version is not None:
                self._expect(tx, key, expected_version)
            return self._write(tx, "set", key, text, deleted=False)

    def get(self, key: str, *, version: int | None = None) -> Setting:
        with self._database.transaction(write=False) as tx:
            newest = self._newest(tx)
            if version is not None and not 0 <= version <= newest:
                raise NotFoundError(f"there is no version {version}; the newest is {newest}")
            found = self._find(tx, key, newest if version is None else version)
        if found is None or found.deleted:
            when = "" if version is None else f" at version {version}"
            raise NotFoundError(f"there is no setting {key!r}{when}")
        return found

    def list(self, prefix: str = "") -> builtins.list[Setting]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM configuration c "  # noqa: S608 - columns above
                "WHERE project = ? AND substr(key, 1, ?) = ? AND version = "
                "(SELECT max(version) FROM configuration WHERE project = c.project AND key = c.key)",
                (self._project, len(prefix), prefix),
            )
        # Sorted here, because databases differ in how they order text.
        return sorted((s for s in map(_setting, rows) if not s.deleted), key=lambda s: s.key)

    def history(self, key: str) -> builtins.list[Setting]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM configuration WHERE project = ? AND key = ? "  # noqa: S608
                "ORDER BY version",
                (self._project, key),
            )
        return [_setting(row) for row in rows]

    def delete(self, key: str) -> None:
        with self._database.transaction() as tx:
            self._lock(tx)
            found = self._find(tx, key, self._newest(tx))
            if found is not None and not found.deleted:
                self._write(tx, "delete", key, "null", deleted=True)

    def watch(
        self, prefix: str = "", *, after_version: int = 0, timeout_seconds: float | None = None
    ) -> Iterator[Setting]:
        seen = after_version
        quiet_since = time.monotonic()
        while True:
            changes, seen = self._changes(prefix, seen)
            if changes:
                yield from changes
                quiet_since = time.monotonic()
                continue
            left = _POLL_SECONDS
            if timeout_seconds is not None:
                left = min(left, quiet_since + timeout_seconds - time.monotonic())
                if left <= 0:
                    return
            time.sleep(left)

    def health(self) -> Health:
        found = self._database.health()
        return Health(found.ok, f"settings in {found.detail}", found.advice)

    def _changes(self, prefix: str, after: int) -> tuple[builtins.list[Setting], int]:
        """The next changes of `prefix` after a version, and the version that was read up to."""
        with self._database.transaction(write=False) as tx:
            newest = self._newest(tx)
            if newest <= after:
                return [], after
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM configuration WHERE project = ? AND version > ? "  # noqa: S608
                "AND substr(key, 1, ?) = ? ORDER BY version LIMIT ?",
                (self._project, after, len(prefix), prefix, _BATCH),
            )
        changes = [_setting(row) for row in rows]
        return changes, changes[-1].version if len(changes) == _BATCH else newest

    def _lock(self, tx: Transaction) -> None:
        self._database.lock(tx, f"configuration/{self._project}")

    def _newest(self, tx: Transaction) -> int:
        rows = tx.execute(
            "SELECT version FROM configuration_head WHERE project = ?", (self._project,)
        )
        return int(rows[0][0]) if rows else 0

    def _find(self, tx: Transaction, key: str, version: int) -> Setting | None:
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM configuration WHERE project = ? AND key = ? "  # noqa: S608
            "AND version <= ? ORDER BY version DESC LIMIT 1",
            (self._project, key, version),
        )
        return _setting(rows[0]) if rows else None

    def _expect(self, tx: Transaction, key: str, expected: int) -> None:
        found = self._find(tx, key, self._newest(tx))
        actual = 0 if found is None or found.deleted else found.version
        if actual != expected:
            state = f"is at version {actual}" if actual else "is absent"
            raise ConflictError(
                f"setting {key!r} was expected at version {expected} and {state}; "
                "read it again and retry"
            )

    def _write(self, tx: Transaction, verb: str, key: str, text: str, *, deleted: bool) -> Setting:
        moment = now_us()
        rows = tx.execute(
            "INSERT INTO configuration_head VALUES (?, 1) ON CONFLICT (project) "
            "DO UPDATE SET version = configuration_head.version + 1 RETURNING version",
            (self._project,),
        )
        version = int(rows[0][0])
        tx.execute(
            "INSERT INTO configuration (project, version, key, value, deleted, time) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (self._project, version, key, text, deleted, moment),
        )
        data: dict[str, Any] = {"version": version}
        if not deleted:
            # The value itself stands in the history; the line proves which it was.
            data["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        self._ledger.append(
            tx, f"configuration.{verb}", f"setting:{key}", outputs=[f"setting:{key}@{version}"],
            data=data,
        )  # fmt: skip
        return Setting(key, json.loads(text), version, moment, deleted)


def _check_key(key: str) -> None:
    if len(key) > _MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise InvalidInputError(
            f"{key[:100]!r} can't be a setting's key: parts of letters, digits, _, . and -, "
            f"separated by /, together at most {_MAX_KEY_LENGTH} characters"
        )


def _encode(key: str, value: Any) -> str:
    """The JSON text of a value that comes back as it went in; the message never shows the value."""
    try:
        text = json.dumps(value, allow_nan=False, sort_keys=True)
        same = json.loads(text) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"the value of setting {key!r} is not JSON ({type(error).__name__}): use null, "
            "booleans, finite numbers, strings, lists, and objects with string keys"
        ) from error
    if not same:
        raise InvalidInputError(
            f"the value of setting {key!r} would not come back from JSON as it is: "
            "use lists instead of tuples, and strings as keys"
        )
    if len(text) > _MAX_VALUE_BYTES:
        raise InvalidInputError(
            f"the value of setting {key!r} has {len(text)} bytes, at most {_MAX_VALUE_BYTES} fit; "
            "store it as an object and set its name"
        )
    return text


def _setting(row: Row) -> Setting:
    key, text, version, moment, deleted = row
    return Setting(key, json.loads(text), int(version), int(moment), bool(deleted))
