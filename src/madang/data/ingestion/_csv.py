"""CSV: rows of a stream behind the first so many, each cell read as its column's type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import csv

from madang.data.ingestion._judge import refused
from madang.data.ingestion._lines import MAX_LINE_BYTES, Chunk
from madang.data.ingestion._texts import from_texts
from madang.errors import InvalidInputError


def read_csv(
    open: Callable[[], BinaryIO],
    source: str,
    schema: pa.Schema,
    *,
    after: int,
    delimiter: str,
    batch_rows: int,
) -> Iterator[Chunk]:
    """Rows behind the first `after`; the first line has the columns' names.

    A row with too many or too few cells, or with a cell that is no value of its column, is refused
    with its number. An empty cell is null, a quoted empty one is an empty text. Line breaks may
    stand in quotes.

    Raises:
        InvalidInputError: The header is not UTF-8, or a row is longer than 16 MiB.
    """
    try:
        yield from _read(open, source, schema, after, delimiter, batch_rows)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return
        text = str(error)
        if "straddling" in text:
            text = f"a row has more than {MAX_LINE_BYTES} bytes; is a quote not closed?"
        raise InvalidInputError(f"{source} can't be read as CSV: {text}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{source} can't be read as CSV: its header is not UTF-8; "
            "convert the file, such as with: iconv -f UTF-16 -t UTF-8"
        ) from error


def _read(  # noqa: PLR0917 - the arguments of read_csv
    open: Callable[[], BinaryIO],
    source: str,
    schema: pa.Schema,
    after: int,
    delimiter: str,
    batch_rows: int,
) -> Iterator[Chunk]:
    wrong: list[csv.InvalidRow] = []

    def set_aside(row: csv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    with open() as stream:
        names = _reader(stream, delimiter, {}, lambda _: "skip").schema.names
    if len({*names}) < len(names):
        raise InvalidInputError(f"{source}: the header has a name twice: {', '.join(names)}")
    with open() as stream:
        reader = _reader(stream, delimiter, dict.fromkeys(names, pa.binary()), set_aside)
        done, used = 0, 0
        for batch in reader:
            # A batch's rows and the refused ones among them, by the numbers of all rows.
            end, mine = done + batch.num_rows, []
            while used < len(wrong) and _number(wrong[used]) <= end + 1:
                mine.append(wrong[used])
                used += 1
                end += 1
            numbers = _numbers(done, end, mine)
            yield from _chunks(pa.table(batch), numbers, mine, source, schema, after, batch_rows)
            done = end
        left = wrong[used:]
        if left:
            rows = pa.table({name: pa.array([], pa.binary()) for name in names})
            yield from _chunks(rows, pa.array([], pa.int64()), left, source, schema, after, 1)


def _reader(
    stream: BinaryIO, delimiter: str, types: dict[str, pa.DataType], handler: Any
) -> csv.CSVStreamingReader:
    return csv.open_csv(
        stream,
        # With one thread, so that refused rows have their numbers.
        csv.ReadOptions(use_threads=False, block_size=MAX_LINE_BYTES),
        csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=handler
        ),
        csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False,
            null_values=[""], check_utf8=False,
        ),
    )  # fmt: skip


def _number(row: csv.InvalidRow) -> int:
    """A refused row's number, from 1 without the header."""
    return int(row.number) - 1


def _numbers(done: int, end: int, wrong: list[csv.InvalidRow]) -> pa.Array:
    without = {_number(row) for row in wrong}
    return pa.array([n for n in range(done + 1, end + 1) if n not in without], pa.int64())


def _chunks(  # noqa: PLR0917 - internal
    rows: pa.Table,
    numbers: pa.Array,
    wrong: list[csv.InvalidRow],
    source: str,
    schema: pa.Schema,
    after: int,
    batch_rows: int,
) -> Iterator[Chunk]:
    """The rows behind `after` in chunks, each with the refused ones before its end."""
    keep = [(n, row) for row in wrong if (n := _number(row)) > after]
    skipped = int(np.searchsorted(numbers.to_numpy(), after, side="right"))
    rows, numbers = rows.slice(skipped), numbers[skipped:]
    starts = range(0, rows.num_rows, batch_rows)
    for start in starts:
        part, those = rows.slice(start, batch_rows), numbers[start : start + batch_rows]
        last = those[-1].as_py() if start + batch_rows < rows.num_rows else None
        here = [item for item in keep if last is None or item[0] < last]
        keep = keep[len(here) :]
        good, kept, bad = from_texts(part, schema, those, source)
        bad = pa.concat_tables([_refused(here, source), bad])
        at = max([those[-1].as_py(), *(n for n, _ in here)])
        yield Chunk(good, kept, bad, at, at)
    if keep:  # behind the last row
        good, kept, _ = from_texts(rows, schema, numbers, source)
        yield Chunk(good, kept, _refused(keep, source), keep[-1][0], keep[-1][0])


def _refused(found: list[tuple[int, csv.InvalidRow]], source: str) -> pa.Table:
    return refused(
        source,
        [number for number, _ in found],
        [row.text.encode() if isinstance(row.text, str) else row.text for _, row in found],
        [
            f"read: the row has {row.actual_columns} cells, and the header has "
            f"{row.expected_columns}"
            for _, row in found
        ],
    )
