"""From topics, files, databases and servers into datasets: validated, exactly once.

A source stands beside its contract, like an engine: `SOURCES` maps a URL's scheme to its class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from madang import engines
from madang.data.ingestion.contract import QUARANTINE, QUARANTINE_SCHEMA, Piece, Source
from madang.errors import UnknownEngineError

if TYPE_CHECKING:
    from madang.data.ingestion._gathering import Ingested
    from madang.data.ingestion._record import Ingestion, Part, ingestion_as_dict
    from madang.data.ingestion._run import ingest, ingestions

SOURCES = {
    "file": "madang.data.ingestion.files:FileSource",
    "http": "madang.data.ingestion.https:HttpSource",
    "https": "madang.data.ingestion.https:HttpSource",
    "postgresql": "madang.data.ingestion.postgresql:PostgreSQLSource",
    "sqlite": "madang.data.ingestion.sqlite:SQLiteSource",
}
"""Scheme to `module:Class`."""

_EXTRAS = {
    "http": "https",
    "https": "https",
    "postgresql": "postgresql-source",
    "sqlite": "sqlite-source",
}
_LAZY = {
    "Ingested": "_gathering",
    "Ingestion": "_record",
    "Part": "_record",
    "ingest": "_run",
    "ingestion_as_dict": "_record",
    "ingestions": "_run",
}


def open_source(url: str, context: engines.Context) -> Source:
    """Opens the source that a URL names; nothing is read yet.

    Raises:
        UnknownEngineError: The scheme names no source.
        MissingDependencyError: The source's package is not installed.
        ConfigurationError: The URL is not usable.
        NotFoundError: A `${secret:NAME}` or `${env:NAME}` in it does not exist.
    """
    scheme = engines.EngineURL.parse(url).scheme
    if scheme not in SOURCES:
        raise UnknownEngineError("data.ingestion", scheme, SOURCES)
    source: type[Source] = engines.load(
        SOURCES[scheme], "data.ingestion", scheme, _EXTRAS.get(scheme, "")
    )
    return source.from_text(url, context)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "QUARANTINE",
    "QUARANTINE_SCHEMA",
    "SOURCES",
    "Ingested",
    "Ingestion",
    "Part",
    "Piece",
    "Source",
    "ingest",
    "ingestion_as_dict",
    "ingestions",
    "open_source",
]
