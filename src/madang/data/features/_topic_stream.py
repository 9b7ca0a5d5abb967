"""A topic's events through a window's view, into a dataset and the online store, exactly once.

Each batch makes one checkpoint, which holds how far the topic was read, the state of the windows and
what is to be written. Only then it is written, and after a crash written again: datasets drop what they
have already by the checkpoint's number, and the online store puts the same rows once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from madang.data.features._checkpoint import CheckpointFile
from madang.data.features._topic_reader import TopicReader
from madang.data.features._window import Window
from madang.data.features.contract import FeatureView, Streamed
from madang.data.features.streaming import Emitted, StreamingWindow
from madang.data.storage import Transaction
from madang.engines import Context
from madang.errors import ConflictError, DataContractError
from madang.ledger import new_id

if TYPE_CHECKING:
    from madang.data.validation import DataContract

LATE, QUARANTINE = "_late", "_quarantine"


class Push(Protocol):
    """Puts rows of a view online."""

    def __call__(self, view: FeatureView, rows: pa.Table, /) -> int: ...


class TopicStream:
    """One view's stream of one topic.

    Args:
        context: The project.
        view: A window's view, and its reference in the ledger.
        topic: Holds JSON objects of the view's source.
        dataset: Where final rows are appended; `None`: nowhere.
        push: Puts rows online; `None`: nothing is put there.
    """

    def __init__(
        self,
        context: Context,
        view: tuple[FeatureView, str],
        topic: str,
        *,
        dataset: str | None,
        push: Push | None,
    ) -> None:
        self._context = context
        self._view, self._ref = view
        self._topic, self._dataset, self._push = topic, dataset, push
        self._window = StreamingWindow(self._view)  # says what is wrong before anything is made
        self._file = CheckpointFile(context.home / "streams" / self._view.name / topic)
        self._values: dict[str, Any] = {}

    def run(self, batch_events: int, until: datetime | None) -> Streamed:
        """Goes on to the end that the topic has now, and then sets the clock."""
        contract = self._contract()
        collection = self._context.component("collection")
        collection.topic(self._topic)  # says that it isn't there before anything is made
        done = Streamed()
        with self._resumed():
            offsets = {int(p): at for p, at in self._values["offsets"].items()}
            reader = TopicReader(collection, self._topic, offsets)
            while (events := reader.next(batch_events)) is not None:
                done = self._take(events, reader.offsets, contract, done)
            if until is not None:
                done = self._advance(until, done)
        return _plus(done, missed=reader.missed)

    def _contract(self) -> DataContract:
        from madang.data.validation.contract_file import contract_path, read_contract

        assert isinstance(self._view.function, Window)  # StreamingWindow has seen to it
        return read_contract(contract_path(self._context.root, self._view.function.source))

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        with self._file.alone():
            last = self._file.load()
            if last is None:
                self._begin()
            else:
                self._check(last.values)
                self._values = last.values
                self._window = StreamingWindow.restore(
                    self._view, last.values["window"], last.tables.pop("events", None)
                )
                self._deliver(last.tables)  # in case that it was killed before it could
            yield

    def _begin(self) -> None:
        """A new stream has a name of its own, by which datasets know what they have of it."""
        self._values = {
            "stream": new_id(),
            "number": 0,
            "view": self._ref,
            "dataset": self._dataset,
            "offsets": {},
            "inputs": [],
        }

    def _check(self, values: dict[str, Any]) -> None:
        for what, now in (("view", self._ref), ("dataset", self._dataset)):
            if values[what] != now:
                raise ConflictError(
                    f"the stream of topic {self._topic!r} through view {self._view.name!r} was "
                    f"begun with the {what} {values[what]} and is now asked for {now}; its windows "
                    "can't be carried over. Ask for the same, or stream through a view of another "
                    "name"
                )

    def _take(
        self,
        events: pa.RecordBatch,
        offsets: dict[int, int],
        contract: DataContract,
        done: Streamed,
    ) -> Streamed:
        outcome = self._context.component("validation").validate(events, contract)
        if outcome.report.blocked:
            results = outcome.report.results
            failed = [r for r in results if not r.ok and r.check.severity == "block"]
            told = "; ".join(f"{r.check.kind} of {r.check.column or 'rows'}" for r in failed)
            raise DataContractError(
                f"events of topic {self._topic!r} fail checks of dataset {contract.dataset!r} that "
                f"block: {told}; nothing of this batch was taken"
            )
        emitted = self._window.process(outcome.valid)
        self._values["offsets"] = {str(partition): offset for partition, offset in offsets.items()}
        self._values["inputs"] = _spans(self._topic, events)
        self._commit(emitted, outcome.quarantined)
        return _plus(
            done,
            events=events.num_rows,
            rows=emitted.rows.num_rows,
            late=emitted.rejected.num_rows,
            quarantined=outcome.quarantined.num_rows,
        )

    def _advance(self, until: datetime, done: Streamed) -> Streamed:
        """Gives out what has ended by a time without an event."""
        emitted = self._window.advance(until)
        if emitted.rows.num_rows or emitted.open.num_rows:
            self._values["inputs"] = []
            self._commit(emitted, pa.table({}))
        return _plus(done, rows=emitted.rows.num_rows)

    def _commit(self, emitted: Emitted, quarantined: pa.Table) -> None:
        """Makes the state durable together with what is to be written, and then writes it."""
        tables = {
            "rows": emitted.rows,
            "open": emitted.open,
            "late": emitted.rejected,
            "quarantine": quarantined,
        }
        if not self._values["number"]:
            self._context.ledger.record(
                "view.stream",
                f"view:{self._view.name}",
                inputs=[self._ref, f"topic:{self._topic}"],
                data={"stream": self._values["stream"], "dataset": self._dataset},
            )
        numbers, kept = self._window.state()
        self._values |= {"number": self._values["number"] + 1, "window": numbers}
        held = {} if kept is None else {"events": kept}
        self._file.save(self._values, tables | held)
        self._deliver(tables)

    def _deliver(self, tables: dict[str, pa.Table]) -> None:
        """Writes what the checkpoint says; to repeat it changes nothing."""
        name = self._view.name
        if self._dataset is not None:
            self._write(self._dataset, tables["rows"])
        self._write(name + LATE, tables["late"])
        self._write(name + QUARANTINE, tables["quarantine"])
        if self._push is not None:
            online = pa.concat_tables([tables["rows"], tables["open"]])
            if online.num_rows:
                self._push(self._view, online)

    def _write(self, dataset: str, rows: pa.Table) -> None:
        storage = self._context.component("storage")
        name, number = f"stream:{self._values['stream']}", self._values["number"]
        if rows.num_rows and storage.progress(dataset, [name]).get(name, -1) < number:
            storage.write(
                dataset,
                rows,
                transaction=Transaction(name, number),
                inputs=[self._ref, *self._values["inputs"]],
            )


def _plus(done: Streamed, **more: int) -> Streamed:
    return Streamed(**{name: getattr(done, name) + more.get(name, 0) for name in vars(done)})


def _spans(topic: str, events: pa.RecordBatch) -> list[str]:
    """References to the events of a batch, for the ledger."""
    table = pa.table({"p": events["partition"], "o": events["offset"]})
    found = table.group_by("p").aggregate([("o", "min"), ("o", "max")]).sort_by("p")
    spans = zip(*(found[name].to_pylist() for name in ("p", "o_min", "o_max")), strict=True)
    return [f"topic:{topic}/{p}@{first}-{last}" for p, first, last in spans]
