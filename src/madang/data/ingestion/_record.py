"""What stands on record of each ingestion: how far it is, its lag, how fresh it is, how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from madang.ledger import now_us

if TYPE_CHECKING:
    from madang.ledger import Ledger
    from madang.metadata import Database, Row

INGEST = "dataset.ingest"
"""The kind of the ledger's line about one call."""


@dataclass(frozen=True)
class Part:
    """How far an ingestion is in one part of its source.

    Attributes:
        part: A topic's partition, a file's name, or empty.
        position: Where it goes on: a topic's next offset, or what the source says.
        lag: Events that are there and were not taken yet, when it was looked last; `None` where
            the source can't tell. With Kafka's transactions or compaction, at most so many.
        newest_us: The time of the newest event that was taken, microseconds since 1970 UTC.
        landed_us: When the newest batch landed.
    """

    part: str
    position: Any
    lag: int | None
    newest_us: int | None
    landed_us: int

    @property
    def delay_seconds(self) -> float | None:
        """The age of the newest event when it landed."""
        return None if self.newest_us is None else (self.landed_us - self.newest_us) / 1e6


@dataclass(frozen=True)
class Ingestion:
    """What moves from one source into one dataset.

    Attributes:
        events: Rows that were read in all calls.
        began_us: When the newest call began.
        landed_us: When the newest batch landed, in any call.
        error: How the newest call failed, or what it waits for; empty when all is well.
        parts: By name.
    """

    source: str
    dataset: str
    events: int
    valid: int
    quarantined: int
    began_us: int
    landed_us: int | None
    error: str
    parts: tuple[Part, ...]

    @property
    def lag(self) -> int | None:
        """Events that were not taken yet, of all parts; `None` where the source can't tell."""
        known = [part.lag for part in self.parts]
        return sum(n or 0 for n in known) if known and None not in known else None

    @property
    def newest_us(self) -> int | None:
        """The time of the newest event that was taken."""
        return max((p.newest_us for p in self.parts if p.newest_us is not None), default=None)

    @property
    def age_seconds(self) -> float | None:
        """How old the newest event that was taken is now."""
        return None if self.newest_us is None else (now_us() - self.newest_us) / 1e6


@dataclass(frozen=True)
class Landed:
    """What a batch adds to the record of one part."""

    number: int
    position: Any
    lag: int | None = None
    newest_us: int | None = None


class Record:
    """The record of one project's ingestions, in the metadata database."""

    def __init__(self, database: Database, ledger: Ledger, project: str) -> None:
        self._database, self._ledger, self._project = database, ledger, project

    def begin(self, dataset: str, source: str) -> None:
        """A call begins."""
        with self._database.transaction() as tx:
            tx.execute(
                "INSERT INTO ingestion VALUES (?, ?, ?, 0, 0, 0, ?, NULL, '') "
                "ON CONFLICT (project, dataset, source) DO UPDATE SET began_us = excluded.began_us",
                (self._project, dataset, source, now_us()),
            )

    def landed(
        self, dataset: str, source: str, parts: Mapping[str, Landed], counts: Sequence[int]
    ) -> None:
        """A batch has landed; `counts` are its events, valid rows and rows set aside."""
        key, moment = (self._project, dataset, source), now_us()
        with self._database.transaction() as tx:
            tx.executemany(
                "INSERT INTO ingestion_part VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (project, dataset, source, part) DO UPDATE SET "
                "number = excluded.number, position = excluded.position, lag = excluded.lag, "
                "newest_us = COALESCE(excluded.newest_us, ingestion_part.newest_us), "
                "landed_us = excluded.landed_us WHERE ingestion_part.number <= excluded.number",
                [
                    (*key, name, p.number, json.dumps(p.position), p.lag, p.newest_us, moment)
                    for name, p in parts.items()
                ],
            )
            tx.execute(
                "UPDATE ingestion SET events = events + ?, valid = valid + ?, "
                "quarantined = quarantined + ?, landed_us = ? "
                "WHERE project = ? AND dataset = ? AND source = ?",
                (*counts, moment, *key),
            )

    def forget(self, dataset: str, source: str) -> None:
        """Forgets the parts: the dataset does not know of them."""
        with self._database.transaction() as tx:
            tx.execute(
                "DELETE FROM ingestion_part WHERE project = ? AND dataset = ? AND source = ?",
                (self._project, dataset, source),
            )

    def trouble(self, dataset: str, source: str, error: str) -> None:
        """A call can't go on now, and tries again; or, with an empty text, it goes on."""
        with self._database.transaction() as tx:
            tx.execute(
                "UPDATE ingestion SET error = ? WHERE project = ? AND dataset = ? AND source = ?",
                (error, self._project, dataset, source),
            )

    def end(
        self,
        dataset: str,
        source: str,
        *,
        error: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        data: Mapping[str, Any],
    ) -> None:
        """A call ends; its one line of the ledger is written with it."""
        with self._database.transaction() as tx:
            tx.execute(
                "UPDATE ingestion SET error = ? WHERE project = ? AND dataset = ? AND source = ?",
                (error, self._project, dataset, source),
            )
            self._ledger.append(
                tx,
                INGEST,
                f"dataset:{dataset}",
                inputs=inputs,
                outputs=outputs,
                data={**data, "error": error} if error else data,
                phase="failed" if error else "done",
            )

    def positions(self, dataset: str, source: str) -> tuple[int, dict[str, Any]]:
        """The newest batch's number (-1: none) and each part's position."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT part, number, position FROM ingestion_part "
                "WHERE project = ? AND dataset = ? AND source = ?",
                (self._project, dataset, source),
            )
        newest = max((int(row[1]) for row in rows), default=-1)
        return newest, {str(row[0]): json.loads(row[2]) for row in rows}

    def list(self, dataset: str | None = None, source: str | None = None) -> list[Ingestion]:
        """All ingestions, or one of them, by dataset and source."""
        where, values = "project = ?", [self._project]
        for column, value in (("dataset", dataset), ("source", source)):
            if value is not None:
                where += f" AND {column} = ?"
                values.append(value)
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT source, dataset, events, valid, quarantined, began_us, landed_us, error "  # noqa: S608 - names above
                f"FROM ingestion WHERE {where} ORDER BY dataset, source",
                values,
            )
            parts = tx.execute(
                "SELECT dataset, source, part, position, lag, newest_us, landed_us "  # noqa: S608 - names above
                f"FROM ingestion_part WHERE {where} ORDER BY part",
                values,
            )
        found: dict[tuple[str, str], list[Part]] = {}
        for row in parts:
            found.setdefault((row[0], row[1]), []).append(_part(row[2:]))
        return [_ingestion(row, tuple(found.get((row[1], row[0]), ()))) for row in rows]


def _ingestion(row: Row, parts: tuple[Part, ...]) -> Ingestion:
    source, dataset, events, valid, quarantined, began_us, landed_us, error = row
    return Ingestion(source, dataset, events, valid, quarantined, began_us, landed_us, error, parts)


def _part(row: Row) -> Part:
    return Part(row[0], json.loads(row[1]), row[2], row[3], row[4])


def ingestion_as_dict(ingestion: Ingestion) -> dict[str, Any]:
    """An ingestion as JSON values, with what follows from them."""
    found = asdict(ingestion)
    found["parts"] = [{**asdict(p), "delay_seconds": p.delay_seconds} for p in ingestion.parts]
    return {
        **found,
        "lag": ingestion.lag,
        "newest_us": ingestion.newest_us,
        "age_seconds": ingestion.age_seconds,
    }
