"""Secrets in the metadata database, encrypted under master keys in a file beside it.

Envelope encryption with AES-256-GCM (NIST SP 800-38D): a value is encrypted by a random data key
that is used once, the data key by the ring's current master key. The associated data of both holds
project, name and version, so a ciphertext that is moved elsewhere doesn't decrypt.

Whoever reads the database alone, or a backup of it, learns names and lengths. Whoever also reads
`keyring.json` learns the values: keep the two backups apart.
"""

from __future__ import annotations

import builtins
import os
import re
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, IntegrityError, InvalidInputError, NotFoundError
from madang.ledger import canonical, new_id, now_us
from madang.metadata import Database, Row, Transaction
from madang.security.secrets._keyring import Keyring, Ring
from madang.security.secrets.contract import SecretInfo, Secrets

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_MAX_VALUE_BYTES = 1 << 20
_NONCE_BYTES = 12  # 96 bits, what SP 800-38D section 8.2 recommends for GCM


class LocalSecrets(Secrets):
    """A local keyring: ciphertexts in the metadata database, master keys in `.madang/keyring.json`.

    Every operation holds the project's lock in the database, so that no key is dropped while
    somebody encrypts under it.
    """

    def __init__(self, context: Context, keyring: Keyring) -> None:
        self._context = context
        self._keyring = keyring
        self._project = context.project

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        path = url.local_path(context.root) if url.path else context.home / "keyring.json"
        return cls(context, Keyring(path))

    def set(self, name: str, value: str) -> SecretInfo:
        raw = _checked(name, value)
        database = self._context.metadata
        with database.transaction() as tx:
            self._lock(database, tx)
            ring = self._ring(tx)
            newest = tx.execute(
                "SELECT max(version) FROM secret WHERE project = ? AND name = ?",
                (self._project, name),
            )
            info = SecretInfo(name, int(newest[0][0] or 0) + 1, now_us())
            data_key = AESGCM.generate_key(256)
            tx.execute(
                "INSERT INTO secret (project, name, version, master_key, data_key, value, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self._project,
                    name,
                    info.version,
                    ring.current,
                    self._wrap(ring, data_key, name, info.version),
                    _encrypt(data_key, raw, self._bound("value", name, info.version)),
                    info.created_us,
                ),
            )
            ref = _ref(name, info.version)
            self._context.ledger.append(tx, "secret.set", f"secret:{name}", outputs=[ref])
        return info

    def get(self, name: str, *, version: int | None = None) -> str:
        if self.read_guard is not None:
            self.read_guard(name)
        database = self._context.metadata
        # One writing transaction: the value leaves only when the record of its opening is on disk.
        with database.transaction() as tx:
            self._lock(database, tx)
            number, master_key, data_key, value = self._find(tx, name, version)
            opened = self._unwrap(self._ring(tx), master_key, bytes(data_key), name, int(number))
            raw = _decrypt(opened, bytes(value), self._bound("value", name, int(number)), name)
            ref = _ref(name, int(number))
            self._context.ledger.append(tx, "secret.open", f"secret:{name}", inputs=[ref])
        return raw.decode()

    def list(self) -> builtins.list[SecretInfo]:
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT name, version, created FROM secret s WHERE project = ? AND value IS NOT "
                "NULL AND version = (SELECT max(version) FROM secret WHERE project = s.project "
                "AND name = s.name)",
                (self._project,),
            )
        found = [SecretInfo(row[0], int(row[1]), int(row[2])) for row in rows]
        return sorted(found, key=lambda info: info.name)

    def delete(self, name: str) -> None:
        database = self._context.metadata
        with database.transaction() as tx:
            self._lock(database, tx)
            gone = tx.execute(
                "UPDATE secret SET value = NULL, data_key = NULL WHERE project = ? AND name = ? "
                "AND value IS NOT NULL RETURNING version",
                (self._project, name),
            )
            if gone:
                refs = [_ref(name, int(row[0])) for row in gone]
                self._context.ledger.append(tx, "secret.delete", f"secret:{name}", inputs=refs)

    def rotate(self) -> int:
        """Makes a new master key and encrypts every data key under it; returns how many.

        A crash at any point loses nothing: the new key is on disk before anything is encrypted
        under it, and old keys go only after the database has committed. Rotating again clears up.
        """
        database = self._context.metadata
        with database.transaction() as tx:
            self._lock(database, tx)
            old = self._ring(tx)
            new = self._keyring.add_key(old.id)
            count = self._rewrap(tx, new)
            self._context.ledger.append(
                tx, "secret.rotate", f"keyring:{new.id}",
                data={"count": count, "from": old.current, "to": new.current},
            )  # fmt: skip
        self._drop_unused(database)
        return count

    def health(self) -> Health:
        try:
            found = self._context.metadata.health()
            if not found.ok:
                return found
            count, lost = len(self.list()), self._lost_keys()
        except (ConfigurationError, IntegrityError) as error:
            return Health(False, str(error), "mend the keyring as the message says")
        except Exception as error:  # health never raises
            return Health(False, f"{type(error).__name__}: {error}", "check the metadata database")
        if lost:
            detail = f"{self._keyring.path} lacks the master keys {', '.join(lost)}"
            return Health(False, detail, "restore the keyring from a backup")
        return Health(True, f"{count} secrets, AES-256-GCM, master keys in {self._keyring.path}")

    # -- keys ---------------------------------------------------------------------------------

    def _lock(self, database: Database, tx: Transaction) -> None:
        database.lock(tx, f"secrets/{self._project}")

    def _ring(self, tx: Transaction) -> Ring:
        """The project's master keys, made when it has no secrets yet.

        Raises:
            IntegrityError: There are secrets, and the keyring doesn't hold their keys.
        """
        rows = tx.execute("SELECT ring FROM secret_ring WHERE project = ?", (self._project,))
        ring = self._keyring.find(rows[0][0]) if rows else None
        if ring is not None:
            return ring
        stored = tx.execute(
            "SELECT 1 FROM secret WHERE project = ? AND value IS NOT NULL LIMIT 1", (self._project,)
        )
        if stored:
            raise IntegrityError(
                f"{self._keyring.path} does not hold the master keys of project "
                f"{self._project!r}; restore it from a backup, or delete the secrets and set them "
                "again"
            )
        made = self._keyring.add_key(new_id())
        tx.execute("DELETE FROM secret_ring WHERE project = ?", (self._project,))
        tx.execute("INSERT INTO secret_ring VALUES (?, ?)", (self._project, made.id))
        return made

    def _rewrap(self, tx: Transaction, ring: Ring) -> int:
        rows = tx.execute(
            "SELECT name, version, master_key, data_key FROM secret "
            "WHERE project = ? AND value IS NOT NULL",
            (self._project,),
        )
        changed = []
        for name, version, master_key, data_key in rows:
            opened = self._unwrap(ring, master_key, bytes(data_key), name, int(version))
            sealed = self._wrap(ring, opened, name, int(version))
            changed.append((ring.current, sealed, self._project, name, int(version)))
        tx.executemany(
            "UPDATE secret SET master_key = ?, data_key = ? "
            "WHERE project = ? AND name = ? AND version = ?",
            changed,
        )
        return len(changed)

    def _drop_unused(self, database: Database) -> None:
        with database.transaction() as tx:
            self._lock(database, tx)
            ring = self._ring(tx)
            self._keyring.keep_keys(ring.id, self._used(tx))

    def _used(self, tx: Transaction) -> builtins.set[str]:
        rows = tx.execute(
            "SELECT DISTINCT master_key FROM secret WHERE project = ? AND value IS NOT NULL",
            (self._project,),
        )
        return {str(row[0]) for row in rows}

    def _lost_keys(self) -> builtins.list[str]:
        with self._context.metadata.transaction(write=False) as tx:
            rings = tx.execute("SELECT ring FROM secret_ring WHERE project = ?", (self._project,))
            used = self._used(tx)
        ring = self._keyring.find(rings[0][0]) if rings else None
        return sorted(used - builtins.set(ring.keys if ring else ()))

    def _find(self, tx: Transaction, name: str, version: int | None) -> Row:
        wanted = "" if version is None else "AND version = ? "
        rows = tx.execute(
            "SELECT version, master_key, data_key, value FROM secret "  # noqa: S608 - constants
            f"WHERE project = ? AND name = ? {wanted}ORDER BY version DESC LIMIT 1",
            (self._project, name) if version is None else (self._project, name, version),
        )
        if not rows or rows[0][3] is None:
            which = "" if version is None else f" with version {version}"
            raise NotFoundError(
                f"there is no secret {name!r}{which}; set one: madang secret set {name}"
            )
        return rows[0]

    def _bound(self, what: str, name: str, version: int) -> bytes:
        return canonical(["madang secret", what, self._project, name, version])

    def _wrap(self, ring: Ring, data_key: bytes, name: str, version: int) -> bytes:
        bound = self._bound(f"data key under {ring.current}", name, version)
        return _encrypt(ring.keys[ring.current], data_key, bound)

    def _unwrap(
        self, ring: Ring, master_key: str, data_key: bytes, name: str, version: int
    ) -> bytes:
        if master_key not in ring.keys:
            raise IntegrityError(
                f"secret {name!r} is encrypted under the master key {master_key}, which "
                f"{self._keyring.path} does not hold; restore the keyring from a backup"
            )
        bound = self._bound(f"data key under {master_key}", name, version)
        return _decrypt(ring.keys[master_key], data_key, bound, name)


def _checked(name: str, value: str) -> bytes:
    """The value's bytes; no message ever shows the value."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "a secret's name has 1 to 200 letters, digits, _, . and -; what was given is not shown, "
            "because a value may have been given in its place"
        )
    if not isinstance(value, str):
        raise InvalidInputError(
            f"the value of secret {name!r} must be text, found {type(value).__name__}"
        )
    raw = value.encode("utf-8", "surrogatepass")
    if raw != value.encode("utf-8", "replace"):
        raise InvalidInputError(f"the value of secret {name!r} is not valid Unicode text")
    if len(raw) > _MAX_VALUE_BYTES:
        raise InvalidInputError(
            f"the value of secret {name!r} has {len(raw)} bytes, at most {_MAX_VALUE_BYTES} fit"
        )
    return raw


def _ref(name: str, version: int) -> str:
    return f"secret:{name}@{version}"


def _encrypt(key: bytes, plain: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound)


def _decrypt(key: bytes, sealed: bytes, bound: bytes, name: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as error:
        raise IntegrityError(
            f"secret {name!r} does not decrypt: its stored bytes were changed or moved, or the "
            "master key is another one; restore the database and keyring.json from one backup"
        ) from error
