"""Structured logs, tied to runs and requests, searchable: a local index.

`handler(logs)` turns the standard library's logging into records; `bound(run="…")` adds fields to
everything that is logged inside of the block.
"""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.platform.logs.contract import LogRecord, Logs

ENGINES = {"local": "madang.platform.logs.local:LocalLogs"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Logs:
    """Opens the logs engine that `url` names."""
    return cast("Logs", engines.connect("platform.logs", url, context))


__all__ = ["DEFAULT", "ENGINES", "LogRecord", "Logs", "connect"]
