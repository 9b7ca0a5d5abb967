"""Rollouts in the metadata database: one row each, changed by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from madang.deployment.ab_testing._plans import arm_to, plan_from
from madang.deployment.ab_testing.contract import Evidence, Plan, Rollout, RolloutState
from madang.deployment.serving._arms import arm_from, exactly
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError
from madang.ledger import Ledger
from madang.metadata import Database, Row, Transaction

_decode = msgspec.json.decode


class Record(msgspec.Struct):
    """What is kept of a rollout.

    Attributes:
        plan: Its JSON form.
        control: The JSON form of the arm.
        shares: For each stage, version to weight.
        stage_elapsed_us: What `elapsed_us` was when the stage began.
        seen_us: The newest time that `advance` was given.
        fresh: Requests and outcomes that came since the last look.
        fractions: Shares of the horizon at which `obrien_fleming` has looked.
        revision: The endpoint's, as the rollout last left it.
        dropped: Challengers that get no traffic any more, and why.
        lost: Events that the topics no longer kept when they should have been read.
    """

    id: str
    endpoint: str
    plan: dict[str, Any]
    control: dict[str, Any]
    shares: list[dict[int, float]]
    started_us: int
    seen_us: int
    state: RolloutState = RolloutState.RUNNING
    elapsed_us: int = 0
    stage_elapsed_us: int = 0
    looks: int = 0
    fresh: int = 0
    fractions: list[float] = []
    revision: int = 0
    reason: str = ""
    winner: int | None = None
    waits_for: str = ""
    evidence: tuple[Evidence, ...] = ()
    dropped: dict[int, str] = {}
    unusable: tuple[int, str] = (0, "")
    lost: int = 0
    ended_us: int | None = None

    @property
    def stage(self) -> int:
        """From 0."""
        return len(self.shares) - 1

    def elapsed_at(self, now_us: int) -> int:
        """Microseconds since the start; where the clock stepped back, time stands still."""
        return self.elapsed_us + max(0, now_us - self.seen_us)

    def passed(self, now_us: int) -> None:
        """Takes the time over."""
        self.elapsed_us, self.seen_us = self.elapsed_at(now_us), now_us

    def read_plan(self) -> Plan:
        """The plan."""
        return plan_from(self.plan, exactly)

    def rollout(self, now_us: int | None = None) -> Rollout:
        """The rollout as the contract shows it."""
        elapsed = self.elapsed_us if now_us is None or self.ended_us else self.elapsed_at(now_us)
        return Rollout(
            id=self.id,
            plan=self.read_plan(),
            control=arm_from(self.control, exactly),
            state=self.state,
            weights=self.shares[-1],
            stage=self.stage,
            started_us=self.started_us,
            elapsed_seconds=elapsed / 1e6,
            looks=self.looks,
            evidence=self.evidence,
            winner=self.winner,
            reason=self.reason,
            waits_for=self.waits_for,
            unusable=self.unusable,
            ended_us=self.ended_us,
        )


class Records:
    """The table of rollouts."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self.database = database
        self.ledger = ledger
        self.project = ledger.project

    def add(self, tx: Transaction, record: Record) -> None:
        """Inserts a rollout.

        Raises:
            AlreadyExistsError: One runs at the endpoint.
        """
        self.check_free(tx, record.endpoint)
        tx.execute(
            "INSERT INTO rollout VALUES (?, ?, ?, ?, 1, ?)",
            (self.project, record.id, record.endpoint, False, _text(record)),
        )

    def check_free(self, tx: Transaction, endpoint: str) -> None:
        """Refuses an endpoint where a rollout runs.

        Raises:
            AlreadyExistsError: Says which.
        """
        rows = tx.execute(
            "SELECT id FROM rollout WHERE project = ? AND endpoint = ? AND NOT ended",
            (self.project, endpoint),
        )
        if rows:
            raise AlreadyExistsError(
                f"the rollout {rows[0][0]} runs at {endpoint!r}; stop it first: "
                f"madang rollouts stop {rows[0][0]}"
            )

    def find(self, tx: Transaction, name: str) -> tuple[Record, int]:
        """A rollout by its id, or the newest of an endpoint; and its turn.

        Raises:
            NotFoundError: There is none.
        """
        rows = tx.execute(
            "SELECT record, turn FROM rollout WHERE project = ? AND (id = ? OR endpoint = ?) "
            "ORDER BY id DESC LIMIT 1",
            (self.project, name, name),
        )
        if not rows:
            raise NotFoundError(
                f"there is no rollout {name!r}, nor one of an endpoint of that name; "
                "list them: madang rollouts list"
            )
        return _record(rows[0]), int(rows[0][1])

    def list(self, *, endpoint: str | None, running: bool) -> list[Record]:
        """Rollouts, newest first."""
        where, values = "project = ?", [self.project]
        if endpoint is not None:
            where, values = f"{where} AND endpoint = ?", [*values, endpoint]
        if running:
            where += " AND NOT ended"
        with self.database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT record FROM rollout WHERE {where} ORDER BY id DESC",  # noqa: S608 - from above
                values,
            )
        return [_record(row) for row in rows]

    @contextmanager
    def changing(self, id: str) -> Iterator[tuple[Transaction, Record]]:
        """A rollout to change in a transaction; it is written at the end."""
        with self.database.transaction() as tx:
            record, turn = self.find(tx, id)
            yield tx, record
            self.save(tx, record, turn)

    def save(self, tx: Transaction, record: Record, turn: int) -> None:
        """Writes a rollout that nobody has changed since its turn.

        Raises:
            ConflictError: Somebody has.
        """
        found = tx.execute(
            "UPDATE rollout SET record = ?, ended = ?, turn = turn + 1 "
            "WHERE project = ? AND id = ? AND turn = ? RETURNING turn",
            (_text(record), record.ended_us is not None, self.project, record.id, turn),
        )
        if not found:
            raise ConflictError(f"the rollout {record.id} was changed meanwhile; try again")
        if record.ended_us is not None:
            for table in ("rollout_prediction", "rollout_outcome", "rollout_progress"):
                tx.execute(
                    f"DELETE FROM {table} WHERE project = ? AND rollout = ?",  # noqa: S608 - from above
                    (self.project, record.id),
                )

    def note(self, tx: Transaction, what: str, record: Record, **data: Any) -> None:
        """Writes a line about a rollout to the ledger, in the transaction of its change."""
        plan = record.read_plan()
        models = [f"model:{arm.model}@{arm.version}" for arm in plan.challengers]
        winner = [model for model in models if model.endswith(f"@{record.winner}")]
        self.ledger.append(
            tx,
            f"rollout.{what}",
            f"rollout:{record.id}",
            inputs=[f"endpoint:{record.endpoint}", *models],
            outputs=winner if what == "promote" else [],
            data={"endpoint": record.endpoint, "reason": record.reason, **data},
        )


def new_record(id: str, plan: Plan, control: Any, shares: dict[int, float], now_us: int) -> Record:
    """A rollout that begins."""
    from madang.deployment.ab_testing._plans import plan_to

    return Record(id, plan.endpoint, plan_to(plan), arm_to(control), [shares], now_us, now_us)


def _text(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def _record(row: Row) -> Record:
    return _decode(row[0], type=Record)
