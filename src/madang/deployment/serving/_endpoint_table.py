"""The endpoints of a project in the metadata database: what is wanted, and since which revision."""

from __future__ import annotations

import msgspec

from madang.deployment.serving._state import WantedArm, WantedEndpoint
from madang.ledger import Ledger, now_us
from madang.metadata import Database, Transaction

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
            "SELECT name, revision, log, arms FROM serving_endpoint WHERE project = ?",
            (self._project,),
        )
        found = [WantedEndpoint(r[0], int(r[1]), bool(r[2]), _arms_of(r[3])) for r in rows]
        served = sorted((e for e in found if e.arms), key=lambda endpoint: endpoint.name)
        return (int(state[0][0]) if state else 0), served

    def change(
        self, name: str, arms: tuple[WantedArm, ...], *, log: bool, kind: str, reason: str = ""
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
                "INSERT INTO serving_endpoint VALUES (?, ?, 1, ?, ?, ?) "
                "ON CONFLICT (project, name) DO UPDATE SET "
                "revision = serving_endpoint.revision + 1, log = excluded.log, "
                "arms = excluded.arms, changed_us = excluded.changed_us RETURNING revision",
                (self._project, name, log, msgspec.json.encode(arms).decode(), now_us()),
            )
            after = WantedEndpoint(name, int(own[0][0]), log, arms)
            self._ledger.append(
                tx,
                kind,
                f"endpoint:{name}",
                inputs=[f"model:{arm.model}@{arm.version}" for arm in arms],
                outputs=[f"endpoint:{name}@{after.revision}"] if arms else [],
                data={"weights": [arm.weight for arm in arms], "log": log, "reason": reason},
            )
        return before, after, int(total[0][0])
