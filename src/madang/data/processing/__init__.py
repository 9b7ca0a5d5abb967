"""SQL and table functions over datasets: DuckDB."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.processing.contract import Processing

ENGINES = {"duckdb": "madang.data.processing.duckdb:DuckDBProcessing"}
DEFAULT = "duckdb"


def connect(url: str | None, context: engines.Context) -> Processing:
    """Opens the processing engine that `url` names: `duckdb://?memory_limit=2GB&threads=2`."""
    return cast("Processing", engines.connect("data.processing", url, context))


__all__ = ["DEFAULT", "ENGINES", "Processing", "connect"]
