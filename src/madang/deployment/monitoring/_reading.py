"""The prediction log in batches: events as columns, whatever tensors they came in."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.validation.bins import Array
from madang.deployment.monitoring._state import microseconds
from madang.deployment.serving._tensors import DATATYPES

PREDICTION = "prediction"
"""The column of predicted labels or numbers."""

SCORE = "score"
"""The column of the second of two classes' probability."""

_LATEST_US = 250_000_000_000_000_000  # the year 9892: later times can't be told as dates
_PROBABILITIES = ("predict_proba", "probabilities", "output_probability")


class Tensor(msgspec.Struct):
    """A tensor of the log."""

    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    data_base64: str | None = None


class Event(msgspec.Struct):
    """A prediction of the log."""

    id: str
    model: str
    version: int
    time: datetime
    inputs: list[Tensor]
    outputs: list[Tensor]
    features: list[Tensor] = []

    @property
    def time_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return microseconds(self.time, "the event's time")

    @property
    def rows(self) -> int:
        """How many rows were predicted; -1 where the tensors differ in it."""
        counts = {
            tensor.shape[0] if tensor.shape and min(tensor.shape) >= 0 else -1
            for tensor in (*self.inputs, *self.outputs, *self.features)
        }
        return counts.pop() if len(counts) == 1 else -1


_decode = msgspec.json.Decoder(Event).decode


@dataclass(frozen=True)
class Rows:
    """Predicted rows of one shape.

    Attributes:
        ids: Of the request, shape (rows,).
        numbers: The place in the request, shape (rows,).
        times_us: When it was predicted, shape (rows,).
        models: `MODEL@VERSION`, shape (rows,).
        frame: Inputs, joined features, `prediction` and `score`, one column each.
        outputs: Probabilities (rows, classes), or predicted numbers (rows, 1); (rows, 0) without.
        sent: The columns that the client sent.
        joined: The columns that the server joined.
    """

    ids: list[str]
    numbers: Array
    times_us: Array
    models: list[str]
    frame: pl.DataFrame
    outputs: Array
    sent: tuple[str, ...]
    joined: tuple[str, ...]

    def take(self, rows: Array) -> Rows:
        """Some rows, by number."""
        pick = rows.tolist()
        return Rows(
            [self.ids[i] for i in pick], self.numbers[rows], self.times_us[rows],
            [self.models[i] for i in pick], self.frame[rows], self.outputs[rows],
            self.sent, self.joined,
        )  # fmt: skip

    def by_window(self, window_us: int) -> Iterator[tuple[int, Rows]]:
        """Rows by the start of their window."""
        starts = self.times_us // window_us * window_us
        for start in np.unique(starts):
            yield int(start), self.take(np.flatnonzero(starts == start))


def decoded(batch: pa.RecordBatch) -> tuple[list[Event], int]:
    """The predictions in a batch of events, and how many events are none."""
    found, unreadable = [], 0
    for value in batch["value"].to_pylist():
        try:
            event = _decode(value or b"")
            usable = event.time.tzinfo is not None and event.rows >= 0
            if usable and 0 <= event.time_us < _LATEST_US:
                found.append(event)
                continue
        except (msgspec.DecodeError, OverflowError):
            pass
        unreadable += 1
    return found, unreadable


def rows_of(events: Sequence[Event], matrix: Sequence[str] = ()) -> tuple[list[Rows], int]:
    """Events as columns, those of one shape together, and how many hold no usable tensors.

    Args:
        events: Predictions.
        matrix: The names of the columns of a matrix input.
    """
    groups: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        groups[_shape(event)].append(event)
    found, unreadable = [], 0
    for group in groups.values():
        try:
            found.append(_assembled(group, matrix))
        except (ValueError, TypeError, KeyError, OverflowError):
            if len(group) == 1:
                unreadable += 1
                continue
            for event in group:  # one bad event must not take the others with it
                made, bad = rows_of([event], matrix)
                found += made
                unreadable += bad
    return found, unreadable


def _shape(event: Event) -> tuple[Any, ...]:
    return tuple(
        tuple((t.name, t.datatype, *t.shape[1:], t.data_base64 is None) for t in tensors)
        for tensors in (event.inputs, event.outputs, event.features)
    )


