"""How a change becomes a version of a table: on the newest version, or not at all.

An entry is put into the table's log under the next number, only if no other has that number. A
change that was too late plans again on the version that was faster, and checks again there what it
assumed.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from madang.data.storage._log import (
    Plan,
    Said,
    check_writable,
    commit_of,
    entry,
    entry_name,
    note_of,
    progress_in,
)
from madang.data.storage._names import NONE_YET
from madang.data.storage._parquet import DataFile
from madang.data.storage._tables import TablePlace
from madang.data.storage.contract import Transaction, UnknownOutcomeError
from madang.errors import ConflictError, MadangError
from madang.ledger import new_id

_ATTEMPTS = 100
_log = logging.getLogger(__name__)

_RECENT = 10
"""So many of the newest log entries are looked through for an application's progress."""

MAX_WRITE_SECONDS = 6 * 86_400
"""A change that takes longer is refused, because retention takes its files for abandoned ones."""


class Change(ABC):
    """One change of a table under way.

    Args:
        table: The table's name.
        operation: What it is, for `TableVersion.operation`.
        metadata: What the caller says of it.
        transactions: Progress that is committed with it.
    """

    def __init__(
        self,
        table: str,
        operation: str,
        metadata: Mapping[str, str],
        transactions: Sequence[Transaction] = (),
    ) -> None:
        self.id = new_id()
        self.table = table
        self.said = Said(self.id, operation, metadata, transactions)
        self.written: list[DataFile] = []
        self.started = time.monotonic()

    @property
    def makes_a_version(self) -> bool:
        """Whether the change is a version also when it changes no row."""
        return bool(self.said.transactions)

    @abstractmethod
    def plan(self, snapshot: DeltaTable | None) -> Plan:
        """What the version after `snapshot` changes; called again when another was faster.

        Raises:
            ConflictError: What another writer did excludes this change.
        """

    def is_done(self, held: Mapping[str, int]) -> bool:
        """Whether the change's transaction numbers are reached already.

        Args:
            held: The numbers that the table holds, by application.

        Raises:
            ConflictError: The table holds another number than a transaction comes after, or only a
                part of the numbers.
        """
        transactions = self.said.transactions
        done = [
            one.after is None and held.get(one.application, NONE_YET) >= one.number
            for one in transactions
        ]
        if done and all(done):
            return True
        for one, is_done in zip(transactions, done, strict=True):
            number = held.get(one.application, NONE_YET)
            if is_done or one.after not in (None, number):
                raise ConflictError(
                    f"application {one.application!r} would go to {one.number} in table "
                    f"{self.table!r} from {_number(one.after)}, and the table holds "
                    f"{_number(number)}; another writer was first: read the progress and go on "
                    "from there"
                )
        return False


