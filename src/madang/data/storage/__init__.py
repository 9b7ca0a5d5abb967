"""Objects, and versioned tables (Delta) on them: in a local directory, or in S3."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.storage.contract import (
    GRACE,
    OBJECTS,
    DeltaTables,
    LocalFiles,
    ObjectInfo,
    Objects,
    Retained,
    Storage,
    TableChanges,
    TableRetention,
    Tables,
    TableVersion,
    Transaction,
    UnknownOutcomeError,
)

ENGINES = {
    "local": "madang.data.storage.local:LocalStorage",
    "s3": "madang.data.storage.s3:S3Storage",
}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Storage:
    """Opens the storage that `url` names: `local:///folder`, `s3://bucket/prefix?endpoint=…`."""
    return cast("Storage", engines.connect("data.storage", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "GRACE",
    "OBJECTS",
    "DeltaTables",
    "LocalFiles",
    "ObjectInfo",
    "Objects",
    "Retained",
    "Storage",
    "TableChanges",
    "TableRetention",
    "TableVersion",
    "Tables",
    "Transaction",
    "UnknownOutcomeError",
    "connect",
]
