"""The other datasets that checks compare with, each in one version for the whole validation."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from madang.data.validation._expressions import as_frame
from madang.data.validation._sample import Sample
from madang.data.validation._typed import as_table, convert
from madang.data.validation._types import label
from madang.data.validation.contract import Column
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from madang.data.storage import Storage

_CACHED = 8


class Cache:
    """The last few keys and samples that were read, for validations of many small batches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Any, pl.DataFrame] = OrderedDict()

    def get(self, key: Any, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """What `read` gave for this key, read again only after `_CACHED` others."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        found = read()
        with self._lock:
            self._held[key] = found
            while len(self._held) > _CACHED:
                self._held.popitem(last=False)
        return found


class References:
    """Reads what checks refer to, and notes which versions.

    Args:
        storage: Gives the project's storage; `None` where there is none.
        tables: Tables that stand for datasets.
        pinned: Versions that are already decided, such as those of a part that is resumed.
        cache: Shared by the validations of an engine.
    """

    def __init__(
        self,
        storage: Callable[[], Storage] | None,
        tables: Mapping[str, Any] | None = None,
        pinned: Mapping[str, int | None] | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._storage = storage
        self._tables = {name: as_table(data) for name, data in (tables or {}).items()}
        self._cache = cache or Cache()
        self.used: dict[str, int | None] = dict(pinned or {})

    @property
    def names(self) -> tuple[str, ...]:
        """What was compared with: `dataset:NAME@VERSION`, or `table:NAME` for one handed in."""
        return tuple(
            f"table:{name}" if version is None else f"dataset:{name}@{version}"
            for name, version in sorted(self.used.items())
        )

    def keys(
        self, dataset: str, version: int | None, columns: Mapping[str, Column]
    ) -> pl.DataFrame:
        """The distinct keys of a dataset, in the types of the columns that refer to them.

        Args:
            dataset: The dataset's name.
            version: Its version; `None` for the newest.
            columns: By the name there, the column here.
        """
        chosen = self._version(dataset, version)

        def read() -> pl.DataFrame:
            held: list[pl.DataFrame] = []
            for table in self._parts(dataset, chosen, list(columns)):
                held.append(_conformed(table, dataset, columns))
                # As often as their number doubles, so that it costs no more than a few passes.
                if sum(frame.height for frame in held[1:]) > held[0].height:
                    held = [pl.concat(held).unique()]
            return pl.concat(held).unique() if held else pl.DataFrame()

        if chosen is None:
            return read()
        named = tuple((name, column.type) for name, column in columns.items())
        return self._cache.get(("keys", dataset, chosen, named), read)

    def sample(self, dataset: str, version: int | None, column: Column) -> pl.Series:
        """A random sample of a column's values in a dataset."""
        chosen = self._version(dataset, version)

        def read() -> pl.DataFrame:
            sample, row = Sample(), 0
            for table in self._parts(dataset, chosen, [column.name]):
                frame = _conformed(table, dataset, {column.name: column}, distinct=False)
                numbers = pl.int_range(row, row + table.num_rows, dtype=pl.UInt64, eager=True)
                sample.add(frame, numbers)
                row += table.num_rows
            return pl.DataFrame() if sample.rows is None else sample.rows

        frame = (
            read()
            if chosen is None
            else self._cache.get(("sample", dataset, chosen, column.name, column.type), read)
        )
        return frame.to_series() if frame.width else pl.Series([], dtype=pl.Null)

    def rows(self, dataset: str, version: int | None) -> int:
        """How many rows a dataset has."""
        chosen = self._version(dataset, version)
        return sum(table.num_rows for table in self._parts(dataset, chosen, None))

    def previous(self, dataset: str, version: int | None) -> int | None:
        """The version before `version` (`None`: the newest there is); `None` when there is none."""
        known = self.used.get(dataset)
        if known is not None:
            return known
        if version is not None:
            return version - 1 if version else None
        if self._storage is None:
            return None
        try:
            return self._storage().versions(dataset, limit=1)[-1].version
        except NotFoundError:
            return None

    def _version(self, dataset: str, version: int | None) -> int | None:
        """Decides the version once; `None` for a table that was handed in."""
        if dataset in self._tables:
            chosen = None
        elif self.used.get(dataset) is not None and version in (None, self.used[dataset]):
            return self.used[dataset]
        elif self._storage is None:
            raise ConfigurationError(
                f"a check refers to the dataset {dataset!r}, and this engine has no storage; hand "
                "the table in by `references`, or use the engine of a project"
            )
        elif version is not None:
            chosen = version
        else:
            chosen = self._storage().versions(dataset, limit=1)[-1].version
        if dataset in self.used and self.used[dataset] != chosen:
            raise InvalidInputError(
                f"checks refer to the dataset {dataset!r} in version {chosen} and in version "
                f"{self.used[dataset]}; let them name one"
            )
        self.used[dataset] = chosen
        return chosen

    def _parts(self, dataset: str, version: int | None, columns: list[str] | None) -> Any:
        if version is None:
            table = self._tables[dataset]
            missing = [name for name in columns or () if name not in table.column_names]
            if missing:
                raise NotFoundError(
                    f"the table for {dataset!r} has no column {missing[0]!r}; its columns are: "
                    f"{', '.join(table.column_names)}"
                )
            return [table if columns is None else table.select(columns)]
        if self._storage is None:
            raise ConfigurationError(f"no storage to read the dataset {dataset!r} from")
        storage = self._storage()
        if columns is None:
            columns = storage.read(dataset, version=version).schema.names[:1]
        reader = storage.read(dataset, version=version, columns=columns)
        return (pa.Table.from_batches([batch]) for batch in reader)


def _conformed(
    table: pa.Table, dataset: str, columns: Mapping[str, Column], *, distinct: bool = True
) -> pl.DataFrame:
    """The columns in the types of those that refer to them; a value that has no place there is left out.

    Raises:
        InvalidInputError: The types are of different kinds.
    """
    arrays = []
    for name, column in columns.items():
        array = convert(table[name], column)
        if array is None:
            raise InvalidInputError(
                f"column {column.name!r} is {label(column.type)}, and {name!r} of the dataset "
                f"{dataset!r} is {label(table[name].type)}; the two can't be compared"
            )
        arrays.append(array)
    frame = as_frame(pa.table(arrays, names=[f"k{i}" for i in range(len(arrays))]))
    return frame.drop_nulls().unique() if distinct else frame
