"""Who you are, what you may do: local users, roles and tokens."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.security.identity.contract import (
    ROLES,
    GrantsOffline,
    HasFirstAdmin,
    Identity,
    IdentityProvider,
    TokenGrant,
    TokenInfo,
    User,
    allows,
)

ENGINES = {"local": "madang.security.identity.local:LocalIdentityProvider"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> IdentityProvider:
    """Opens the identity engine that `url` names."""
    return cast("IdentityProvider", engines.connect("security.identity", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "ROLES",
    "GrantsOffline",
    "HasFirstAdmin",
    "Identity",
    "IdentityProvider",
    "TokenGrant",
    "TokenInfo",
    "User",
    "allows",
    "connect",
]
