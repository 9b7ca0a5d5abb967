"""Files and folders: `file:///in/*.csv`, `file:///in`, `file:////srv/events.jsonl`.

The position of a file says how far it was read and how it looked: its size, its time of change, its
inode, and a fingerprint of both ends of what was read. So a file that grew is gone on with, one that
was renamed is not read again, and one with other content is read as a new one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any, Self

import pyarrow as pa

from madang.data.ingestion._csv import read_csv
from madang.data.ingestion._lines import Chunk, Lines
from madang.data.ingestion.contract import QUARANTINE_SCHEMA, Piece, Source
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError

FORMATS = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "csv",
}
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_END_BYTES = 64 << 10

_log = logging.getLogger(__name__)


class FileSource(Source):
    """Rows of CSV, JSON lines and Parquet files, file by file in the order of their names.

    Args:
        pattern: A file, a folder (all files in it with a known ending) or a pattern with `*`.
        name: How the source is called on record.
        format: `csv`, `jsonl` or `parquet`; default: by each file's ending.
        delimiter: Between the cells of a CSV file; default: a comma, in `.tsv` files a tab.
        settle_seconds: A file that changed since is taken to be still written: of JSON lines the
            lines that are complete are read, any other file waits.
    """

    def __init__(
        self,
        pattern: Path,
        name: str,
        *,
        format: str | None = None,
        delimiter: str | None = None,
        settle_seconds: float = 2.0,
    ) -> None:
        self.identity = f"file:{name}"
        self._pattern, self._format = pattern, format
        self._delimiter, self._settle_seconds = delimiter, settle_seconds
        self._base = _base(pattern)
        self._pause = Event()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"format", "delimiter", "settle_seconds"})
        format = url.query.get("format")
        if format is not None and format not in FORMATS.values():
            known = ", ".join(sorted({*FORMATS.values()}))
            raise ConfigurationError(f"file://?format={format}: formats are: {known}")
        delimiter = url.query.get("delimiter")
        if delimiter is not None and len(delimiter) != 1:
            raise ConfigurationError(f"file://?delimiter must be one character: {delimiter!r}")
        text = url.query.get("settle_seconds", "2")
        try:
            seconds = float(text)
        except ValueError as error:
            raise ConfigurationError(
                f"file://?settle_seconds must be a number of seconds: {text!r}"
            ) from error
        return cls(
            url.local_path(context.root), url.path[1:],
            format=format, delimiter=delimiter, settle_seconds=seconds,
        )  # fmt: skip

    def health(self) -> Health:
        if self._base.is_dir():
            return Health(True, f"{self._base}")
        return Health(False, f"there is no folder {self._base}", "make it, or change the URL")

    def wait(self, stop: Event, seconds: float) -> None:
        """Returns when a file changes, when `stop` is set, or after `seconds`."""
        try:
            import watchfiles
        except ModuleNotFoundError:  # the extra `watch`: without it, looking now and then is enough
            super().wait(stop, seconds)
            return
        for _ in watchfiles.watch(
            self._base, stop_event=stop, rust_timeout=int(seconds * 1000), yield_on_timeout=True,
            raise_interrupt=False, recursive="**" in str(self._pattern),
        ):  # fmt: skip
            break

    def read(
        self, positions: Mapping[str, Any], schema: pa.Schema, *, batch_rows: int
    ) -> Iterator[Piece]:
        files = self._files()
        renamed = _renamed(files, positions)
        # On record before a new file of the old name takes its place there.
        for part, (_, at) in renamed.items():
            yield _nothing_but(part, at)
        moved = {old for old, _ in renamed.values()}
        known = {part: at for part, at in positions.items() if part not in moved}
        known |= {part: at for part, (_, at) in renamed.items()}
        for part, path in files.items():
            try:
                yield from self._pieces(part, path, known.get(part), schema, batch_rows)
            except FileNotFoundError:  # removed since the folder was listed
                _log.info("%s is gone", path)
            except OSError as error:
                raise InvalidInputError(f"{path} can't be read: {error.strerror}") from error

    # -- which files -----------------------------------------------------------------------------

    def _files(self) -> dict[str, Path]:
        """Part to path, in order."""
        if self._pattern.is_file():
            return {_part(self._pattern, self._base): self._pattern}
        if not self._base.is_dir():
            raise NotFoundError(f"there is no folder {self._base}; make it, or change the URL")
        if self._pattern == self._base:
            found = [path for path in self._base.iterdir() if self._of(path) is not None]
        elif not _is_pattern(self._pattern):
            raise NotFoundError(f"there is no file {self._pattern}")
        else:
            found = list(self._base.glob(str(self._pattern.relative_to(self._base))))
        named = {_part(path, self._base): path for path in found if _is_finished(path)}
        return dict(sorted(named.items()))

    def _of(self, path: Path) -> str | None:
        return self._format or FORMATS.get(path.suffix.lower())

    # -- one file --------------------------------------------------------------------------------

    def _pieces(
        self, part: str, path: Path, old: Any, schema: pa.Schema, batch_rows: int
    ) -> Iterator[Piece]:
        format = self._of(path)
        if format is None:
            raise InvalidInputError(
                f"{path.name!r} has none of the endings {', '.join(FORMATS)}; "
                "say what it is: file://…?format=csv"
            )
        if old is not None and old["done"] and _same_stat(old, path.stat()):
            return
        stat, settled = self._settled(path)
        start = self._start(path, format, stat, old)
        if start is None or (format != "jsonl" and not settled):
            return
        held: tuple[Chunk, Piece] | None = None
        chunks = self._chunks(part, path, format, stat, start, settled, schema, batch_rows)
        for chunk in chunks:
            if not chunk.rows.num_rows and not chunk.refused.num_rows:
                continue  # blank lines
            if held is not None:
                yield held[1]
            position = _position(path, format, stat, chunk, done=False)
            piece = Piece(
                part, position, chunk.rows, chunk.numbers, chunk.refused, stat.st_mtime_ns // 1000
            )
            held = (chunk, piece)
        if held is not None:
            chunk, piece = held
            done = format != "jsonl" or chunk.at == stat.st_size
            position = _position(path, format, stat, chunk, done=done)
            yield Piece(part, position, piece.rows, piece.numbers, piece.refused, piece.newest_us)

    def _settled(self, path: Path) -> tuple[os.stat_result, bool]:
        """How the file is now, and whether nobody writes it any more."""
        stat = path.stat()
        age = time.time() - stat.st_mtime
        if age >= self._settle_seconds:
            return stat, True
        self._pause.wait(self._settle_seconds - max(age, 0.0))
        later = path.stat()
        same = (later.st_size, later.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        return later, same

    def _start(
        self, path: Path, format: str, stat: os.stat_result, old: Any
    ) -> tuple[int, int] | None:
        """Where to begin: (byte or row, line); `None` when there is nothing new."""
        if old is None:
            return 0, 0
        if stat.st_size >= old["size"] and _fingerprint(path, old["span"]) == old["print"]:
            grew = stat.st_size > old["size"]
            if old["done"] and not grew:
                return None
            if not old["done"] or format != "parquet":
                return old["at"], old["line"]
        _log.warning("%s has other content than before: it is read as a new file", path)
        return 0, 0

    def _chunks(  # noqa: PLR0917 - what `_pieces` found out
        self,
        part: str,
        path: Path,
        format: str,
        stat: os.stat_result,
        start: tuple[int, int],
        settled: bool,  # noqa: FBT001
        schema: pa.Schema,
        batch_rows: int,
    ) -> Iterator[Chunk]:
        name = f"{self.identity}/{part}"
        at, line = start
        if format == "jsonl":
            with path.open("rb") as stream:
                stream.seek(at)
                lines = Lines(stream, name, at=at, line=line, size=stat.st_size, whole=settled)
                yield from lines.read(batch_rows)
        elif format == "csv":
            delimiter = self._delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
            yield from read_csv(
                lambda: path.open("rb"), name, schema,
                after=at, delimiter=delimiter, batch_rows=batch_rows,
            )  # fmt: skip
        else:
            yield from _parquet(path, at, batch_rows)


def _parquet(path: Path, after: int, batch_rows: int) -> Iterator[Chunk]:
    """Rows behind the first `after`, without reading the row groups before them."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            first, skipped = 0, 0
            while first < len(sizes) and skipped + sizes[first] <= after:
                skipped += sizes[first]
                first += 1
            groups = list(range(first, len(sizes)))
            for batch in file.iter_batches(batch_rows, row_groups=groups) if groups else ():
                rows = pa.table(batch)
                numbers = pa.array(range(skipped + 1, skipped + rows.num_rows + 1), pa.int64())
                skipped += rows.num_rows
                left = min(max(0, skipped - after), rows.num_rows)
                if left:
                    rows = rows.slice(rows.num_rows - left)
                    numbers = numbers.slice(len(numbers) - left)
                    bad = QUARANTINE_SCHEMA.empty_table()
                    yield Chunk(rows, numbers, bad, skipped, skipped)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInputError(f"{path} can't be read as Parquet: {error}") from error


