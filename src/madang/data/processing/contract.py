"""What a processing engine promises: SQL over datasets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from madang.engines import Engine


@dataclass(frozen=True)
class Materialization:
    """What materializing a view did.

    Attributes:
        view: Its name.
        dataset: What it was written into.
        version: The dataset's version that has the view's rows now.
        mode: `unchanged` (no source is new, nothing was written), `rows`, `sums` or `partitions`
            (from what is new), or `full`.
        sources: The version of each dataset that the rows come from.
        reason: Why it was computed in full.
    """

    view: str
    dataset: str
    version: int
    mode: str
    sources: Mapping[str, int]
    reason: str = ""


class Processing(Engine):
    """SQL (DuckDB's dialect) over the project's datasets and over Arrow tables that are handed in.

    Every engine promises: a query sees one version of each dataset, from its start to its end;
    queries of several threads run at once and never see each other's tables; a query can only
    read: nothing of the machine outside of the datasets, and no change. What does not fit in the
    engine's memory is spilled, or refused with an error that says so; nothing of it is left behind.
    """

    @abstractmethod
    def query(
        self,
        sql: str,
        *,
        tables: Mapping[str, Any] | None = None,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> pa.Table:
        """Runs one SELECT.

        Args:
            sql: Names datasets as tables.
            tables: More tables by name, for this query only (Arrow PyCapsule interface, or a
                `pyarrow.dataset.Dataset`, which is scanned as it is needed); they shadow datasets.
            parameters: For `?` or `$name`.
            versions: A dataset's version to read instead of the newest, by name.

        Raises:
            NotFoundError: A table is neither a dataset nor in `tables`.
            InvalidInputError: The SQL is wrong, or is not a query; with the engine's message.
        """

    @abstractmethod
    def stream(
        self,
        sql: str,
        *,
        tables: Mapping[str, Any] | None = None,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> pa.RecordBatchReader:
        """As `query`, in batches, for results that are larger than memory."""

    @abstractmethod
    def datasets_of(self, sql: str) -> list[str]:
        """The names of the tables that a query reads, sorted (for lineage).

        Raises:
            InvalidInputError: The SQL can't be parsed.
        """
