"""A dataset's rows as a stream in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.dataset as pads

_BATCH_ROWS = 65_536


def stream(found: pads.Dataset, columns: list[str] | None) -> pa.RecordBatchReader:
    """The rows in the order of the files, a row group at a time, and the next one meanwhile.

    Not by the dataset's own scanner: it reads ahead up to 1 GiB for a reader that is slower than it
    (Arrow's `kDefaultBackpressureHighBytes`), and can't be told not to.
    """
    schema = found.schema
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    return pa.RecordBatchReader.from_batches(schema, _batches(found, schema))


def _batches(found: pads.Dataset, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    groups = _row_groups(found)
    with ThreadPoolExecutor(1, "madang-read") as ahead:

        def load() -> pa.Table | None:
            group = next(groups, None)
            if group is None:
                return None
            return group.to_table(schema=found.schema, columns=schema.names)

        coming = ahead.submit(load)
        while (table := coming.result()) is not None:
            coming = ahead.submit(load)
            for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            del table


def _row_groups(found: pads.Dataset) -> Iterator[pads.Fragment]:
    for fragment in found.get_fragments():
        yield from fragment.split_by_row_group()
