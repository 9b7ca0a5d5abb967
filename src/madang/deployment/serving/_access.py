"""Who may do what in a worker: the accepted tokens, and what each allows."""

from __future__ import annotations

import time

from madang.deployment.serving._state import AcceptedToken, hash_token
from madang.errors import AuthenticationError

MAX_KEY_BYTES = 2048
"""A longer URL or token is none of ours, and is not remembered: the caches must not grow by it."""

_MAX_KNOWN = 10_000


class Access:
    """Decides about `Authorization` headers. Lives on the event loop's thread."""

    def __init__(self) -> None:
        self._tokens: dict[str, AcceptedToken] = {}
        self._known: dict[bytes, AcceptedToken | None] = {}

    def accept(self, tokens: dict[str, AcceptedToken]) -> None:
        """Replaces the accepted tokens (SHA-256 in hex to what each may do)."""
        self._tokens = tokens
        self._known.clear()

    def refusal(self, authorization: bytes, permission: str) -> tuple[int, str] | None:
        """Why whoever sends this `Authorization` may not do something, or nothing.

        Args:
            authorization: The header's value.
            permission: What is to be done; empty where any identity will do.
        """
        token = self._identify(authorization)
        if token is None:
            return 401, _who(authorization)
        if permission and permission not in token.permissions:
            return 403, f"{token.name} lacks the permission {permission}"
        return None

    def identify(self, authorization: bytes) -> AcceptedToken:
        """What the token of an `Authorization` is accepted for.

        Raises:
            AuthenticationError: It is unknown, expired or revoked.
        """
        token = self._identify(authorization)
        if token is None:
            raise AuthenticationError(_who(authorization))
        return token

    def _identify(self, authorization: bytes) -> AcceptedToken | None:
        try:
            token = self._known[authorization]
        except KeyError:
            if len(authorization) > MAX_KEY_BYTES:
                return None
            token = self._look_up(authorization)
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
            self._known[authorization] = token
        if token is not None and token.expires_us and token.expires_us < time.time_ns() // 1000:
            return None
        return token

    def _look_up(self, authorization: bytes) -> AcceptedToken | None:
        scheme, _, credentials = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        # By its hash: how long a look-up takes tells nothing of a token that is accepted.
        return self._tokens.get(hash_token(credentials.strip()))


def _who(authorization: bytes) -> str:
    if not authorization:
        return "send a token: Authorization: Bearer TOKEN"
    return "the token is unknown, expired or revoked"
