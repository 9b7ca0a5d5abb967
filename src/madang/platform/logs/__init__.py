"""Structured logs, tied to runs and requests, searchable: a local index.

`handler(logs)` turns the standard library's logging into records; `bound(run="…")` adds fields to
everything that is logged inside of the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from madang import engines
from madang.platform.logs.contract import LEVELS, LogRecord, Logs

if TYPE_CHECKING:
    from madang.platform.logs._handler import LogsHandler, bound, handler

ENGINES = {"local": "madang.platform.logs.local:LocalLogs"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Logs:
    """Opens the logs engine that `url` names."""
    return cast("Logs", engines.connect("platform.logs", url, context))


def __getattr__(name: str) -> Any:
    if name in ("LogsHandler", "bound", "handler"):
        from madang.platform.logs import _handler

        return getattr(_handler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT",
    "ENGINES",
    "LEVELS",
    "LogRecord",
    "Logs",
    "LogsHandler",
    "bound",
    "connect",
    "handler",
]
