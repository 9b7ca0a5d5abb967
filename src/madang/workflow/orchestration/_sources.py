"""What happens in the project becomes events: dataset versions, finished runs, files, topics."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import pyarrow as pa

from madang.engines import Context
from madang.metadata import Transaction
from madang.workflow.continuous_training.bell import ring
from madang.workflow.continuous_training.contract import Kind, Trigger
from madang.workflow.continuous_training.definition import waits_for
from madang.workflow.continuous_training.records import Defined, Records, Told, matching

_LINES_AT_ONCE = 2000
_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 2.0
_log = logging.getLogger("madang.orchestration")


class History:
    """Reads the ledger on: new versions of datasets, and runs that succeeded."""

    def __init__(self, records: Records, clock: Callable[[], int]) -> None:
        self._records = records
        self._clock = clock

    def make_events(self) -> None:
        """Makes the events of what was written since the last time."""
        while self._read():
            pass

    def _read(self) -> bool:
        """Reads one piece; whether there may be more."""
        with self._records.database.transaction(write=False) as tx:
            if not self._following(tx) or self._first(tx) > self._records.ledger_end(tx):
                return False
        with self._records.database.transaction() as tx:
            following = self._following(tx)
            first, end = self._first(tx), self._records.ledger_end(tx)
            last = min(end, first + _LINES_AT_ONCE - 1)
            if not following or last < first:
                return False
            self._datasets(tx, following, first, last)
            self._runs(tx, following, first, last)
            tx.execute(
                "INSERT INTO workflow_position VALUES (?, ?) "
                "ON CONFLICT (project) DO UPDATE SET seq = excluded.seq",
                (self._records.project, last),
            )
        return last < end

    def _following(self, tx: Transaction) -> dict[str, Defined]:
        return {
            name: one
            for name, one in self._records.triggers(tx).items()
            if one.trigger.kind in (Kind.DATASET, Kind.PIPELINE)
        }

    def _first(self, tx: Transaction) -> int:
        """The first line that was not read; of those before every definition, none need be."""
        rows = tx.execute(
            "SELECT seq FROM workflow_position WHERE project = ?", (self._records.project,)
        )
        read = int(rows[0][0]) if rows else 0
        return max(read, min(one.since_seq for one in self._following(tx).values())) + 1

    def _datasets(
        self, tx: Transaction, following: Mapping[str, Defined], first: int, last: int
    ) -> None:
        rows = tx.execute(
            "SELECT l.seq, l.actor, l.body, e.ref FROM ledger_edge e JOIN ledger l ON l.seq = e.seq "
            "WHERE e.project = ? AND e.role = 'out' AND e.seq >= ? AND e.seq <= ? "
            "AND substr(e.ref, 1, 8) = 'dataset:' ORDER BY e.seq",
            (self._records.project, first, last),
        )
        for seq, actor, body, ref in rows:
            name, _, version = ref.removeprefix("dataset:").rpartition("@")
            if not name or msgspec.json.decode(bytes(body))["phase"] not in ("done", "settled"):
                continue
            told = Told(
                ref, f"dataset {name} has version {version}", {"dataset": name, "version": version}
            )
            for one in matching(following, Kind.DATASET, _of_dataset(name, actor)):
                if seq > one.since_seq:
                    self._records.add(tx, one.trigger, [told], self._clock(), strict=False)

    def _runs(
        self, tx: Transaction, following: Mapping[str, Defined], first: int, last: int
    ) -> None:
        rows = tx.execute(
            "SELECT seq, subject, body FROM ledger WHERE project = ? AND kind = 'pipeline.end' "
            "AND seq >= ? AND seq <= ? ORDER BY seq",
            (self._records.project, first, last),
        )
        for seq, subject, body in rows:
            data = msgspec.json.decode(bytes(body))["data"]
            if data["status"] != "SUCCEEDED":
                continue
            pipeline = data["pipeline"]
            found = matching(
                following, Kind.PIPELINE, lambda t, name=pipeline: name in waits_for(t)
            )
            for one in found:
                if seq > one.since_seq:
                    self._join(tx, one.trigger, pipeline, subject.removeprefix("run:"))

    def _join(self, tx: Transaction, trigger: Trigger, pipeline: str, run_id: str) -> None:
        """Fires when each of the pipelines has succeeded since the last time."""
        project = self._records.project
        tx.execute(
            "INSERT INTO workflow_upstream VALUES (?, ?, ?, ?) ON CONFLICT "
            "(project, trigger_name, pipeline) DO UPDATE SET run_id = excluded.run_id",
            (project, trigger.name, pipeline, run_id),
        )
        rows = tx.execute(
            "SELECT pipeline, run_id FROM workflow_upstream "
            "WHERE project = ? AND trigger_name = ? ORDER BY pipeline",
            (project, trigger.name),
        )
        runs = {name: id for name, id in rows if name in waits_for(trigger)}
        if runs.keys() != waits_for(trigger):
            return
        names = ", ".join(f"{name} ({id})" for name, id in runs.items())
        told = Told("+".join(f"run:{id}" for id in runs.values()), f"after {names}", {"runs": runs})
        self._records.add(tx, trigger, [told], self._clock(), strict=False)
        tx.execute(
            "DELETE FROM workflow_upstream WHERE project = ? AND trigger_name = ?",
            (project, trigger.name),
        )


def _of_dataset(name: str, actor: str) -> Callable[[Trigger], bool]:
    """What its own run writes must not start a trigger again."""
    return lambda t: fnmatchcase(name, t.source) and actor != f"trigger:{t.name}"


class Files:
    """Looks at the project's folder; a file that changed is a new one."""

    def __init__(self, context: Context, records: Records, clock: Callable[[], int]) -> None:
        self._context = context
        self._records = records
        self._clock = clock
        self._seen: dict[str, set[str]] = defaultdict(set)

    def make_events(self) -> None:
        """Makes the events of files that it has not seen."""
        with self._records.database.transaction(write=False) as tx:
            following = matching(self._records.triggers(tx), Kind.FILE, lambda _: True)
        for one in following:
            trigger = one.trigger
            told = {item.key: item for item in self._files(trigger.source)}
            # A changed trigger looks at all of them again: its `where` may be another one.
            seen = self._seen[repr(trigger)]
            new = [item for key, item in told.items() if key not in seen]
            if new:
                with self._records.database.transaction() as tx:
                    now = self._records.triggers(tx).get(trigger.name)
                    if now is None or now.trigger != trigger:
                        continue
                    self._records.add(tx, trigger, new, self._clock(), strict=False)
            self._seen[repr(trigger)] = set(told)

    def _files(self, pattern: str) -> list[Told]:
        root, found = self._context.root, []
        for path in sorted(root.glob(pattern)):
            try:
                state = path.stat()
            except FileNotFoundError:  # it went away between the two looks
                continue
            if path.is_file():
                # A foreign name may be no UTF-8.
                name = (
                    path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()
                )
                key = f"{name}@{state.st_mtime_ns}@{state.st_size}"
                data = {"path": name, "size_bytes": state.st_size}
                found.append(Told(key, f"file {name}", data))
        return found


