"""Rows of a connector, from the position that came with the newest batch on.

A connector is one application of the dataset; its number counts the batches. The position after
batch n stands in the metadata of the version that n made, and, so that a start need not look for
it, in the metadata database. The database is written after the version: it lags by a batch when the
process was killed in between, and then the version's metadata fills the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.data.ingestion._gathering import Gathering, reasons_of
from madang.data.ingestion._job import PIECE_ROWS, Job
from madang.data.ingestion._record import Landed
from madang.data.ingestion.contract import POSITION_BYTES
from madang.errors import ConflictError, DataContractError, InvalidInputError

if TYPE_CHECKING:
    from madang.data.ingestion.contract import Piece, Source

_MOST_ASIDE_BYTES = 64 << 20


class ConnectorMove:
    """Moves a source's rows: those that are there now, or until it is stopped."""

    def __init__(self, job: Job, source: Source) -> None:
        self._job, self._source = job, source
        self._landing = job.landing()
        self._application = f"ingest:{job.source}"
        self._number = -1
        self._positions: dict[str, Any] = {}
        self._gathered = job.gathering()

    def run(self) -> None:
        """Moves rows.

        Raises:
            ConflictError: Another process moves them at the same time; what it landed is its own.
            DataContractError: A check that blocks failed; what came before it has landed.
            UnavailableError: The source's server or the storage does not answer.
        """
        self._restore()
        self._landing.sweep([self._application])
        while not self._job.stop.is_set():
            if self._source.replaces:
                self._replace()
            else:
                self._append()
            if not self._job.follow:
                return
            self._job.works()
            self._source.wait(self._job.stop, self._job.poll_seconds)

    def _append(self) -> None:
        for piece in self._read():
            self._take(piece)
            if self._gathered.due():
                self._land()
            if self._job.stop.is_set():
                break
        self._land()

    def _read(self) -> Iterator[Piece]:
        try:
            yield from self._source.read(
                dict(self._positions), self._job.contract.schema, batch_rows=PIECE_ROWS
            )
        except Exception:
            self._land()  # what could be read
            raise

    def _take(self, piece: Piece) -> None:
        try:
            valid, aside, reasons = self._judge(piece)
        except DataContractError:
            self._land()
            raise
        self._gathered.add(valid, aside, reasons)
        self._gathered.newest(piece.part, piece.newest_us)
        self._move_on(self._gathered, piece)

    def _judge(self, piece: Piece) -> tuple[pa.Table, pa.Table, dict[str, int]]:
        name = f"{self._job.source}/{piece.part}" if piece.part else self._job.source
        valid, aside, report = self._job.judge.rows(piece.rows, piece.numbers, name)
        reasons = reasons_of(report)
        if piece.refused.num_rows:
            aside = pa.concat_tables([piece.refused, aside])
            reasons["row: read"] = piece.refused.num_rows
        self._job.judged(report)
        return valid, aside, reasons

    def _move_on(self, gathered: Gathering, piece: Piece) -> None:
        gathered.batch.positions[piece.part] = piece.position
        ref = f"{self._job.source}/{piece.part}" if piece.part else self._job.source
        if ref not in gathered.batch.inputs:
            gathered.batch.inputs.append(ref)

    def _land(self) -> None:
        gathered, self._gathered = self._gathered, self._job.gathering()
        if gathered.empty:
            return
        gathered.batch.numbers = {self._application: self._number + 1}
        _check_sizes(gathered)
        self._write(gathered, lambda: self._landing.write(gathered.batch))

    def _write(self, gathered: Gathering, write: Callable[[], dict[str, int]]) -> None:
        try:
            self._job.land(gathered.batch, write, lambda made: self._landed(gathered, made))
        except ConflictError as error:
            self._refuse(error)
            raise

    def _landed(self, gathered: Gathering, made: dict[str, int]) -> None:
        self._number += 1
        self._positions |= gathered.batch.positions
        parts = {
            part: Landed(self._number, position, None, gathered.newest_us.get(part))
            for part, position in gathered.batch.positions.items()
        }
        self._job.landed(gathered, made, parts)
        for ref in gathered.batch.inputs:
            self._job.totals.spans[ref] = [None, None]

    def _refuse(self, error: ConflictError) -> None:
        if self._landing.held([self._application])[self._application] != self._number:
            raise ConflictError(
                f"another process ingests {self._job.source!r} into dataset {self._job.dataset!r} "
                "now and was faster; let one of them do it. Nothing was lost or doubled"
            ) from error

    # -- the whole content anew ------------------------------------------------------------------

    def _replace(self) -> None:
        """One version with all rows in place of those before; nothing lands before the last one."""
        gathered = self._job.gathering()
        gathered.batch.numbers = {self._application: self._number + 1}

        def valid() -> Iterator[pa.Table]:
            for piece in self._source.read({}, self._job.contract.schema, batch_rows=PIECE_ROWS):
                good, bad, reasons = self._judge(piece)
                gathered.add(good, bad, reasons)
                gathered.newest(piece.part, piece.newest_us)
                self._move_on(gathered, piece)
                gathered.batch.valid.clear()  # the stream has them
                _check_aside(gathered)
                yield good

        self._write(gathered, lambda: self._landing.replace(gathered.batch, valid()))

    # -- where it was ----------------------------------------------------------------------------

    def _restore(self) -> None:
        """Finds the number and the positions: the dataset's are the truth."""
        job = self._job
        self._number = self._landing.held([self._application])[self._application]
        number, self._positions = job.record.positions(job.dataset, job.source)
        if number > self._number:  # the dataset was made anew, or an older state of it restored
            job.record.forget(job.dataset, job.source)
            number, self._positions = -1, {}
        for note in self._landing.notes(self._application, number, self._number):
            number += 1
            self._positions |= note["positions"]
            parts = {part: Landed(number, at) for part, at in note["positions"].items()}
            job.record.landed(job.dataset, job.source, parts, (0, 0, 0))


def _check_sizes(gathered: Gathering) -> None:
    from madang.data.ingestion._judge import encode

    for part, position in gathered.batch.positions.items():
        size = len(encode(position))
        if size > POSITION_BYTES:
            raise InvalidInputError(
                f"the position in {part or 'the source'!r} takes {size} bytes, and {POSITION_BYTES} "
                "are kept with a batch; for a database, choose a cursor column whose values repeat "
                "less often"
            )


def _check_aside(gathered: Gathering) -> None:
    if sum(table.nbytes for table in gathered.batch.aside) > _MOST_ASIDE_BYTES:
        raise DataContractError(
            f"{gathered.aside} of {gathered.events} rows were set aside: too many to be held until "
            "the last row is read. Is the contract right? Nothing was written"
        )
