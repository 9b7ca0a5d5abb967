"""What changes in the storage, on the record: a `Storage` around another one and the ledger."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pyarrow as pa

from madang.activity import is_noting, note
from madang.data.storage._names import check_columns, check_table, check_tag, check_transactions
from madang.data.storage.contract import (
    GRACE,
    DeltaTables,
    LocalFiles,
    Mode,
    ObjectInfo,
    Retained,
    Storage,
    TableVersion,
    Transaction,
    UnknownOutcomeError,
)
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, NotFoundError
from madang.ledger import Ledger

if TYPE_CHECKING:
    import pyarrow.dataset as pads

INTENT = "madang.intent"
"""The key in a version's metadata that holds the id of the intent that made it."""

UNRECORDED = ("artifacts/", "runs/", "models/", "ingest/")
"""Prefixes of the objects that other components write and record by themselves."""

_WRITE = "dataset.write"
_TAG, _UNTAG, _RETAIN = "dataset.tag", "dataset.untag", "dataset.retain"


class RecordedStorage(Storage):
    """Surrounds a storage engine with the ledger.

    A table's write is an intent before and an outcome after; its version holds the intent's id, so
    what a killed process left open is settled by looking at the versions. An object's put is one
    line after it. Who may read a table is asked of `read_guard` (with its name) before; whatever that
    raises stops it. An instance has the abilities of the engine inside: `isinstance` tells.
    """

    def __new__(cls, engine: Storage, ledger: Ledger) -> Self:  # noqa: ARG004 - for __init__
        abilities = (isinstance(engine, LocalFiles), isinstance(engine, DeltaTables))
        return cast("Self", object.__new__(_CLASSES[abilities]))

    def __init__(self, engine: Storage, ledger: Ledger) -> None:
        self.engine = engine
        self._ledger = ledger
        self.read_guard: Callable[[str], None] | None = None
        self._settled = False
        self._unknown: list[int] = []  # intents whose outcome this process could not learn
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        """Refuses: this is no engine of its own.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{url.scheme}:// can't name a recorded storage; name its engine")

    def health(self) -> Health:
        return self.engine.health()

    def close(self) -> None:
        self.engine.close()

    # -- objects ------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | memoryview | Path,
        *,
        overwrite: bool = True,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        info = self.engine.put(
            key, data, overwrite=overwrite, content_type=content_type, metadata=metadata
        )
        self._record_put(key, info)
        return info

    def _record_put(self, key: str, info: ObjectInfo) -> None:
        if not key.startswith(UNRECORDED):
            self._ledger.record(
                "object.put",
                f"object:{key}",
                outputs=[f"object:{key}"],
                data={
                    "size_bytes": info.size_bytes,
                    "e_tag": info.e_tag,
                    "content_type": info.content_type,
                    "metadata": sorted(info.metadata),  # the names: texts may be personal
                },
            )

    def get(self, key: str) -> bytes:
        return self.engine.get(key)

    def about(self, key: str) -> ObjectInfo:
        return self.engine.about(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.engine.list(prefix)

    def objects(self, prefix: str = "") -> pa.RecordBatchReader:
        return self.engine.objects(prefix)

    def delete(self, key: str) -> None:
        self.engine.delete(key)
        if not key.startswith(UNRECORDED):
            self._ledger.record("object.delete", f"object:{key}")

    # -- tables -------------------------------------------------------------------------------

    def write(
        self,
        table: str,
        data: Any,
        *,
        mode: Mode = "append",
        metadata: Mapping[str, str] | None = None,
        transaction: Transaction | Sequence[Transaction] = (),
        inputs: Sequence[str] = (),
        partition_by: Sequence[str] | None = None,
    ) -> int:
        check_table(table)  # before the ledger holds the name
        transactions = check_transactions(transaction)
        rows = _CountedRows(data)
        change = _Recorded(table, {"mode": mode}, inputs, transactions, rows)
        return self._change(
            change,
            lambda intent: self.engine.write(
                table,
                rows.data,
                mode=mode,
                metadata={**(metadata or {}), INTENT: intent},
                transaction=transactions,
                partition_by=partition_by,
            ),
        )

    def merge(
        self,
        table: str,
        data: Any,
        *,
        on: Sequence[str],
        deleted: str | None = None,
        metadata: Mapping[str, str] | None = None,
        transaction: Transaction | Sequence[Transaction] = (),
        inputs: Sequence[str] = (),
    ) -> int:
        check_table(table)
        transactions = check_transactions(transaction)
        rows = _CountedRows(data)
        said = {"mode": "merge", "on": list(check_columns("on", on) or ())}
        change = _Recorded(table, said, inputs, transactions, rows)
        return self._change(
            change,
            lambda intent: self.engine.merge(
                table,
                rows.data,
                on=on,
                deleted=deleted,
                metadata={**(metadata or {}), INTENT: intent},
                transaction=transactions,
            ),
        )

    def delete_rows(
        self, table: str, where: str, *, metadata: Mapping[str, str] | None = None
    ) -> int:
        said = {"mode": "delete", "where": where}
        change = _Recorded(check_table(table), said)
        return self._change(
            change,
            lambda intent: self.engine.delete_rows(
                table, where, metadata={**(metadata or {}), INTENT: intent}
            ),
        )

    def evolve(
        self, table: str, schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
    ) -> int:
        said = {"mode": "evolve", "columns": {f.name: str(f.type) for f in schema}}
        change = _Recorded(check_table(table), said)
        return self._change(
            change,
            lambda intent: self.engine.evolve(
                table, schema, metadata={**(metadata or {}), INTENT: intent}
            ),
        )

    def compact(self, table: str, *, metadata: Mapping[str, str] | None = None) -> int:
        change = _Recorded(check_table(table), {"mode": "compact"})
        return self._change(
            change,
            lambda intent: self.engine.compact(
                table, metadata={**(metadata or {}), INTENT: intent}
            ),
        )

    def tag(self, table: str, version: int, name: str) -> None:
        said = {"tag": check_tag(name), "version": version}
        refs = [f"dataset:{check_table(table)}@{version}"]
        self._settle_once()
        with self._ledger.intent(_TAG, f"dataset:{table}", inputs=refs, data=said) as intent:
            self.engine.tag(table, version, name)
            intent.data = said

    def untag(self, table: str, name: str) -> None:
        said = {"tag": check_tag(name)}
        self._settle_once()
        with self._ledger.intent(_UNTAG, f"dataset:{check_table(table)}", data=said) as intent:
            self.engine.untag(table, name)
            intent.data = said

    def tags(self, table: str) -> dict[str, int]:
        return self.engine.tags(table)

    def retain(
        self,
        table: str,
        *,
        keep: timedelta,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        is_used: Callable[[int], bool] | None = None,
    ) -> Retained:
        subject = f"dataset:{check_table(table)}"

        def used(version: int) -> bool:
            by_model = self._made_a_model(f"{subject}@{version}")
            return by_model or (is_used is not None and is_used(version))

        if dry_run:
            return self.engine.retain(table, keep=keep, grace=grace, dry_run=True, is_used=used)
        said = {"keep_seconds": keep.total_seconds(), "grace_seconds": grace.total_seconds()}
        self._settle_once()
        with self._ledger.intent(_RETAIN, subject, data=said) as intent:
            done = self.engine.retain(table, keep=keep, grace=grace, is_used=used)
            counts = {"files": done.files, "size_bytes": done.size_bytes}
            versions = {"dropped": list(done.dropped), "swept": list(done.swept)}
            intent.data = {**said, **counts, **versions}
        return done

    def _made_a_model(self, version: str) -> bool:
        """Whether a model was made from a version of a dataset, directly or over other things."""
        return any(line.kind == "model.register" for line in self._ledger.uses(version))

    def _change(self, change: _Recorded, act: Callable[[str], int]) -> int:
        """Does it between an intent and an outcome; `act` gets the intent's id."""
        self._settle_once()
        subject = f"dataset:{change.table}"
        with self._ledger.intent(_WRITE, subject, inputs=change.inputs, data=change.said) as intent:
            try:
                version = act(intent.id)
            except UnknownOutcomeError:
                intent.is_open = True
                self._unknown.append(intent.seq)
                raise
            try:
                made = change.always_a_version or self._made(change.table, version, intent.id)
            except Exception:
                # It was done: the record must not say otherwise, and is settled later.
                intent.is_open = True
                self._unknown.append(intent.seq)
                raise
            if made:
                intent.outputs = [f"{subject}@{version}"]
                intent.data = dict(change.said)
                if change.rows is not None:
                    intent.data["rows"] = change.rows.count
            else:
                intent.data = {**change.said, "version": version, "outcome": "nothing to change"}
                if change.transactions:
                    dropped = {one.application: one.number for one in change.transactions}
                    intent.data = {**change.said, "version": version, "dropped": dropped}
        return version

    def read(
        self,
        table: str,
        *,
        version: int | None = None,
        at: datetime | None = None,
        columns: builtins.list[str] | None = None,
    ) -> pa.RecordBatchReader:
        self._ask(table)
        version = self._noted(table, version, at)
        return self.engine.read(
            table, version=version, at=None if version is not None else at, columns=columns
        )

    def _ask(self, table: str) -> None:
        if self.read_guard is not None:
            self.read_guard(table)

    def versions(self, table: str, *, limit: int | None = None) -> builtins.list[TableVersion]:
        return self.engine.versions(table, limit=limit)

    def progress(self, table: str, applications: Sequence[str]) -> dict[str, int]:
        return self.engine.progress(table, applications)

    def tables(self) -> builtins.list[str]:
        return self.engine.tables()

    def _noted(self, table: str, version: int | None, at: datetime | None = None) -> int | None:
        """Tells the step that runs, if one does, which version it reads; and reads just that one."""
        if not is_noting():
            return version
        if version is None:
            newest = self.engine.versions(table, limit=None if at else 1)
            before = [v.version for v in newest if at is None or v.timestamp <= at]
            if not before:
                return None  # the engine says what is wrong
            version = before[-1]
            if at is None:
                note(newest=(f"dataset:{table}", str(version)))
        note(inputs=[f"dataset:{table}@{version}"])
        return version

    # -- after a crash ------------------------------------------------------------------------

    def settle(self) -> int:
        """Writes the outcome of every write whose process died before it could; returns how many.

        Safe to repeat, and to run while others write. The first write of a process calls it.
        """
        unknown = list(self._unknown)
        lines = [*self._ledger.open_intents(_WRITE), *map(self._ledger.get, unknown)]
        for line in lines:
            table = line.subject.removeprefix("dataset:")
            version = self._version_of(table, str(line.data["id"]))
            outcome = "written" if version is not None else "nothing was written"
            self._ledger.close_intent(
                line.seq,
                _WRITE,
                line.subject,
                phase="settled",
                inputs=line.inputs,
                outputs=[] if version is None else [f"{line.subject}@{version}"],
                data={"mode": line.data["mode"], "outcome": outcome},
            )
        self._unknown = [seq for seq in self._unknown if seq not in unknown]
        return len(lines) + sum(self._settle_others(kind) for kind in (_TAG, _UNTAG, _RETAIN))

    def _settle_others(self, kind: str) -> int:
        lines = self._ledger.open_intents(kind)
        for line in lines:
            outcome = "may be done in part; repeating it does the rest"
            if kind != _RETAIN:
                at = self._tags_of(line.subject.removeprefix("dataset:")).get(line.data["tag"])
                outcome = "not tagged" if at is None else f"tagged at version {at}"
            self._ledger.close_intent(
                line.seq, kind, line.subject, phase="settled", data={"outcome": outcome}
            )
        return len(lines)

    def _tags_of(self, table: str) -> dict[str, int]:
        try:
            return self.engine.tags(table)
        except NotFoundError:
            return {}

    def _settle_once(self) -> None:
        if self._settled and not self._unknown:
            return
        with self._lock:
            if not self._settled or self._unknown:
                self.settle()
                self._settled = True

    def _made(self, table: str, version: int, intent_id: str) -> bool:
        known = self.engine.versions(table, limit=8)
        if known[0].version > version:
            known = self.engine.versions(table)
        return any(v.version == version and v.metadata.get(INTENT) == intent_id for v in known)

    def _version_of(self, table: str, intent_id: str) -> int | None:
        try:
            known = self.engine.versions(table)
        except NotFoundError:
            return None
        return next((v.version for v in known if v.metadata.get(INTENT) == intent_id), None)


