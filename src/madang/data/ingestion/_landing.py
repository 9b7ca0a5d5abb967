"""How rows of a source land in a dataset exactly once, whoever is killed when, and however many try.

Each part of a source (a topic's partition; a connector as a whole) is an *application* of two
tables: the dataset, and its quarantine. A table keeps for each application a number, changed by the
very commit that adds the rows (`madang.data.storage.Transaction`). For a topic's partition it is the
next offset; for a connector it counts the batches, and the version's metadata holds the position.

A batch is judged once. Then, in this order:

1. rows that were set aside go into an object of their own (none, no object);
2. the valid rows go into the dataset, in one commit with the application's new number, *after* the
   number that this process last saw; with rows set aside, the commit also moves the application's
   second number, `…#owed`, and its metadata names the object;
3. the rows set aside go into the quarantine, in one commit with the application's number there,
   again after the one last seen; then the object is deleted.

Why no row is lost or doubled:

- Step 2 is the one point where a batch happens. Two that hold the same events both say `after` the
  same number, so one of them lands and the other is told; it forgets its batch and begins at the new
  number. What was judged but not committed leaves at most an object that nothing refers to.
- A batch is *owed* while the dataset's `…#owed` is above the quarantine's number. Nobody lands a
  batch of an application while it owes one: who finds a debt pays it first, from the object. Two who
  pay at once both say `after`, so one lands. So each batch is in both tables or, for a moment, owed.
- What was judged is never judged again. Rules about a whole batch, the clock, other tables, or an
  edited contract may give another answer later, and then a row would be in both tables or in
  neither. That is why the rows set aside are made durable first, and why a debt is paid from there.
- Numbers come from the dataset alone. What a consumer group committed and what the metadata database
  recorded are hints, so losing them doubles nothing.

A batch with no valid row needs step 2 as well: only there can two processes see each other. It is a
version without rows, so such batches are put together as far as memory allows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from madang.data.ingestion.contract import QUARANTINE, QUARANTINE_SCHEMA
from madang.data.storage import Transaction
from madang.errors import ConflictError, IntegrityError, NotFoundError
from madang.ledger import new_id

if TYPE_CHECKING:
    from madang.data.storage import Storage, TableVersion

NOTE = "madang.ingest"
"""The key in a version's metadata that says which batch it is."""

OWED = "#owed"
OBJECTS = "ingest/"
_LEFTOVER = timedelta(days=1)