def _position(
    path: Path, format: str, stat: os.stat_result, chunk: Chunk, *, done: bool
) -> dict[str, Any]:
    span = chunk.at if format == "jsonl" else stat.st_size
    return {
        "at": chunk.at,
        "line": chunk.line,
        "size": max(span, chunk.at) if format == "jsonl" else stat.st_size,
        "mtime": stat.st_mtime_ns,
        "inode": stat.st_ino,
        "span": span,
        "print": _fingerprint(path, span),
        "done": done,
    }


def _same_stat(old: Mapping[str, Any], stat: os.stat_result) -> bool:
    return bool((old["size"], old["mtime"]) == (stat.st_size, stat.st_mtime_ns))


def _renamed(
    files: Mapping[str, Path], positions: Mapping[str, Any]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Part to the name and position that its file had before, for files that were renamed."""
    known = {at["inode"]: part for part, at in positions.items()}
    found = {}
    for part, path in files.items():
        try:
            stat = path.stat()
            before = known.get(stat.st_ino, part)
            if before != part and _is_same(path, stat, positions[before]):
                found[part] = (before, positions[before])
        except OSError:  # it is looked at again, and told, when it is read
            continue
    return found


def _is_same(path: Path, stat: os.stat_result, old: Mapping[str, Any]) -> bool:
    # An inode is given to another file soon; renaming keeps the time of change.
    if not (_same_stat(old, stat) or stat.st_size > old["size"]):
        return False
    return bool(_fingerprint(path, old["span"]) == old["print"])


def _nothing_but(part: str, position: Any) -> Piece:
    return Piece(part, position, pa.table({"value": pa.array([], pa.binary())}), pa.array([], pa.int64()))  # fmt: skip


def _fingerprint(path: Path, size: int) -> str:
    """Of the first `size` bytes: their number and both ends."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(min(size, _END_BYTES)))
        file.seek(max(0, size - _END_BYTES))
        digest.update(file.read(min(size, _END_BYTES)))
    return digest.hexdigest()


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[")


def _base(pattern: Path) -> Path:
    """The folder that the names of parts are relative to."""
    if _is_pattern(pattern):
        folder = pattern
        while _is_pattern(folder):
            folder = folder.parent
        return folder
    return pattern if pattern.is_dir() else pattern.parent


def _part(path: Path, base: Path) -> str:
    return os.fsencode(path.relative_to(base)).decode("utf-8", "backslashreplace")


def _is_finished(path: Path) -> bool:
    """Whether it is a file, and not one that a program keeps while it writes."""
    return not path.name.startswith((".", "_", "~")) and not path.name.endswith(_UNFINISHED) and path.is_file()  # fmt: skip
