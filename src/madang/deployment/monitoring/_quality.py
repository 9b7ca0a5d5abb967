"""Predictions joined with their outcomes, and how good they were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from madang.data.validation.bins import Array
from madang.deployment.monitoring._state import Configured
from madang.deployment.monitoring.values import Quality
from madang.development.experiments.evaluation import MIN_KNOWN, expected, observed
from madang.metadata import Database, Row

PAGE_ROWS = 20_000
CALIBRATION_ROWS = 50_000
"""An estimate's calibration rests on at most so many of the latest known outcomes before it."""

MIN_ROWS = 30
"""Of fewer outcomes no quality is told."""


@dataclass(frozen=True)
class Joined:
    """Predictions of a stretch of time.

    Attributes:
        outputs: Probabilities (rows, classes), or predicted numbers (rows, 1).
        truth: The index of the class, or the number; NaN while it is not known. Shape (rows,).
        models: The index of each row's model, shape (rows,).
        names: The models, `MODEL@VERSION`.
        classes: In the order of the probabilities; empty for numbers.
        predictions: How many rows there are in all.
        unusable: Outcomes that are no class and no number.
    """

    outputs: Array
    truth: Array
    models: Array
    names: tuple[str, ...]
    classes: tuple[Any, ...]
    predictions: int
    unusable: int

    @property
    def known(self) -> Array:
        """Whether the outcome is known, shape (rows,)."""
        return ~np.isnan(self.truth)


class Truth:
    """Outcomes' JSON as numbers: a class' index, or the number itself."""

    def __init__(self, classes: Sequence[Any]) -> None:
        self._classes = {_key(value): float(index) for index, value in enumerate(classes)}
        self._known: dict[str | None, float] = {None: np.nan, "null": np.nan}

    def __call__(self, text: str | None) -> float:
        """NaN for none; infinity for what is no class and no number."""
        found = self._known.get(text)
        if found is None:
            value = msgspec.json.decode(text or "null")
            found = self._classes.get(_key(value), np.inf) if self._classes else _number(value)
            if len(self._known) < 10_000:
                self._known[text] = found
        return found


def _key(value: Any) -> tuple[str, Any]:
    if isinstance(value, bool | int | float):
        return "number", float(value)
    return "text", value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, bool | int | float) else np.inf


