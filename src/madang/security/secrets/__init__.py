"""Secrets under envelope encryption: a local keyring.

In `madang.toml` a URL refers to a secret by `${secret:NAME}`; the value is filled in at use.
"""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.security.secrets.contract import SecretInfo, Secrets

ENGINES = {"local": "madang.security.secrets.local:LocalSecrets"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Secrets:
    """Opens the secrets engine that `url` names."""
    return cast("Secrets", engines.connect("security.secrets", url, context))


__all__ = ["DEFAULT", "ENGINES", "SecretInfo", "Secrets", "connect"]
