"""Time series in files: a write-ahead part, and sealed Parquet files of up to 250,000 samples.

    NUMBER.log                            what is not sealed yet; the highest number is written to
    NUMBER-FIRST-LAST-SAMPLES.parquet     a sealed log, with the times (ms) of its samples

A sealed file appears by a rename, and its log is removed after it: a log beside its sealed file is
one whose removal was interrupted, so each sample is read once. A reader reads logs before it lists
the sealed files, and begins again when a log is gone: so it can't miss what is sealed meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from madang.deployment.monitoring.series import _log
from madang.deployment.monitoring.series.contract import (
    SAMPLES,
    Labels,
    Matcher,
    Series,
    SeriesStore,
)
from madang.errors import InvalidInputError, SchemaMismatchError, UnavailableError

_SEAL_SAMPLES = 250_000
_SEAL_SECONDS = 86_400
_ROW_GROUP = 65_536
_TRIES = 20
_PIECES = 128  # many small tables take more memory, and time at each question, than one
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SEALED = re.compile(r"(\d+)-(-?\d+)-(-?\d+)-(\d+)\.parquet")


class LocalSeries(SeriesStore):
    """Time series in a folder.

    Memory while appending is bounded by the samples of one log; while reading also by what
    was asked for.

    Args:
        folder: It is made at the first append.
        seal_samples: A log of so many samples is sealed.
        seal_seconds: A log that spans so much time, and has a hundredth of these samples, too.
    """

    def __init__(
        self, folder: Path, *, seal_samples: int = _SEAL_SAMPLES, seal_seconds: int = _SEAL_SECONDS
    ) -> None:
        self._folder = folder
        self._seal_samples, self._seal_seconds = seal_samples, seal_seconds
        self._mutex = threading.Lock()
        self._read_log: tuple[int, int] = (0, 0)  # the log of `_rows`, and how far it was read
        self._rows: list[pa.Table] = []

    def append(self, samples: Any) -> int:
        rows = _rows(samples)
        if rows.num_rows == 0:
            return 0
        data = _log.record(rows)
        with self._mutex, self._writing():
            number, end = self._newest()
            end = _log.write(self._log(number), end, data)
            self._keep([rows])
            self._read_log = (number, end)
            if self._is_full():
                self._seal(number)
        return int(rows.num_rows)

    def select(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[Series]:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):  # sealed or forgotten meanwhile
                return _merged(self._parts(matchers, start_ms, end_ms))
        raise UnavailableError(f"{self._folder} changes faster than it can be read; try again")

    def forget(self, before_ms: int) -> int:
        removed = 0
        if not self._folder.exists():
            return 0
        with self._writing():
            newest = max([*self._logs(), *(number for number, *_ in self._sealed())], default=0)
            for number, _, last, samples, path in self._sealed():
                # The newest number stays: a reader that knows its log must never meet another one.
                if last < before_ms and number < newest:
                    path.unlink()
                    removed += samples
            _log.sync_folder(self._folder)
        return removed

    # -- files --

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _log(self, number: int) -> Path:
        return self._folder / f"{number}.log"

    def _logs(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.log"))

    def _sealed(self) -> list[tuple[int, int, int, int, Path]]:
        """Number, first and last time, samples and path of each."""
        found = []
        for path in self._folder.glob("*.parquet"):
            if match := _SEALED.fullmatch(path.name):
                number, first, last, samples = map(int, match.groups())
                found.append((number, first, last, samples, path))
        return sorted(found)

    def _newest(self) -> tuple[int, int]:
        """The log that is written to, and the end of its whole batches; finishes what was begun."""
        sealed = {number for number, *_ in self._sealed()}
        for number in self._logs():
            if number in sealed:  # its sealing was interrupted after the rename
                self._log(number).unlink()
        numbers = self._logs()
        number = numbers[-1] if numbers else max(sealed, default=0) + 1
        return number, self._refresh(number) if numbers else self._restart(number)

    def _restart(self, number: int) -> int:
        self._read_log, self._rows = (number, 0), []
        return 0

    def _refresh(self, number: int) -> int:
        """Reads what others appended to a log; returns where its whole batches end."""
        if self._read_log[0] != number:
            self._restart(number)
        new, end = _log.read(self._log(number), self._read_log[1])
        self._keep(new)
        self._read_log = (number, end)
        return end

    def _keep(self, rows: list[pa.Table]) -> None:
        self._rows += rows
        if len(self._rows) > _PIECES:
            whole = pa.concat_tables(self._rows).unify_dictionaries()
            self._rows = [whole.combine_chunks()]

    def _is_full(self) -> bool:
        samples: int = sum(rows.num_rows for rows in self._rows)
        if samples < self._seal_samples // 100:  # else samples of long ago would make many files
            return False
        times = [pc.min_max(rows["time"]).as_py() for rows in (self._rows[0], self._rows[-1])]
        span_ms: int = times[1]["max"] - times[0]["min"]
        return samples >= self._seal_samples or span_ms >= self._seal_seconds * 1000

    def _seal(self, number: int) -> None:
        rows = pa.concat_tables(self._rows).combine_chunks()
        rows = rows.set_column(0, "series", rows["series"].cast(pa.string()))
        # Stable, so that the last appended of one series and time stays the last.
        rows = rows.append_column("order", pa.array(range(rows.num_rows), pa.int64()))
        rows = rows.sort_by(
            [("series", "ascending"), ("time", "ascending"), ("order", "ascending")]
        )
        rows = rows.drop_columns(["order"])
        names = msgspec.json.encode(pc.unique(rows["series"]).to_pylist())
        rows = rows.replace_schema_metadata({b"series": names})
        times = pc.min_max(rows["time"]).as_py()
        path = self._folder / f"{number}-{times['min']}-{times['max']}-{rows.num_rows}.parquet"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            pq.write_table(
                rows, file, row_group_size=_ROW_GROUP, compression="zstd",
                use_dictionary=["series"],
                column_encoding={"time": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
            )  # fmt: skip
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        _log.sync_folder(self._folder)
        self._log(number).unlink()
        self._restart(number + 1)

    # -- reading --

    def _parts(
        self, matchers: Sequence[Matcher], start_ms: int, end_ms: int
    ) -> list[tuple[pa.Table, dict[str, Labels]]]:
        """The rows of each file, oldest file first, with the series that match."""
        unsealed = self._unsealed()
        found = []
        for number, first, last, _, path in self._sealed():
            if number in unsealed or last < start_ms or first > end_ms:
                continue
            names = msgspec.json.decode(pq.read_schema(path).metadata[b"series"], type=list[str])
            if wanted := _matching(names, matchers):
                rows = pq.read_table(
                    path, filters=[("series", "in", list(wanted)), ("time", ">=", start_ms),
                                   ("time", "<=", end_ms)],
                )  # fmt: skip
                found.append((rows, wanted))
        for tables in unsealed.values():
            if not tables:
                continue
            rows = pa.concat_tables(tables).combine_chunks()
            rows = rows.set_column(0, "series", rows["series"].cast(pa.string()))
            wanted = _matching(pc.unique(rows["series"]).to_pylist(), matchers)
            inside = pc.and_(
                pc.is_in(rows["series"], pa.array(list(wanted), pa.string())),
                pc.and_(
                    pc.greater_equal(rows["time"], start_ms), pc.less_equal(rows["time"], end_ms)
                ),
            )
            found.append((rows.filter(inside), wanted))
        return found

    def _unsealed(self) -> dict[int, list[pa.Table]]:
        with self._mutex:
            numbers = self._logs()
            found = {number: _log.read(self._log(number))[0] for number in numbers[:-1]}
            if numbers:
                self._refresh(numbers[-1])
                found[numbers[-1]] = list(self._rows)
            return found


def _rows(samples: Any) -> pa.Table:
    try:
        table = pa.table(samples).select(SAMPLES.names).cast(SAMPLES)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise SchemaMismatchError(
            f"samples have the columns {', '.join(SAMPLES.names)}; what was given can't be taken "
            f"as them: {error}"
        ) from error
    names = [
        _key(name, labels)
        for name, labels in zip(table["name"].to_pylist(), table["labels"].to_pylist(), strict=True)
    ]
    times = pc.divide(table["time"].cast(pa.int64()), 1000)
    series = pa.array(names, pa.string()).dictionary_encode()
    return pa.table([series, times, table["value"]], schema=_log.ROWS)


def _key(name: str, labels: Iterable[tuple[str, str]]) -> str:
    pairs = sorted((key, value) for key, value in labels if value)  # an empty one is an absent one
    keys = [key for key, _ in pairs]
    bad = [key for key in keys if not _LABEL.fullmatch(key) or key == "__name__"]
    if not _NAME.fullmatch(name) or bad or len(set(keys)) < len(keys):
        raise InvalidInputError(
            f"{name!r} with the labels {dict(pairs)!r} can't name a series: names are letters, "
            "digits and _, don't begin with a digit, and each label stands once"
        )
    return msgspec.json.encode([("__name__", name), *pairs]).decode()


@lru_cache(maxsize=100_000)
def _labels(key: str) -> Labels:
    return tuple(sorted((a, b) for a, b in msgspec.json.decode(key, type=list[tuple[str, str]])))


def _matching(keys: Sequence[str], matchers: Sequence[Matcher]) -> dict[str, Labels]:
    found = {key: _labels(key) for key in keys}
    for matcher in matchers:
        values = [dict(labels).get(matcher.label, "") for labels in found.values()]
        fits = _fits(values, matcher)
        found = {k: v for (k, v), fit in zip(found.items(), fits, strict=True) if fit}
    return found


def _fits(values: list[str], matcher: Matcher) -> list[bool]:
    if matcher.operator in {"=", "!="}:
        return [(value == matcher.value) == (matcher.operator == "=") for value in values]
    try:  # Arrow's is RE2, as Prometheus' own: no pattern can take exponential time
        found = pc.match_substring_regex(
            pa.array(values, pa.string()), f"^(?s:{matcher.value})$"
        ).to_pylist()
    except pa.ArrowInvalid as error:
        raise InvalidInputError(f"{matcher.value!r} is no regular expression: {error}") from error
    return [fit == (matcher.operator == "=~") for fit in found]


def _merged(parts: list[tuple[pa.Table, dict[str, Labels]]]) -> list[Series]:
    gathered: dict[Labels, list[tuple[Any, Any]]] = {}
    for rows, wanted in parts:
        coded = rows["series"].combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy(zero_copy_only=False)
        times, values = rows["time"].to_numpy(), rows["value"].to_numpy()
        order = np.argsort(codes, kind="stable")
        bounds = np.flatnonzero(np.diff(codes[order])) + 1
        for piece in np.split(order, bounds) if len(order) else []:
            labels = wanted[coded.dictionary[int(codes[piece[0]])].as_py()]
            gathered.setdefault(labels, []).append((times[piece], values[piece]))
    return [_series(labels, gathered[labels]) for labels in sorted(gathered)]


def _series(labels: Labels, pieces: list[tuple[Any, Any]]) -> Series:
    times = np.concatenate([times for times, _ in pieces])
    values = np.concatenate([values for _, values in pieces])
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    last = np.append(np.diff(times) != 0, True)
    return Series(labels, times[last], values[last])
