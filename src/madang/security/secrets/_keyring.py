"""The file of master keys: `keyring.json`, readable by its owner alone.

    {"rings": {RING: {"current": KEY, "keys": {KEY: {"key": BASE64, "created_us": N}}}}}

A ring belongs to one project in one metadata database. So two environments that share a folder
but not a database can't drop each other's keys.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madang.errors import ConfigurationError, IntegrityError
from madang.ledger import now_us

_KEY_BYTES = 32


@dataclass(frozen=True)
class Ring:
    """A project's master keys: the id of the one that encrypts, and all that decrypt."""

    id: str
    current: str
    keys: dict[str, bytes] = field(repr=False)


class Keyring:
    """Reads and changes the file; every change is one atomic rename, synced before and after.

    Safe for many processes: changes hold a lock file, readers see the old file or the new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, ring: str) -> Ring | None:
        """The ring's keys; `None` when the file doesn't hold it.

        Raises:
            ConfigurationError: Others may read the file.
            IntegrityError: The file can't be understood.
        """
        found = self._read()["rings"].get(ring)
        return None if found is None else self._ring(ring, found)

    def add_key(self, ring: str) -> Ring:
        """Adds a random key to the ring (made if absent), as its current one."""
        id = f"k{secrets.token_hex(8)}"
        key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        with self._changing() as content:
            found = content["rings"].setdefault(ring, {"keys": {}})
            found["keys"][id] = {"key": key, "created_us": now_us()}
            found["current"] = id
        return self._ring(ring, found)

    def keep_keys(self, ring: str, used: set[str]) -> None:
        """Destroys the ring's keys that are neither in `used` nor the current one."""
        with self._changing() as content:
            found = content["rings"][ring]
            kept = used | {found["current"]}
            found["keys"] = {id: key for id, key in found["keys"].items() if id in kept}

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = file.read()
        except FileNotFoundError:
            return {"rings": {}}
        if mode & 0o077:
            raise ConfigurationError(
                f"{self.path} holds the master keys and others may read it "
                f"(mode {mode & 0o777:o}); run: chmod 600 {self.path}"
            )
        try:
            content = json.loads(raw)
        except ValueError:
            # The parser's message may quote the file, and that holds keys.
            raise self._broken() from None
        if not isinstance(content, dict) or not isinstance(content.get("rings"), dict):
            raise self._broken()
        return content

    def _ring(self, id: str, found: Any) -> Ring:
        try:
            keys = {name: base64.b64decode(key["key"]) for name, key in found["keys"].items()}
            return Ring(id, found["current"], keys)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._broken() from None

    def _broken(self) -> IntegrityError:
        return IntegrityError(f"{self.path} is not a keyring; restore it from a backup")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self._read()
            yield content
            self._write(json.dumps(content, indent=1).encode())
        finally:
            os.close(lock)

    def _write(self, raw: bytes) -> None:
        temporary = self.path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)
