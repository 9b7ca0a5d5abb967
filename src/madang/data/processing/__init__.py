"""SQL and table functions over datasets and views: DuckDB."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.processing.contract import Materialization, Processing
from madang.data.processing.lineage import ColumnLineage, Lineage
from madang.data.processing.views import View, view

ENGINES = {"duckdb": "madang.data.processing.duckdb:DuckDBProcessing"}
DEFAULT = "duckdb"


def connect(url: str | None, context: engines.Context) -> Processing:
    """Opens the processing engine that `url` names: `duckdb://?memory_limit=2GB&threads=2`."""
    return cast("Processing", engines.connect("data.processing", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "ColumnLineage",
    "Lineage",
    "Materialization",
    "Processing",
    "View",
    "connect",
    "view",
]
