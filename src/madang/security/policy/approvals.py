"""Approvals: what the second of two people says before the first may act."""

from __future__ import annotations

from dataclasses import dataclass

from madang.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from madang.ledger import Ledger, current_actor, new_id, now_us
from madang.metadata import Database, Row

HOURS = 24.0
"""How long an approval holds when nothing else is said."""

_MAX_HOURS = 24.0 * 90
DECIDED = "policy.decision"
"""The kind of a decision's line in the ledger."""


@dataclass(frozen=True)
class Approval:
    """One person's word for one subject.

    Attributes:
        subject: What may be done, as the denial named it.
        by: Who approved, as the ledger names actors.
        reason: For people.
        expires_us: Until when it holds.
    """

    id: str
    subject: str
    by: str
    reason: str
    created_us: int
    expires_us: int


class Approvals:
    """The project's approvals, in the metadata database; each change stands in the ledger."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._project = ledger.project

    def approve(self, subject: str, *, reason: str = "", hours: float = HOURS) -> Approval:
        """Approves what a denial named.

        Args:
            subject: As the denial's message shows it.
            reason: For people.
            hours: How long it holds, above 0 and up to 90 days.

        Raises:
            PermissionDeniedError: Who approves is who asked for it.
            NotFoundError: Nobody was denied this for want of an approval.
            InvalidInputError: The time is not usable.
        """
        if not 0 < hours <= _MAX_HOURS:
            raise InvalidInputError(
                f"an approval holds above 0 and up to 2160 hours, found {hours}"
            )
        actor, now = current_actor(), now_us()
        self._check_asked(subject, actor)
        found = Approval(new_id(), subject, actor, reason, now, now + int(hours * 3.6e9))
        with self._database.transaction() as tx:
            tx.execute(
                "INSERT INTO policy_approval VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._project, found.id, subject, actor, reason, now, found.expires_us),
            )
            self._ledger.append(
                tx,
                "policy.approve",
                subject,
                data={"id": found.id, "reason": reason, "expires_us": found.expires_us},
            )
        return found

    def _check_asked(self, subject: str, actor: str) -> None:
        """Somebody asked for it, and the last one to ask was somebody else."""
        asked = self._ledger.lines(kind=DECIDED, subject=subject, limit=1)
        if not asked:
            raise NotFoundError(
                f"nobody asked for {subject!r} yet; who wants to do it tries it first, and the "
                "denial names what is to be approved"
            )
        who = asked[0].data["document"]["who"]
        if actor in (asked[0].actor, who.get("started_by")):
            raise PermissionDeniedError(
                f"{actor} asked for {subject!r}, and somebody else must approve it"
            )

    def list(self, subject: str | None = None) -> list[Approval]:
        """The approvals that hold now, oldest first."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT id, subject, actor, reason, created, expires FROM policy_approval "
                "WHERE project = ? AND expires > ? AND (subject = ? OR CAST(? AS TEXT) IS NULL) "
                "ORDER BY created, id",
                (self._project, now_us(), subject, subject),
            )
        return [_approval(row) for row in rows]

    def revoke(self, id: str) -> None:
        """Takes an approval back.

        Raises:
            NotFoundError: There is none of that id.
        """
        with self._database.transaction() as tx:
            rows = tx.execute(
                "DELETE FROM policy_approval WHERE project = ? AND id = ? RETURNING subject",
                (self._project, id),
            )
            if not rows:
                raise NotFoundError(f"there is no approval {id!r}; see: madang policy approvals")
            self._ledger.append(tx, "policy.revoke", str(rows[0][0]), data={"id": id})


def _approval(row: Row) -> Approval:
    return Approval(row[0], row[1], row[2], row[3], int(row[4]), int(row[5]))