@dataclass
class Batch:
    """Judged rows on their way.

    Attributes:
        numbers: Application to its number when this batch has landed.
        positions: What the version's metadata says of where it ends.
        inputs: References to what the rows were made from, for the ledger.
        id: Names the batch in its version's metadata.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    positions: dict[str, Any] = field(default_factory=dict)
    valid: list[pa.Table] = field(default_factory=list)
    aside: list[pa.Table] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    id: str = field(default_factory=new_id)


class Landing:
    """Takes one source's batches into one dataset.

    Args:
        storage: Where the tables are.
        dataset: The dataset's name.
        schema: The columns of valid rows.
        source: Names the source, for the objects of rows set aside.
    """

    def __init__(self, storage: Storage, dataset: str, schema: pa.Schema, source: str) -> None:
        self._storage = storage
        self._dataset, self._quarantine = dataset, dataset + QUARANTINE
        self._schema = schema
        self._folder = f"{OBJECTS}{dataset}/{_as_key(source)}/"
        self._held: dict[str, int] = {}
        self._paid: dict[str, int] = {}

    def held(self, applications: Sequence[str]) -> dict[str, int]:
        """How far each application is; pays what is owed first. -1 where there is nothing yet.

        Raises:
            IntegrityError: The record of what is owed is gone.
        """
        self._load(applications)
        while owing := [a for a in applications if self._held[a + OWED] > self._paid[a]]:
            self._settle(owing[0])
            self._load(applications)
        return {application: self._held[application] for application in applications}

    def seen(self, application: str) -> int:
        """The number that this process last saw; -1 where there was nothing."""
        return self._held.get(application, -1)

    def write(self, batch: Batch) -> dict[str, int]:
        """Lands a batch; returns table to the version that was made.

        Raises:
            ConflictError: Another process landed some of these rows; nothing was written. Ask
                `held` how far it is.
        """
        aside = pa.concat_tables(batch.aside) if batch.aside else QUARANTINE_SCHEMA.empty_table()
        owed = self._put(self._new_key(), aside) if aside.num_rows else None
        moved = dict(batch.numbers)
        if owed:
            moved |= {a + OWED: number for a, number in batch.numbers.items()}
        valid = pa.concat_tables([self._schema.empty_table(), *batch.valid])
        note = _note(batch, batch.positions, owed)
        version = self._storage.write(
            self._dataset,
            valid,
            metadata={NOTE: json.dumps(note)},
            transaction=_steps(moved, self._held),
            inputs=batch.inputs,
        )
        self._held.update(moved)
        made = {self._dataset: version}
        if owed:
            made |= self._pay(owed, aside, batch.numbers, batch.inputs)
        return made

    def replace(self, batch: Batch, valid: Iterable[pa.Table]) -> dict[str, int]:
        """Lands one batch in place of all rows; as `write`, but its rows are streamed.

        The rows set aside are known when the last one has gone by: they are made durable then,
        before the commit, under a key that the commit names.
        """
        key, kept = self._new_key(), QUARANTINE_SCHEMA.empty_table()
        failures: list[Exception] = []

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal kept
            try:
                for table in valid:
                    yield from table.to_batches()
                kept = pa.concat_tables([kept, *batch.aside])
                self._put(key, kept)
            except Exception as error:
                failures.append(error)  # Arrow's stream would make another error of it
                raise

        moved = batch.numbers | {a + OWED: number for a, number in batch.numbers.items()}
        note = _note(batch, {"": None}, key)
        try:
            version = self._storage.write(
                self._dataset,
                pa.RecordBatchReader.from_batches(self._schema, rows()),
                mode="overwrite",
                metadata={NOTE: json.dumps(note)},
                transaction=_steps(moved, self._held),
                inputs=batch.inputs,
            )
        except Exception as error:
            if failures:
                raise failures[0] from error
            raise
        self._held.update(moved)
        return {self._dataset: version} | self._pay(key, kept, batch.numbers, batch.inputs)

    def version_of(self, batch: Batch) -> int | None:
        """The dataset's version that a batch made, though the call failed; `None`: it did not land.

        A server may die after the commit and before the rest, or before its answer comes.
        """
        for version in newest_first(self._storage, self._dataset):
            note = json.loads(version.metadata.get(NOTE, "{}"))
            if note.get("batch") == batch.id:
                return version.version
            numbers = note.get("numbers", {})
            if any(a in numbers and numbers[a] < number for a, number in batch.numbers.items()):
                return None  # an older batch of the same source
        return None

    def _new_key(self) -> str:
        return f"{self._folder}{new_id()}.arrow"

    def _put(self, key: str, aside: pa.Table) -> str:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, QUARANTINE_SCHEMA) as stream:
            stream.write_table(aside)
        self._storage.put(key, sink.getvalue(), overwrite=False)
        return key

    def _pay(
        self, key: str, aside: pa.Table, numbers: Mapping[str, int], inputs: Iterable[str]
    ) -> dict[str, int]:
        made: dict[str, int] = {}
        try:
            made[self._quarantine] = self._storage.write(
                self._quarantine,
                aside,
                transaction=_steps(numbers, self._paid),
                inputs=list(inputs),
            )
        except ConflictError:
            found = self._storage.progress(self._quarantine, list(numbers))
            if any(found.get(a, -1) < number for a, number in numbers.items()):
                raise
            # Another process took this one for dead and paid.
        self._paid.update(numbers)
        self._storage.delete(key)
        return made

    # -- what was found --------------------------------------------------------------------------

    def _load(self, applications: Sequence[str]) -> None:
        asked = [*applications, *(a + OWED for a in applications)]
        # What is owed is read first: were it read last, a debt that another process makes and pays
        # in between would be seen; this way it is not, and the number that is held is the old one.
        held = self._storage.progress(self._dataset, asked)
        paid = self._storage.progress(self._quarantine, list(applications))
        if any(paid.get(a, -1) > held.get(a, -1) for a in applications):
            held = self._storage.progress(self._dataset, asked)  # it may have moved since
            self._check_together(held, paid)
        self._held.update({a: held.get(a, -1) for a in asked})
        self._paid.update({a: paid.get(a, -1) for a in applications})

    def _check_together(self, held: Mapping[str, int], paid: Mapping[str, int]) -> None:
        for application, number in paid.items():
            if number > held.get(application, -1):
                raise IntegrityError(
                    f"{self._quarantine!r} has rows of {application!r} up to {number}, and "
                    f"{self._dataset!r} only up to {held.get(application, -1)}: one of the two tables "
                    "was deleted or restored alone; restore both of them together"
                )

    def _settle(self, application: str) -> None:
        """Pays the batch that `application` owes."""
        number = self._held[application + OWED]
        note = self._note_of(application, number)
        key, numbers = note["owed"], dict(note["numbers"])
        try:
            data = self._storage.get(key)
        except NotFoundError as error:
            paid = self._storage.progress(self._quarantine, [application])
            if paid.get(application, -1) >= number:
                return  # by another process, which then deleted the object
            raise IntegrityError(
                f"rows set aside for {self._quarantine!r} are gone: there is no object {key!r}; "
                "restore it from a backup of the storage"
            ) from error
        self._load(list(numbers))
        if self._paid[application] >= number:
            return  # since it was looked
        inputs = [f"object:{key}"]
        self._pay(key, pa.ipc.open_stream(data).read_all(), numbers, inputs)

    def notes(self, application: str, after: int, to: int) -> list[dict[str, Any]]:
        """What the versions say that moved `application`, one by one, from `after` to `to`.

        The newest versions are read first, and no more than needed.

        Raises:
            IntegrityError: A step is missing.
        """
        wanted = set(range(after + 1, to + 1))
        found: dict[int, dict[str, Any]] = {}
        if wanted:
            for note in self._newest_notes():
                number = note.get("numbers", {}).get(application)
                if number in wanted:
                    found.setdefault(number, note)
                    if len(found) == len(wanted):
                        break
        for number in sorted(wanted - found.keys()):
            self._no_note(application, number)
        return [found[number] for number in sorted(found)]

    def _note_of(self, application: str, number: int) -> dict[str, Any]:
        for note in self._newest_notes():
            if note.get("numbers", {}).get(application) == number:
                return note
        return self._no_note(application, number)

    def _newest_notes(self) -> Iterator[dict[str, Any]]:
        for version in newest_first(self._storage, self._dataset):
            yield json.loads(version.metadata.get(NOTE, "{}"))

    def _no_note(self, application: str, number: int) -> NoReturn:
        raise IntegrityError(
            f"no version of dataset {self._dataset!r} says how {application!r} came to {number}; "
            "its log was cut off, or another program wrote under this name"
        )

    def sweep(self, applications: Sequence[str]) -> None:
        """Deletes what processes that died left behind, when nothing of this source is owed."""
        self._load(applications)
        if any(self._held[a + OWED] > self._paid[a] for a in applications):
            return
        before = datetime.now(UTC) - _LEFTOVER  # a younger one may be a batch that is under way
        for found in self._storage.list(self._folder):
            if found.modified < before:
                self._storage.delete(found.key)


def newest_first(storage: Storage, table: str) -> Iterable[TableVersion]:
    """A table's versions from the newest on, without reading more of the log than is asked for."""
    limit, seen = 8, 0
    while True:
        try:
            found = storage.versions(table, limit=limit)
        except NotFoundError:
            return
        yield from list(reversed(found))[seen:]
        if len(found) < limit:
            return
        seen, limit = len(found), limit * 8


def _note(batch: Batch, positions: Mapping[str, Any], owed: str | None) -> dict[str, Any]:
    return {"batch": batch.id, "numbers": batch.numbers, "positions": positions, "owed": owed}


def _steps(numbers: Mapping[str, int], held: Mapping[str, int]) -> list[Transaction]:
    return [Transaction(a, number, held.get(a, -1)) for a, number in sorted(numbers.items())]


def _as_key(name: str) -> str:
    """A name as one part of an object's key; different names stay different."""
    import hashlib
    import re

    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:80].strip(".-") or "source"
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"