def _assembled(events: list[Event], matrix: Sequence[str]) -> Rows:
    counts = np.array([event.rows for event in events])
    sent: dict[str, Array] = {}
    for place in range(len(events[0].inputs)):
        sent |= _columns([event.inputs[place] for event in events], matrix)
    joined: dict[str, Array] = {}
    for place, tensor in enumerate(events[0].features):
        if not tensor.name.endswith("__timestamp"):
            joined |= _columns([event.features[place] for event in events], ())
    arrays = {
        tensor.name: _array([event.outputs[place] for event in events])
        for place, tensor in enumerate(events[0].outputs)
    }
    predicted, outputs = _predictions(arrays, int(counts.sum()))
    each = np.repeat(np.arange(len(events)), counts)
    first = np.cumsum(counts) - counts
    times = np.array([event.time_us for event in events], np.int64)
    models = [f"{event.model}@{event.version}" for event in events]
    columns = {name: _series(name, values) for name, values in (sent | joined | predicted).items()}
    if any("\0" in name for name in columns):
        raise ValueError("Arrow has no such names")
    return Rows(
        [events[i].id for i in each], np.arange(len(each)) - first[each], times[each],
        [models[i] for i in each], pl.DataFrame(columns), outputs, tuple(sent), tuple(joined),
    )  # fmt: skip


def _columns(tensors: list[Tensor], matrix: Sequence[str]) -> dict[str, Array]:
    array, name = _array(tensors), tensors[0].name
    flat = array.reshape(len(array), math.prod(array.shape[1:]))
    if array.ndim == 1 or (flat.shape[1] == 1 and len(matrix) != 1):
        return {name: flat[:, 0]}
    names = (
        matrix if len(matrix) == flat.shape[1] else [f"{name}_{i}" for i in range(flat.shape[1])]
    )
    return {one: flat[:, i] for i, one in enumerate(names)}


def _array(tensors: list[Tensor]) -> Array:
    """One tensor of several events, shape (rows, …)."""
    first = tensors[0]
    shape = (sum(tensor.shape[0] for tensor in tensors), *first.shape[1:])
    kind = np.dtype(DATATYPES[first.datatype])
    if first.data_base64 is not None:
        raw = b"".join(base64.b64decode(t.data_base64 or "", validate=True) for t in tensors)
        return np.frombuffer(raw, kind.newbyteorder("<")).astype(kind).reshape(shape)
    values = [value for tensor in tensors for value in _flat(tensor.data)]
    # JSON has no NaN: null stands for it; null has no place in other types of arrays.
    if kind.kind == "f" or (kind.kind != "U" and None not in values):
        return np.array(values, kind).reshape(shape)
    return np.array(values, object).reshape(shape)


def _flat(values: Any) -> Iterator[Any]:
    if values and isinstance(values[0], list):
        for part in values:
            yield from _flat(part)
    else:
        yield from values


def _series(name: str, values: Array) -> pl.Series:
    if values.dtype != object:
        return pl.Series(name, values)
    texts = any(isinstance(value, str) for value in values)
    return pl.Series(name, values.tolist(), dtype=pl.String if texts else None, strict=False)


def _predictions(arrays: dict[str, Array], rows: int) -> tuple[dict[str, Array], Array]:
    """The columns `prediction` and `score`, and the outputs that quality is measured by."""
    chances = _chances(arrays)
    labels = next((a for a in arrays.values() if a.ndim == 1 or a.shape[1:] == (1,)), None)
    columns: dict[str, Array] = {}
    if labels is not None:
        columns[PREDICTION] = labels.reshape(rows)
    if chances is not None:
        if chances.shape[1] == 2:
            columns[SCORE] = chances[:, 1]
        return columns, chances.astype(float)
    if labels is not None and labels.dtype.kind in "fiu":
        return columns, labels.reshape(rows, 1).astype(float)
    return columns, np.empty((rows, 0))


def _chances(arrays: dict[str, Array]) -> Array | None:
    wide = {
        name: a for name, a in arrays.items()
        if a.ndim == 2 and a.shape[1] >= 2 and a.dtype.kind == "f"
    }  # fmt: skip
    for name in _PROBABILITIES:
        if name in wide:
            return wide[name]
    return next(iter(wide.values())) if len(wide) == 1 else None


def outputs_of(answer: dict[str, Any], rows: int) -> dict[str, Array]:
    """The columns `prediction` and `score` of a loaded model's outputs."""
    return _predictions({name: np.asarray(value) for name, value in answer.items()}, rows)[0]


def priority(id: str, number: int) -> int:
    """A hash by which rows are drawn: the same rows, whatever the order of reading."""
    digest = hashlib.sha256(f"{id}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
