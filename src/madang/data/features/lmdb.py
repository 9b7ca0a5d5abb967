"""The online store in one LMDB folder: memory-mapped reads in microseconds, no server.

Each view is a named database, `project/view`, of packed rows; one more holds the descriptions.
One transaction changes both, so a reader sees the old view or the new one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from madang.data.features._environments import Environment, acquire, release
from madang.data.features.contract import OnlineStore, timestamp_us
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, ConflictError, InvalidInputError, MadangError

_DESCRIPTIONS = b"descriptions"  # without a slash: no view's database is called so
_MAX_KEY_BYTES = 511  # LMDB's default, mdb_env_get_maxkeysize


class LMDBOnlineStore(OnlineStore):
    """An online store in a folder of this machine; writes are synced before they return.

    Several stores of one process share what they open, and a forked child opens its own.

    Args:
        path: The folder; made when it isn't there.
        project: The project whose views these are.
        map_mb: How large the map is at first, in MiB of address space; it doubles when full.
    """

    def __init__(self, path: Path, project: str, *, map_mb: int = 1024) -> None:
        self._path = path
        self._project = project
        self._map_bytes = map_mb << 20
        self._environment: Environment | None = None
        self._names: dict[str, bytes] = {}

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"map_mb"})
        path = url.local_path(context.root) if url.path else context.home / "online"
        size = url.query.get("map_mb", "1024")
        if not size.isdecimal() or int(size) < 1:
            raise ConfigurationError(f"lmdb://: map_mb must be a whole number, found {size!r}")
        return cls(path, context.project, map_mb=int(size))

    def put(
        self,
        view: str,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        description: Mapping[str, Any],
        *,
        after: Mapping[str, Any] | None = None,
    ) -> int:
        _check(keys, rows)
        described = msgspec.json.encode(description)
        expected = None if after is None else msgspec.json.decode(msgspec.json.encode(after))

        def change(tx: Any, database: Any, descriptions: Any) -> int:
            found = tx.get(self._name(view), db=descriptions)
            known = None if found is None else msgspec.json.decode(found)
            if known is not None and known["layout"] != description["layout"]:
                raise ConflictError(
                    f"the online rows of view {view!r} come from another definition of it; "
                    "materialize the view, then push again"
                )
            if expected is not None and known != expected:
                raise ConflictError(
                    f"the view {view!r} was written by another materialization meanwhile; repeat"
                )
            if known is None or expected is not None:
                tx.put(self._name(view), described, db=descriptions)
            return sum(
                _put_newer(tx, database, key, row) for key, row in zip(keys, rows, strict=True)
            )

        return int(self._write(view, change))

    def replace(
        self,
        view: str,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        description: Mapping[str, Any],
        *,
        keep_after_us: int | None = None,
    ) -> None:
        _check(keys, rows)
        items = dict(zip(keys, rows, strict=True))

        def change(tx: Any, database: Any, descriptions: Any) -> None:
            known = tx.get(self._name(view), db=descriptions)
            merged = items
            if (
                keep_after_us is not None
                and known is not None
                and msgspec.json.decode(known)["layout"] == description["layout"]
            ):
                merged = items | _newer(tx, database, items, keep_after_us)
            tx.drop(database, delete=False)
            # Sorted, LMDB appends page after page: three times as fast, and half the size.
            tx.cursor(db=database).putmulti(sorted(merged.items()), append=True)
            tx.put(self._name(view), msgspec.json.encode(description), db=descriptions)

        self._write(view, change)

    def get(self, view: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._opened().read(self._name(view), keys)

    def describe(self, view: str) -> Mapping[str, Any] | None:
        (found,) = self._opened().read(_DESCRIPTIONS, [self._name(view)])
        return None if found is None else msgspec.json.decode(found, type=dict[str, Any])

    def drop(self, view: str) -> None:
        def change(tx: Any, database: Any, descriptions: Any) -> None:
            # Emptied, not deleted: other processes hold the database open.
            tx.drop(database, delete=False)
            tx.delete(self._name(view), db=descriptions)

        self._write(view, change)

    def health(self) -> Health:
        try:
            info = self._opened().lmdb.info()
            pages = self._opened().lmdb.stat()["psize"] * (info["last_pgno"] + 1)
        except (MadangError, OSError) as error:
            return Health(False, str(error), "check the folder's owner, or change the features URL")
        return Health(True, f"LMDB, {pages / 2**20:.1f} MiB")

    def close(self) -> None:
        environment, self._environment = self._environment, None
        if environment is not None and environment.pid == os.getpid():
            release(environment)

    def _opened(self) -> Environment:
        environment = self._environment
        if environment is None or environment.pid != os.getpid():
            environment = self._environment = acquire(self._path, self._map_bytes)
        return environment

    def _write(self, view: str, change: Any) -> Any:
        return self._opened().write([self._name(view), _DESCRIPTIONS], change)

    def _name(self, view: str) -> bytes:
        name = self._names.get(view)
        if name is None:
            name = self._names[view] = f"{self._project}/{view}".encode()
        return name


def _put_newer(tx: Any, database: Any, key: bytes, row: bytes) -> bool:
    old = tx.get(key, db=database)
    if old is not None and timestamp_us(old) > timestamp_us(row):
        return False
    tx.put(key, row, db=database)
    return True


def _newer(
    tx: Any, database: Any, items: Mapping[bytes, bytes], after_us: int
) -> dict[bytes, bytes]:
    """The stored rows that are newer than `after_us` and than the new row of their key."""
    kept = {}
    for key, row in tx.cursor(db=database):
        stored = timestamp_us(row)
        if stored > after_us and (key not in items or stored > timestamp_us(items[key])):
            kept[key] = row
    return kept


def _check(keys: Sequence[bytes], rows: Sequence[bytes]) -> None:
    if len(keys) != len(rows):
        raise InvalidInputError(f"{len(keys)} keys for {len(rows)} rows; give one for each")
    for key in keys:
        if not 0 < len(key) <= _MAX_KEY_BYTES:
            raise InvalidInputError(
                f"a key has 1 to {_MAX_KEY_BYTES} bytes, found one of {len(key)}"
            )