class _WithFiles(RecordedStorage, LocalFiles):
    def path(self, key: str) -> Path:
        return cast("LocalFiles", self.engine).path(key)

    def scratch(self) -> Path:
        return cast("LocalFiles", self.engine).scratch()

    def adopt(self, key: str, file: Path) -> ObjectInfo:
        info = cast("LocalFiles", self.engine).adopt(key, file)
        self._record_put(key, info)
        return info


class _WithDelta(RecordedStorage, DeltaTables):
    def dataset(self, table: str, *, version: int | None = None) -> pads.Dataset:
        self._ask(table)
        version = self._noted(table, version)
        return cast("DeltaTables", self.engine).dataset(table, version=version)

    def delta_location(self, table: str) -> tuple[str, Mapping[str, str]]:
        return cast("DeltaTables", self.engine).delta_location(table)


class _WithBoth(_WithFiles, _WithDelta):
    """Both abilities."""


_CLASSES: dict[tuple[bool, bool], type[RecordedStorage]] = {
    (False, False): RecordedStorage,
    (True, False): _WithFiles,
    (False, True): _WithDelta,
    (True, True): _WithBoth,
}


@dataclass(frozen=True)
class _Recorded:
    """What the ledger is told of a change of a table."""

    table: str
    said: Mapping[str, Any]
    inputs: Sequence[str] = ()
    transactions: Sequence[Transaction] = ()
    rows: _CountedRows | None = None

    @property
    def always_a_version(self) -> bool:
        """Whether it is a version, or an error."""
        return self.said["mode"] in ("append", "overwrite") and not self.transactions


class _CountedRows:
    """Rows on their way to the engine, counted without being held."""

    def __init__(self, data: Any) -> None:
        self.count = 0
        if isinstance(data, pa.Table | pa.RecordBatch):
            self.data, self.count = data, data.num_rows
        elif hasattr(data, "__arrow_c_stream__"):
            stream = pa.RecordBatchReader.from_stream(data)
            self.data = pa.RecordBatchReader.from_batches(stream.schema, self._counted(stream))
        else:
            self.data = data

    def _counted(self, stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in stream:
            self.count += batch.num_rows
            yield batch
