"""A monitor's rows in the metadata database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec

from madang.deployment.monitoring.drift import Reference
from madang.deployment.monitoring.sketches import Layout, Sketch
from madang.deployment.monitoring.values import Monitor
from madang.errors import ConflictError, InvalidInputError, NotFoundError
from madang.metadata import Database, Row, Transaction

CHUNK = 500  # SQLite takes 999 parameters in its older builds
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Spec:
    """A monitor and what followed from it when it was configured.

    Attributes:
        monitor: As it was configured, with its baseline and columns.
        matrix: The names of the columns of the model's matrix input.
        classes: The model's classes, in the order of its probabilities.
        views: The features that the endpoint joins, as `FeatureJoin.columns`.
        refs: References to what the baseline was made from.
    """

    monitor: Monitor
    matrix: tuple[str, ...] = ()
    classes: tuple[Any, ...] = ()
    views: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Configured:
    """A monitor as it stands in the database.

    Attributes:
        generation: Changes whenever what was counted no longer counts.
    """

    spec: Spec
    generation: str
    layout_bytes: bytes = field(repr=False)
    reference_bytes: bytes = field(repr=False)
    windows_bytes: bytes = field(repr=False)

    @property
    def monitor(self) -> Monitor:
        """As it was configured."""
        return self.spec.monitor

    @property
    def window_us(self) -> int:
        """The windows' length in microseconds."""
        return self.monitor.window_seconds * 1_000_000

    @cached_property
    def layout(self) -> Layout:
        """The frozen bins."""
        return Layout.from_bytes(self.layout_bytes)

    @cached_property
    def reference(self) -> Reference:
        """What windows are compared with."""
        windows = msgspec.msgpack.decode(self.windows_bytes)
        return Reference(
            Sketch.from_bytes(self.layout, self.reference_bytes),
            [Sketch.from_bytes(self.layout, data) for data in windows],
        )


_encode = msgspec.json.Encoder(enc_hook=str).encode


def spec_json(spec: Spec) -> str:
    """A spec as text."""
    return _encode(spec).decode()


def load(database: Database, project: str, name: str) -> Configured:
    """A monitor.

    Raises:
        NotFoundError: There is no such monitor.
    """
    with database.transaction(write=False) as tx:
        found = find(tx, project, name)
        if found is None:
            rows = tx.execute(
                "SELECT name FROM monitor WHERE project = ? ORDER BY name", (project,)
            )
            raise NotFoundError(
                f"project {project!r} has no monitor {name!r}; it has: "
                f"{', '.join(row[0] for row in rows) or 'none'}"
            )
    return found


def find(tx: Transaction, project: str, name: str) -> Configured | None:
    """A monitor, or `None`."""
    rows = tx.execute(
        "SELECT spec, generation, layout, reference, windows FROM monitor "
        "WHERE project = ? AND name = ?",
        (project, name),
    )
    if not rows:
        return None
    spec, generation, *parts = rows[0]
    return Configured(msgspec.json.decode(spec, type=Spec), generation, *map(bytes, parts))


def require_same(tx: Transaction, project: str, monitor: Configured) -> None:
    """Raises unless the monitor is still counted as it was when it was loaded.

    Raises:
        ConflictError: It was configured anew, or deleted.
    """
    name = monitor.monitor.name
    rows = tx.execute(
        "SELECT generation FROM monitor WHERE project = ? AND name = ?", (project, name)
    )
    if not rows or rows[0][0] != monitor.generation:
        raise ConflictError(f"monitor {name!r} was changed while it ran; run it again")


def chunks(values: Sequence[Any], size: int = CHUNK) -> Iterator[Sequence[Any]]:
    """Values in parts that fit a statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def marks(values: Sequence[Any]) -> str:
    """As many parameters."""
    return ", ".join("?" * len(values))


def select_in(
    tx: Transaction, sql: str, parameters: Sequence[Any], values: Sequence[Any]
) -> Iterator[Row]:
    """Rows of a statement whose `{}` is a list of values, in as many statements as are needed."""
    for part in chunks(values):
        yield from tx.execute(sql.format(marks(part)), (*parameters, *part))


def touch(tx: Transaction, project: str, name: str, starts: Sequence[int]) -> None:
    """Notes that windows have changed, so that they are judged again."""
    for part in chunks(starts):
        tx.execute(
            "UPDATE monitor_part SET changed = changed + 1 WHERE project = ? AND monitor = ? "  # noqa: S608 - marks
            f"AND start_us IN ({marks(part)})",
            (project, name, *part),
        )


def moment(microseconds: int) -> datetime:
    """A time in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds(time: datetime, what: str) -> int:
    """Microseconds since 1970 UTC.

    Raises:
        InvalidInputError: The time has no zone.
    """
    if time.tzinfo is None:
        raise InvalidInputError(f"{what} {time} has no time zone; use datetime(…, tzinfo=UTC)")
    return (time - EPOCH) // timedelta(microseconds=1)