class Committer:
    """Makes versions of the tables of one place.

    Args:
        place: Where the tables lie.
        find: Opens a table's newest version; `None` when there is no such table.
    """

    def __init__(self, place: TablePlace, find: Callable[[str], DeltaTable | None]) -> None:
        self._place = place
        self._find = find

    def run(self, change: Change, snapshot: DeltaTable | None) -> tuple[int, bool]:
        """Makes the version, and removes the files that it wrote in vain.

        Args:
            change: What to do.
            snapshot: The newest version that the caller knows.

        Returns:
            The version's number and `True`; or, when there was nothing to change or the
            transactions were there already, the newest version and `False`.

        Raises:
            ConflictError: Nothing landed: another writer excludes the change, or writers without
                end were faster.
            UnknownOutcomeError: The store's answer was lost, and the version is not seen.
        """
        try:
            version, landed = self._land(change, snapshot)
        except UnknownOutcomeError:
            raise  # the version may appear, so its files stay
        except Exception:
            self.discard(change, ())
            raise
        return version, landed

    def progress_of(self, change: Change, snapshot: DeltaTable | None) -> dict[str, int]:
        """The numbers that a version holds of the change's applications."""
        names = [one.application for one in change.said.transactions]
        return self.progress(change.table, snapshot, names)

    def progress(
        self, table: str, snapshot: DeltaTable | None, applications: Sequence[str]
    ) -> dict[str, int]:
        """The numbers that a version holds, without applications that it holds nothing of."""
        found: dict[str, int] = {}
        left = dict.fromkeys(applications)
        if snapshot is None:
            return found
        newest = snapshot.version()
        # The library reads the whole log for each application: 64 of them took 2 s in S3. Those
        # that go on together are in one of the newest entries.
        for version in range(newest, max(newest - _RECENT, -1), -1):
            if not left:
                break
            data = self._place.get(table, entry_name(version))
            for name, number in progress_in(data or b"").items():
                if name in left:
                    found[name] = number
                    del left[name]
        for name in left:
            older = snapshot.transaction_version(name)
            if older is not None:
                found[name] = older
        return found

    def discard(self, change: Change, kept: Sequence[DataFile]) -> None:
        """Removes the files of a change that no version refers to."""
        names = {file.name for file in kept}
        for file in change.written:
            if file.name not in names:
                self._place.discard(change.table, file.path)

    def _land(self, change: Change, snapshot: DeltaTable | None) -> tuple[int, bool]:
        first, plan = _next(snapshot), Plan()
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.random() * min(0.002 * 2**attempt, 0.2))  # noqa: S311
                # The store may have taken the entry, lost the answer, and refused a repetition.
                snapshot, landed = self._look(change, first)
                if landed is not None:
                    self._sync(change, landed)
                    return self._landed(change, plan, landed)
            if change.is_done(self.progress_of(change, snapshot)) and snapshot is not None:
                self.discard(change, ())
                return snapshot.version(), False
            plan = change.plan(snapshot)
            if snapshot is not None:
                if not plan and not change.makes_a_version:
                    self.discard(change, ())
                    return snapshot.version(), False
                check_writable(snapshot, change.table, plan)
            if self._put(change, plan, snapshot):
                return self._landed(change, plan, _next(snapshot))
        raise ConflictError(
            f"table {change.table!r} was changed by other writers {_ATTEMPTS} times while this "
            "change tried to land; write again, in larger and fewer pieces"
        )

    def _put(self, change: Change, plan: Plan, snapshot: DeltaTable | None) -> bool:
        if time.monotonic() - change.started > MAX_WRITE_SECONDS:
            raise ConflictError(
                f"a change of table {change.table!r} took more than "
                f"{MAX_WRITE_SECONDS // 86_400} days; write in smaller pieces"
            )
        version = _next(snapshot)
        try:
            said = entry(change.said, plan, snapshot)
            return self._place.put_new(change.table, entry_name(version), said)
        except UnknownOutcomeError:
            if self._look(change, version)[1] is None:
                raise
            self._sync(change, version)
            return True

    def _sync(self, change: Change, version: int) -> None:
        """Makes a version that landed durable; what it refers to stays also when that fails."""
        try:
            self._place.sync(change.table, version)
        except OSError as error:
            raise UnknownOutcomeError(
                f"version {version} of table {change.table!r} is there and may not be durable: "
                f"{error}; check the disk, and look at the table before you change it again"
            ) from error

    def _look(self, change: Change, since: int) -> tuple[DeltaTable | None, int | None]:
        """The newest version, and the one from `since` on that the change made, if it made one."""
        try:
            snapshot = self._find(change.table)
            return snapshot, self._version_of(change, snapshot, since)
        except (DeltaError, OSError) as error:
            raise UnknownOutcomeError(
                f"whether table {change.table!r} was changed is not known, because its store does "
                f"not answer: {error}; look at its versions before you write again"
            ) from error

    def _version_of(self, change: Change, snapshot: DeltaTable | None, since: int) -> int | None:
        newest = -1 if snapshot is None else snapshot.version()
        for version in range(newest, since - 1, -1):
            data = self._place.get(change.table, entry_name(version))
            if data is not None and note_of(commit_of(data)).get("write") == change.id:
                return version
        return None

    def _landed(self, change: Change, plan: Plan, version: int) -> tuple[int, bool]:
        try:
            self.discard(change, plan.adds)
        except (OSError, MadangError) as error:
            # The version is there: what it left over must not say otherwise. Retention finds it.
            _log.warning("files of no version stay in table %s: %s", change.table, error)
        return version, True


def _next(snapshot: DeltaTable | None) -> int:
    return 0 if snapshot is None else snapshot.version() + 1


def _number(number: int | None) -> str:
    if number is None:
        return "a lower number"
    return "none yet" if number == NONE_YET else str(number)
