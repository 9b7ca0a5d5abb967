"""Users, roles and tokens in the metadata database."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    AuthenticationError,
    InvalidInputError,
    NotFoundError,
)
from madang.ledger import Ledger, now_us
from madang.metadata import Database, Row, Transaction
from madang.security.identity._tokens import PREFIX, digest_of, kept_token, new_token
from madang.security.identity.contract import (
    ROLES,
    GrantsOffline,
    HasFirstAdmin,
    Identity,
    IdentityProvider,
    TokenGrant,
    TokenInfo,
    User,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")
_MAX_PASSWORD_BYTES = 1024  # hashing takes longer with length, and anybody may ask for it

# OWASP's Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_REFUSED = "the token, or the name and password, is not valid; ask an admin for a new token"


class LocalIdentityProvider(IdentityProvider, HasFirstAdmin, GrantsOffline):
    """Users of the project in the metadata database.

    A token is 256 random bits, stored as SHA-256 and found by that: who guesses learns nothing
    from the time that the lookup takes. Passwords are argon2id. Nothing is cached, so a revoked
    token is refused at the next call, in every process.
    """

    def __init__(self, database: Database, ledger: Ledger, home: Path) -> None:
        self._database = database
        self._ledger = ledger
        self._project = ledger.project
        self._home = home
        self._decoy: str | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context.metadata, context.ledger, context.home)

    # -- users --------------------------------------------------------------------------------

    def create_user(self, name: str, *, roles: Sequence[str], password: str | None = None) -> User:
        _check_name(name)
        user = User(name, _checked_roles(roles), created_us=now_us())
        hashed = None if password is None else _hash(password)
        with self._changing() as tx:
            self._add_user(tx, user, hashed)
        return user

    def users(self) -> list[User]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT name, roles, active, created FROM identity_user WHERE project = ?",
                (self._project,),
            )
        return sorted(map(_user, rows), key=lambda user: user.name)

    def set_roles(self, name: str, roles: Sequence[str]) -> User:
        wanted = _checked_roles(roles)
        with self._changing() as tx:
            rows = tx.execute(
                "UPDATE identity_user SET roles = ? WHERE project = ? AND name = ? "
                "RETURNING name, roles, active, created",
                (" ".join(wanted), self._project, name),
            )
            if not rows:
                raise NotFoundError(f"there is no user {name!r}; create the user first")
            self._ledger.append(tx, "user.roles", f"user:{name}", data={"roles": list(wanted)})
        return _user(rows[0])

    def deactivate_user(self, name: str) -> None:
        with self._changing() as tx:
            rows = tx.execute(
                "UPDATE identity_user SET active = ? WHERE project = ? AND name = ? AND active "
                "RETURNING name",
                (False, self._project, name),
            )
            if not rows:
                self._require_user(tx, name)
                return
            ended = tx.execute(
                "DELETE FROM identity_token WHERE project = ? AND user_name = ? RETURNING id",
                (self._project, name),
            )
            data = {"tokens": sorted(row[0] for row in ended)}
            self._ledger.append(tx, "user.deactivate", f"user:{name}", data=data)

    # -- tokens -------------------------------------------------------------------------------

    def create_token(
        self, user: str, *, label: str = "", lifetime_seconds: float | None = None
    ) -> tuple[str, TokenInfo]:
        if lifetime_seconds is not None and not 0 < lifetime_seconds < 1e10:
            raise InvalidInputError(
                f"a token's lifetime_seconds must be above 0 (or None), found {lifetime_seconds}"
            )
        token = new_token()
        now = now_us()
        expires = None if lifetime_seconds is None else now + int(lifetime_seconds * 1e6)
        info = TokenInfo(secrets.token_hex(8), user, label, now, expires)
        with self._changing() as tx:
            self._require_user(tx, user, active=True)
            self._add_token(tx, token, info)
        return token, info

    def tokens(self, user: str | None = None) -> list[TokenInfo]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT id, user_name, label, created, expires FROM identity_token "
                "WHERE project = ? AND (expires IS NULL OR expires > ?) ORDER BY created, id",
                (self._project, now_us()),
            )
        found = [TokenInfo(r[0], r[1], r[2], int(r[3]), _int(r[4])) for r in rows]
        return [info for info in found if user is None or info.user == user]

    def revoke_token(self, token_id: str) -> None:
        if token_id.startswith(PREFIX):
            raise InvalidInputError(
                "a token is revoked by its id, and what was given is the token itself; "
                "the list of tokens shows the ids"
            )
        with self._changing() as tx:
            rows = tx.execute(
                "DELETE FROM identity_token WHERE project = ? AND id = ? RETURNING user_name",
                (self._project, token_id),
            )
            if rows:
                data = {"user": rows[0][0]}
                self._ledger.append(tx, "token.revoke", f"token:{token_id}", data=data)

    def grants(self) -> list[TokenGrant]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT t.digest, u.name, u.roles, t.expires FROM identity_token t "
                "JOIN identity_user u ON u.project = t.project AND u.name = t.user_name "
                "WHERE t.project = ? AND u.active AND (t.expires IS NULL OR t.expires > ?) "
                "ORDER BY t.digest",
                (self._project, now_us()),
            )
        return [
            TokenGrant(digest, name, _permissions(roles), _int(expires))
            for digest, name, roles, expires in rows
        ]

    # -- who is it ----------------------------------------------------------------------------

    def authenticate(
        self, *, token: str | None = None, name: str | None = None, password: str | None = None
    ) -> Identity:
        if token is not None:
            found = self._by_token(token)
        elif name is not None and password is not None:
            found = self._by_password(name, password)
        else:
            raise AuthenticationError("give a token, or a name and a password")
        if found is None:
            raise AuthenticationError(_REFUSED)
        return found

    def _by_token(self, token: str) -> Identity | None:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT u.name, u.roles, t.id FROM identity_token t "
                "JOIN identity_user u ON u.project = t.project AND u.name = t.user_name "
                "WHERE t.project = ? AND t.digest = ? AND u.active "
                "AND (t.expires IS NULL OR t.expires > ?)",
                (self._project, digest_of(token), now_us()),
            )
        return Identity(rows[0][0], _roles(rows[0][1]), rows[0][2]) if rows else None

    def _by_password(self, name: str, password: str) -> Identity | None:
        decoy = self._decoy_hash()
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT roles, password, active FROM identity_user WHERE project = ? AND name = ?",
                (self._project, name if _NAME.fullmatch(name) else ""),
            )
        roles, hashed, active = rows[0] if rows else ("", None, False)
        # An unknown name costs one hash as well, or the time would tell which names exist.
        right = _verify(hashed or decoy, password)
        return Identity(name, _roles(roles)) if right and hashed and active else None

    def _decoy_hash(self) -> str:
        if self._decoy is None:
            self._decoy = _HASHER.hash(secrets.token_hex(16))
        return self._decoy

    # -- the first start ----------------------------------------------------------------------

    def first_admin(self) -> str | None:
        """Makes the user `admin` at the first start; its token goes to `<home>/admin.token`.

        The file (mode 0600) is complete before the user is in the database. So a crash in between
        leaves no admin without a token: the next start takes the token that the file holds.
        """
        with self._changing() as tx:
            if self._has_user(tx, "admin"):
                return None
            token = kept_token(self._home / "admin.token")
            user = User("admin", ("admin",), created_us=now_us())
            self._add_user(tx, user, None)
            info = TokenInfo(secrets.token_hex(8), "admin", "first start", now_us(), None)
            self._add_token(tx, token, info)
        return token

    def health(self) -> Health:
        found = self._database.health()
        if not found.ok:
            return found
        users = self.users()
        if not any(user.active and "admin" in user.roles for user in users):
            return Health(True, f"{len(users)} users", "no active admin: start the server once")
        return Health(True, f"{len(users)} users, {len(self.tokens())} valid tokens")

    @contextmanager
    def _changing(self) -> Iterator[Transaction]:
        # One change at a time, or a token could be made for a user who is just deactivated.
        with self._database.transaction() as tx:
            self._database.lock(tx, f"identity/{self._project}")
            yield tx

    # -- rows ---------------------------------------------------------------------------------

    def _add_user(self, tx: Transaction, user: User, hashed: str | None) -> None:
        made = tx.execute(
            "INSERT INTO identity_user (project, name, roles, password, active, created) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (project, name) DO NOTHING RETURNING name",
            (self._project, user.name, " ".join(user.roles), hashed, True, user.created_us),
        )
        if not made:
            raise AlreadyExistsError(f"there already is a user {user.name!r}; choose another name")
        data = {"roles": list(user.roles), "password": hashed is not None}
        self._ledger.append(tx, "user.create", f"user:{user.name}", data=data)

    def _add_token(self, tx: Transaction, token: str, info: TokenInfo) -> None:
        tx.execute(
            "INSERT INTO identity_token (project, id, digest, user_name, label, created, expires) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._project,
                info.id,
                digest_of(token),
                info.user,
                info.label,
                info.created_us,
                info.expires_us,
            ),
        )
        data = {"user": info.user, "label": info.label, "expires_us": info.expires_us}
        self._ledger.append(tx, "token.create", f"token:{info.id}", data=data)

    def _has_user(self, tx: Transaction, name: str, *, active: bool = False) -> bool:
        rows = tx.execute(
            "SELECT active FROM identity_user WHERE project = ? AND name = ?", (self._project, name)
        )
        return bool(rows) and (bool(rows[0][0]) or not active)

    def _require_user(self, tx: Transaction, name: str, *, active: bool = False) -> None:
        if not self._has_user(tx, name, active=active):
            raise NotFoundError(f"there is no {'active ' if active else ''}user {name!r}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name[:100]!r} can't be a user's name: letters, digits, _, ., @ and -, at most 100, "
            "the first a letter or digit"
        )


def _checked_roles(roles: Sequence[str]) -> tuple[str, ...]:
    wanted = (roles,) if isinstance(roles, str) else tuple(dict.fromkeys(roles))
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        found = ", ".join(map(repr, unknown)) or "none"
        raise InvalidInputError(f"roles are: {', '.join(ROLES)}; found {found}")
    return wanted


def _hash(password: str) -> str:
    if not password or len(password.encode("utf-8", "replace")) > _MAX_PASSWORD_BYTES:
        raise InvalidInputError(f"a password has 1 to {_MAX_PASSWORD_BYTES} bytes")
    return _HASHER.hash(password)


def _verify(hashed: str, password: str) -> bool:
    if len(password) > _MAX_PASSWORD_BYTES:
        return False
    try:
        return _HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False


def _roles(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _permissions(roles: str) -> frozenset[str]:
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in _roles(roles)))


def _user(row: Row) -> User:
    name, roles, active, created = row
    return User(name, _roles(roles), bool(active), int(created))


def _int(value: int | None) -> int | None:
    return None if value is None else int(value)
