"""How a write becomes a version of a Delta table: on the newest version, or not at all.

The commit is the Delta library's; it is tried once on each newest version, and what the write
assumed is checked again before each try.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Schema,
    TableFeatures,
    Transaction as DeltaTransaction,
)
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from madang.data.storage._names import NONE_YET
from madang.data.storage._parquet import DataFile
from madang.data.storage._tables import TablePlace
from madang.data.storage.contract import Mode, Transaction
from madang.errors import ConflictError

NOTE = "madang"
"""The key in a commit's information that holds what Madang says of it."""

_ATTEMPTS = 100
_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Write:
    """One write under way: what it adds and what it assumes."""

    id: str
    table: str
    mode: Mode
    schema: pa.Schema
    metadata: Mapping[str, str]
    transactions: Sequence[Transaction]
    files: list[DataFile] = field(default_factory=list)

    def dropped_by(self, snapshot: DeltaTable | None) -> bool:
        """Whether the table already holds these transaction numbers or higher ones.

        Raises:
            ConflictError: The table holds another number than a transaction comes after, or only a
                part of the numbers.
        """
        held = progress_of(snapshot, [one.application for one in self.transactions])
        done = [
            one.after is None and held.get(one.application, NONE_YET) >= one.number
            for one in self.transactions
        ]
        if done and all(done):
            return True
        for one, is_done in zip(self.transactions, done, strict=True):
            number = held.get(one.application, NONE_YET)
            if is_done or one.after not in (None, number):
                raise ConflictError(
                    f"application {one.application!r} would go to {one.number} in table "
                    f"{self.table!r} from {_said(one.after)}, and the table holds {_said(number)}; "
                    "another writer was first: read the progress and go on from there"
                )
        return False

    @property
    def properties(self) -> CommitProperties:
        """What the commit says of the write."""
        note = {"write": self.id, "mode": self.mode, "metadata": dict(self.metadata)}
        return CommitProperties(
            custom_metadata={NOTE: note},
            # No retries inside of the library: it lets an overwrite land behind a concurrent
            # append without removing those rows.
            max_commit_retries=0,
            app_transactions=[DeltaTransaction(t.application, t.number) for t in self.transactions],
        )

    @property
    def actions(self) -> list[AddAction]:
        """The files that the commit adds."""
        now = time.time_ns() // 1_000_000
        return [
            # No minima and maxima: Parquet's leave NaN out, and the Delta library reads those of
            # a column that has none as null; both make filters lose rows.
            AddAction(f.name, f.size_bytes, {}, now, True, json.dumps({"numRecords": f.rows}))
            for f in self.files
        ]


class Committer:
    """Makes versions of the tables of one place.

    Args:
        place: Where the tables lie.
        find: Opens a table's newest version; `None` when there is no such table.
    """

    def __init__(self, place: TablePlace, find: Callable[[str], DeltaTable | None]) -> None:
        self._place = place
        self._find = find

    def commit(self, write: Write, snapshot: DeltaTable | None) -> tuple[int, bool]:
        """Makes the version.

        Args:
            write: With its files written and durable.
            snapshot: The newest version that the caller knows.

        Returns:
            The version's number and `True`; or, when the write's transaction was already there,
            the table's newest version and `False`.

        Raises:
            ConflictError: Nothing landed: another writer changed the schema or the progress, or
                writers without end were faster.
        """
        first = 0 if snapshot is None else snapshot.version() + 1
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.random() * min(0.002 * 2**attempt, 0.2))  # noqa: S311
                snapshot = self._find(write.table)
                # A server may have taken the commit and lost the answer.
                landed = _version_of(write.id, snapshot, first)
                if landed is not None:
                    self._place.commit_done(write.table, landed)
                    return landed, True
            if write.dropped_by(snapshot) and snapshot is not None:
                return snapshot.version(), False
            version = self._try(write, snapshot)
            if version is not None:
                self._place.commit_done(write.table, version)
                return version, True
        raise ConflictError(
            f"table {write.table!r} was changed by other writers {_ATTEMPTS} times while this "
            "write tried to land; write again, in larger and fewer pieces"
        )

    def _try(self, write: Write, snapshot: DeltaTable | None) -> int | None:
        """One try on one snapshot: the version made, or `None` when another writer was first."""
        try:
            if snapshot is None:
                self._create(write)
                return 0
            _check_schema(write, snapshot)
            self._add_feature(write, snapshot)
            version = snapshot.version() + 1
            snapshot.create_write_transaction(
                [*write.actions],
                write.mode,
                Schema.from_arrow(write.schema),
                commit_properties=write.properties,
                post_commithook_properties=_HOOKS,
            )
            return version
        except CommitFailedError:
            return None
        except DeltaError:
            if snapshot is None and self._find(write.table) is not None:
                return None  # another writer made the table
            raise

    def _create(self, write: Write) -> None:
        uri, options = self._place.location(write.table)
        create_table_with_add_actions(
            uri,
            Schema.from_arrow(write.schema),
            write.actions,
            mode="error",
            storage_options=options,
            commit_properties=write.properties,
            post_commithook_properties=_HOOKS,
        )

    def _add_feature(self, write: Write, snapshot: DeltaTable) -> None:
        """Delta's times without a zone are a table feature, which new tables alone get unasked.

        (Delta protocol, "Timestamp without timezone".) It is a version of its own.
        """
        if write.mode != "overwrite" or not any(_naive(f.type) for f in write.schema):
            return
        if "timestampNtz" in (snapshot.protocol().reader_features or ()):
            return
        snapshot.alter.add_feature(
            TableFeatures.TimestampWithoutTimezone, allow_protocol_versions_increase=True
        )
        self._place.commit_done(write.table, snapshot.version())


def progress_of(snapshot: DeltaTable | None, applications: Sequence[str]) -> dict[str, int]:
    """The applications' numbers in a version, without those that it holds nothing of."""
    if snapshot is None:
        return {}
    found = {name: snapshot.transaction_version(name) for name in applications}
    return {name: number for name, number in found.items() if number is not None}


def arrow_schema(snapshot: DeltaTable) -> pa.Schema:
    """The table's schema in Arrow's words."""
    return pa.schema(snapshot.schema().to_arrow()).remove_metadata()


def note_of(commit: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Madang said of a commit; empty for another program's."""
    note = commit.get(NOTE)
    note = json.loads(note) if isinstance(note, str) else note
    return note if isinstance(note, dict) else {}


def _said(number: int | None) -> str:
    if number is None:
        return "a lower number"
    return "none yet" if number == NONE_YET else str(number)


def _check_schema(write: Write, snapshot: DeltaTable) -> None:
    if write.mode == "append" and arrow_schema(snapshot) != write.schema:
        raise ConflictError(
            f"another writer gave table {write.table!r} another schema while this append was "
            "under way; read the new schema and write again"
        )


def _naive(type: pa.DataType) -> bool:
    if pa.types.is_timestamp(type):
        return type.tz is None
    return any(_naive(type.field(index).type) for index in range(type.num_fields))


def _version_of(write_id: str, snapshot: DeltaTable | None, since: int) -> int | None:
    """The version from `since` on that the write `write_id` made, if it made one."""
    if snapshot is None:
        return None
    for commit in snapshot.history(max(snapshot.version() - since + 1, 1)):
        if note_of(commit).get("write") == write_id:
            return int(commit["version"])
    return None