def joined(
    database: Database, project: str, monitor: Configured, start_us: int, end_us: int
) -> Joined:
    """The predictions of a stretch of time with their outcomes, a page at a time."""
    parts: dict[int, list[tuple[Array, Array, Array]]] = defaultdict(list)
    readers: dict[int, Truth] = {}
    names: dict[str, int] = {}
    for rows in _pages(database, project, monitor.monitor.name, start_us, end_us):
        by_width: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            by_width[len(row[3])].append(row)
        for width, some in by_width.items():
            blob = b"".join(bytes(row[3]) for row in some)
            outputs = np.frombuffer(blob, "<f8").reshape(len(some), width // 8)
            indices = [names.setdefault(row[4], len(names)) for row in some]
            read = readers.setdefault(width // 8, Truth(_classes(monitor, width // 8)))
            truths = np.array([read(row[5]) for row in some], float)
            parts[width // 8].append((outputs, truths, np.array(indices)))
    total = sum(len(part[0]) for some in parts.values() for part in some)
    parts.pop(0, None)
    if not parts:
        return Joined(np.empty((0, 1)), np.empty(0), np.empty(0, int), tuple(names), (), total, 0)
    # Versions of other classes can be behind one endpoint: what most rows have is measured.
    width = max(parts, key=lambda one: sum(len(part[0]) for part in parts[one]))
    classes = _classes(monitor, width)
    outputs, truth, models = map(np.concatenate, zip(*parts[width], strict=True))
    bad = np.isinf(truth) | (~np.isfinite(outputs).all(axis=1) & ~np.isnan(truth))
    finite = np.isfinite(outputs).all(axis=1)
    truth[bad] = np.nan
    return Joined(
        outputs[finite], truth[finite], models[finite], tuple(names), classes, total,
        int(bad.sum()),
    )  # fmt: skip


def _classes(monitor: Configured, width: int) -> tuple[Any, ...]:
    if width < 2:
        return ()
    named = monitor.spec.classes
    return tuple(named) if len(named) == width else tuple(range(width))


def _pages(
    database: Database, project: str, name: str, start_us: int, end_us: int
) -> Iterator[Sequence[Row]]:
    last = (start_us, "", -1)
    while True:
        with database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT p.time_us, p.id, p.number, p.output, p.model, o.value "
                "FROM monitor_prediction p LEFT JOIN monitor_outcome o ON o.project = p.project "
                "AND o.monitor = p.monitor AND o.id = p.id AND o.number = p.number "
                "WHERE p.project = ? AND p.monitor = ? AND p.time_us < ? "
                "AND (p.time_us, p.id, p.number) > (?, ?, ?) "
                "ORDER BY p.time_us, p.id, p.number LIMIT ?",
                (project, name, end_us, *last, PAGE_ROWS),
            )
        if rows:
            yield rows
        if len(rows) < PAGE_ROWS:
            return
        last = (rows[-1][0], rows[-1][1], rows[-1][2])


def qualities(rows: Joined, monitor: Configured) -> tuple[Quality | None, dict[str, Quality]]:
    """The measured quality of all models together, and of each."""
    whole = _measured(rows, rows.known, monitor)
    if whole is None or len(rows.names) == 1:
        return whole, {rows.names[0]: whole} if whole is not None else {}
    each = {
        name: found
        for index, name in enumerate(rows.names)
        if (found := _measured(rows, rows.known & (rows.models == index), monitor)) is not None
    }
    return whole, each


def _measured(rows: Joined, chosen: Array, monitor: Configured) -> Quality | None:
    count = int(chosen.sum())
    if count < MIN_ROWS:
        return None
    metrics, intervals = observed(
        rows.outputs[chosen],
        rows.truth[chosen],
        classes=rows.classes,
        threshold=monitor.monitor.threshold,
    )
    return Quality(False, count, metrics, intervals, f"measured on {count} outcomes")


def estimated(
    database: Database, project: str, monitor: Configured, rows: Joined, start_us: int
) -> Quality | None:
    """The estimated quality of all rows, while outcomes are missing; two classes only."""
    if len(rows.classes) != 2 or len(rows.truth) < MIN_ROWS or rows.known.all():
        return None
    known = _calibration(database, project, monitor, rows.classes, start_us)
    metrics, intervals = expected(
        rows.outputs[:, 1], known=known, threshold=monitor.monitor.threshold
    )
    basis = (
        f"an estimate: probabilities calibrated on the {len(known[0])} latest outcomes before"
        if len(known[0]) >= MIN_KNOWN
        else "an estimate: the model's probabilities are taken to be right"
    )
    return Quality(True, len(rows.truth), metrics, intervals, basis)


def _calibration(
    database: Database, project: str, monitor: Configured, classes: Sequence[Any], start_us: int
) -> tuple[Array, Array]:
    """Scores and truth of the latest predictions before a time whose outcomes are known."""
    with database.transaction(write=False) as tx:
        rows = tx.execute(
            "SELECT p.output, o.value FROM monitor_prediction p JOIN monitor_outcome o "
            "ON o.project = p.project AND o.monitor = p.monitor AND o.id = p.id "
            "AND o.number = p.number WHERE p.project = ? AND p.monitor = ? AND p.time_us < ? "
            "ORDER BY p.time_us DESC, p.id DESC, p.number DESC LIMIT ?",
            (project, monitor.monitor.name, start_us, CALIBRATION_ROWS),
        )
    fitting = [row for row in rows if len(row[0]) == 16]
    read = Truth(classes)
    blob = b"".join(bytes(row[0]) for row in fitting)
    scores = np.frombuffer(blob, "<f8").reshape(-1, 2)[:, 1]
    truth = np.array([read(row[1]) for row in fitting], float)
    usable = np.isfinite(truth) & np.isfinite(scores)
    return scores[usable], truth[usable]
