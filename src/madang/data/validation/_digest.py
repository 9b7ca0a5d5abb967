"""Which contract exactly: its name, its version, and a digest of what it demands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from madang.data.validation.contract import DataContract


def digest(contract: DataContract) -> str:
    """SHA-256 of the columns and checks, 64 hex digits; words for people change nothing."""
    content = {
        "columns": [[c.name, str(c.type), c.nullable] for c in contract.columns],
        "checks": [
            [check.kind, check.column, check.severity, _plain(check.arguments)]
            for check in contract.checks
        ],
    }
    return hashlib.sha256(msgspec.json.encode(content, enc_hook=str)).hexdigest()


def reference(contract: DataContract) -> str:
    """The contract's name in the ledger: `contract:NAME@VERSION#DIGEST`, 16 digits of the digest."""
    return f"contract:{contract.dataset}@{contract.version}#{digest(contract)[:16]}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[str(key), _plain(item)] for key, item in sorted(value.items())]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return value.isoformat() if hasattr(value, "isoformat") else value
