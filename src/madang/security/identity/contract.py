"""What an identity engine promises: who you are, and what you may do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from madang.engines import Engine

ROLES: dict[str, frozenset[str]] = {
    "viewer": frozenset({"*:read", "endpoint:predict"}),
    "engineer": frozenset(
        {"*:read", "endpoint:predict", "dataset:write", "topic:write", "run:write", "model:write",
         "feature:write", "configuration:write", "trigger:write", "monitor:write", "outcome:write"}
    ),
    "operator": frozenset(
        {"*:read", "endpoint:predict", "dataset:write", "topic:write", "run:write", "model:write",
         "feature:write", "configuration:write", "trigger:write", "monitor:write", "outcome:write",
         "endpoint:write", "alias:write", "secret:write", "alert:write", "policy:write"}
    ),
    "admin": frozenset({"*:*"}),
}  # fmt: skip
"""What each role may do, as `RESOURCE:ACTION`; `*` stands for any. Reading a secret's value is
`secret:open`, which only `admin` has: `secret:read` shows names."""


def allows(granted: frozenset[str], permission: str) -> bool:
    """Whether the granted permissions hold `RESOURCE:ACTION`, itself or by a `*`."""
    resource, _, action = permission.partition(":")
    return not granted.isdisjoint((permission, f"{resource}:*", f"*:{action}", "*:*"))


@dataclass(frozen=True)
class Identity:
    """An authenticated user: the name, the roles, and the token's id (not the token)."""

    name: str
    roles: tuple[str, ...]
    token_id: str = ""

    def may(self, permission: str) -> bool:
        """Whether one of the roles grants `RESOURCE:ACTION`."""
        return any(allows(ROLES.get(role, frozenset()), permission) for role in self.roles)


@dataclass(frozen=True)
class User:
    """A user of the project."""

    name: str
    roles: tuple[str, ...]
    active: bool = True
    created_us: int = 0


@dataclass(frozen=True)
class TokenInfo:
    """A token, without the token."""

    id: str
    user: str
    label: str
    created_us: int
    expires_us: int | None


@dataclass(frozen=True)
class TokenGrant:
    """What a process needs to check a token by itself.

    Attributes:
        digest: SHA-256 of the token, 64 hex digits.
        name: The user.
        permissions: What the user's roles grant; ask `allows`.
        expires_us: The end, microseconds since 1970 UTC; `None` for no end.
    """

    digest: str
    name: str
    permissions: frozenset[str]
    expires_us: int | None = None


class IdentityProvider(Engine):
    """Users, roles and tokens.

    Every engine promises: passwords and tokens are stored only as hashes; comparing takes the same
    time whatever is wrong; a revoked, expired or deactivated identity is refused at the next call;
    every change stands in the ledger, without the secret.
    """

    @abstractmethod
    def create_user(self, name: str, *, roles: Sequence[str], password: str | None = None) -> User:
        """Makes a user.

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidInputError: The name or a role is not usable; lists the roles.
        """

    @abstractmethod
    def users(self) -> list[User]:
        """All users, by name."""

    @abstractmethod
    def set_roles(self, name: str, roles: Sequence[str]) -> User:
        """Replaces a user's roles.

        Raises:
            NotFoundError: There is no such user.
            InvalidInputError: A role is not known; lists the roles.
        """

    @abstractmethod
    def deactivate_user(self, name: str) -> None:
        """Ends a user's access and all tokens; repeating it is safe.

        Raises:
            NotFoundError: There is no such user.
        """

    @abstractmethod
    def create_token(
        self, user: str, *, label: str = "", lifetime_seconds: float | None = None
    ) -> tuple[str, TokenInfo]:
        """Makes a token and returns it once: it can't be read again.

        Raises:
            NotFoundError: There is no such user, or the user was deactivated.
            InvalidInputError: `lifetime_seconds` is not above 0.
        """

    @abstractmethod
    def tokens(self, user: str | None = None) -> list[TokenInfo]:
        """Valid tokens, without their secrets."""

    @abstractmethod
    def revoke_token(self, token_id: str) -> None:
        """Ends a token by its id; repeating it is safe.

        Raises:
            InvalidInputError: The token itself was given instead of its id.
        """

    @abstractmethod
    def authenticate(
        self, *, token: str | None = None, name: str | None = None, password: str | None = None
    ) -> Identity:
        """Who holds this token, or this name and password.

        Raises:
            AuthenticationError: Nobody, and not which part was wrong.
        """


class HasFirstAdmin(ABC):
    """An identity engine that is empty at first, so that somebody must be the first admin."""

    @abstractmethod
    def first_admin(self) -> str | None:
        """Makes the user `admin` with a random token, once.

        Returns:
            The token at the first start, `None` at every later one. Of two processes that start
            at once, one gets it.
        """


class GrantsOffline(ABC):
    """An identity engine whose tokens can be checked without asking it, from a list."""

    @abstractmethod
    def grants(self) -> list[TokenGrant]:
        """All tokens that are valid now, by digest. The list goes stale with the next change."""