class Topics:
    """A thread for each trigger on a topic reads it as a consumer group."""

    def __init__(self, context: Context, records: Records, clock: Callable[[], int]) -> None:
        self._context = context
        self._records = records
        self._clock = clock
        self._threads: dict[str, tuple[threading.Thread, threading.Event]] = {}

    def follow(self) -> None:
        """Begins to read for new triggers, and ends it for those that are gone or changed."""
        with self._records.database.transaction(write=False) as tx:
            found = matching(self._records.triggers(tx), Kind.TOPIC, lambda _: True)
        wanted = {_encoded(one.trigger): one for one in found}
        for key in [key for key in self._threads if key not in wanted]:
            self._end(key)
        for key, one in wanted.items():
            if key not in self._threads:
                stop = threading.Event()
                thread = threading.Thread(target=self._read, args=(one, stop), daemon=True)
                self._threads[key] = (thread, stop)
                thread.start()

    def close(self) -> None:
        """Ends all reading."""
        for key in list(self._threads):
            self._end(key)

    def _end(self, key: str) -> None:
        thread, stop = self._threads.pop(key)
        stop.set()
        thread.join()

    def _read(self, one: Defined, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._consume(one, stop)
            except Exception:
                _log.exception("trigger %s can't read its topic; trying again", one.trigger.name)
                stop.wait(_AGAIN_SECONDS)

    def _consume(self, one: Defined, stop: threading.Event) -> None:
        trigger, collection = one.trigger, self._context.component("collection")
        topic_id = collection.topic(trigger.source).id
        since = one.since_topic if one.since_topic.get("id") == topic_id else {}
        offsets = since.get("offsets", [])
        consumer = collection.consumer(trigger.source, f"trigger-{trigger.name}")
        try:
            while not stop.is_set():
                batch = consumer.poll(max_events=1000, timeout_seconds=_POLL_SECONDS)
                if batch.num_rows:
                    if not self._tell(trigger, _told(trigger.source, topic_id, batch, offsets)):
                        return
                    consumer.commit()
        finally:
            consumer.close()

    def _tell(self, trigger: Trigger, told: list[Told]) -> bool:
        """Writes the events, before their offsets are; false when the trigger was changed."""
        with self._records.database.transaction() as tx:
            known = self._records.triggers(tx).get(trigger.name)
            if known is None or known.trigger != trigger:
                return False
            self._records.add(tx, trigger, told, self._clock(), strict=False)
        ring(self._context.home)
        return True


def _told(topic: str, topic_id: str, batch: pa.RecordBatch, since: list[int]) -> list[Told]:
    """The events after the trigger's definition."""
    found = []
    for row in batch.to_pylist():
        partition, offset = row["partition"], row["offset"]
        if partition < len(since) and offset < since[partition]:
            continue
        place = f"topic:{topic}/{partition}@{offset}"
        data = _object(row["value"]) | {"topic": topic, "partition": partition, "offset": offset}
        found.append(Told(f"{topic_id}/{place}", place, data))
    return found


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(value or b"null")
    except ValueError:
        return {"value": (value or b"").decode("utf-8", "backslashreplace")}
    return dict(found) if isinstance(found, dict) else {"value": found}


def _encoded(trigger: Trigger) -> str:
    return msgspec.json.encode(trigger).decode()
