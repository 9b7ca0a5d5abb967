"""The endpoints of a project in the metadata database: what is wanted, and since which revision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from madang.deployment.serving._state import (
    LoadChange,
    WantedArm,
    WantedEndpoint,
    WantedSplit,
)
from madang.ledger import Ledger, acting_as, current_actor, format_time, now_us
from madang.metadata import Database, Transaction

_MAX_LINES = 100_000
_split_of = msgspec.json.Decoder(WantedSplit | None).decode
_arms_of = msgspec.json.Decoder(tuple[WantedArm, ...]).decode


class EndpointTable:
    """Reads and changes the endpoints; each change is one transaction with its ledger line."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._project = ledger.project

    def find(self, name: str) -> WantedEndpoint | None:
        """One endpoint."""
        return next((found for found in self.read()[1] if found.name == name), None)

    def read(self) -> tuple[int, list[WantedEndpoint]]:
        """The revision of it all, and the endpoints by name."""
        with self._database.transaction(write=False) as tx:
            return self._read_in(tx)

    def _read_in(self, tx: Transaction) -> tuple[int, list[WantedEndpoint]]:
        state = tx.execute("SELECT revision FROM serving_state WHERE project = ?", (self._project,))
        rows = tx.execute(
            "SELECT name, revision, log, arms, split FROM serving_endpoint WHERE project = ?",
            (self._project,),
        )
        found = [
            WantedEndpoint(r[0], int(r[1]), bool(r[2]), _arms_of(r[3]), _split_of(r[4]))
            for r in rows
        ]
        served = sorted((e for e in found if e.arms), key=lambda endpoint: endpoint.name)
        return (int(state[0][0]) if state else 0), served

    def change(
        self,
        name: str,
        arms: tuple[WantedArm, ...],
        *,
        log: bool,
        kind: str,
        reason: str = "",
        split: WantedSplit | None = None,
    ) -> tuple[WantedEndpoint | None, WantedEndpoint, int]:
        """Writes an endpoint's next revision and its ledger line; what it was, is, and overall."""
        with self._database.transaction() as tx:
            before = next((e for e in self._read_in(tx)[1] if e.name == name), None)
            total = tx.execute(
                "INSERT INTO serving_state VALUES (?, 1) ON CONFLICT (project) "
                "DO UPDATE SET revision = serving_state.revision + 1 RETURNING revision",
                (self._project,),
            )
            own = tx.execute(
                "INSERT INTO serving_endpoint VALUES (?, ?, 1, ?, ?, ?, ?) "
                "ON CONFLICT (project, name) DO UPDATE SET "
                "revision = serving_endpoint.revision + 1, log = excluded.log, "
                "arms = excluded.arms, changed_us = excluded.changed_us, split = excluded.split "
                "RETURNING revision",
                (self._project, name, log, _json(arms), now_us(), _json(split)),
            )
            after = WantedEndpoint(name, int(own[0][0]), log, arms, split)
            self._ledger.append(
                tx,
                kind,
                f"endpoint:{name}",
                inputs=list(dict.fromkeys(ref for arm in arms for ref in arm.refs())),
                outputs=[f"endpoint:{name}@{after.revision}"] if arms else [],
                data={
                    "weights": [arm.weight for arm in arms],
                    "log": log,
                    "reason": reason,
                    **_transformers(arms),
                    **({"rollout": split.rollout, "stage": split.stage} if split else {}),
                },
            )
        return before, after, int(total[0][0])

    def record_loads(self, changes: Sequence[LoadChange]) -> None:
        """Writes a line for each load and unload that the ledger doesn't hold yet."""
        since = min(change.time_us for change in changes)
        lines = self._ledger.lines(kind="endpoint.*", since_us=since, limit=_MAX_LINES)
        known = {line.data.get("change") for line in lines}
        with self._database.transaction() as tx:
            for change in changes:
                if change.id in known:
                    continue
                with acting_as(change.actor or current_actor()):
                    self._ledger.append(
                        tx,
                        "endpoint.load" if change.load else "endpoint.unload",
                        f"endpoint:{change.endpoint}",
                        data={"change": change.id, "at": format_time(change.time_us)},
                    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _transformers(arms: tuple[WantedArm, ...]) -> dict[str, dict[str, str]]:
    """Function to the SHA-256 of its source, if there are any."""
    found = {t.function: t.digest for arm in arms for t in (arm.before, arm.after) if t}
    return {"transformers": found} if found else {}
