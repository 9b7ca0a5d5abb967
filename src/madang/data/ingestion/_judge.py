"""Rows against the dataset's contract: valid ones in its schema, the others in the quarantine's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from madang.data.collection.cloudevents import data_of
from madang.data.ingestion.contract import QUARANTINE_SCHEMA
from madang.data.validation import Column
from madang.errors import DataContractError, InvalidInputError

if TYPE_CHECKING:
    from madang.data.validation import DataContract, Report, Validation

_ROW = "_row"
encode = msgspec.json.Encoder(enc_hook=str, decimal_format="string").encode


class Judge:
    """Judges batches by one contract; not for several threads at once."""

    def __init__(self, validation: Validation, contract: DataContract) -> None:
        if any(column.name == _ROW for column in contract.columns):
            raise InvalidInputError(
                f"the contract of {contract.dataset!r} has a column {_ROW!r}, and ingestion counts "
                "rows by that name; call the column something else"
            )
        self._validation = validation
        self.contract = contract
        self._counted = dataclasses.replace(
            contract, columns=(*contract.columns, Column(_ROW, pa.int64()))
        )

    def events(self, batch: pa.RecordBatch, source: str) -> tuple[pa.Table, pa.Table, Report]:
        """Judges events of a topic: valid rows, rows set aside, the report.

        Of a CloudEvent its data are judged; what is set aside is the event as it came.
        """
        came = batch["value"]
        values = data_of(came)
        content = batch
        if values is not came:
            content = batch.set_column(batch.schema.get_field_index("value"), "value", values)
        outcome = self._validation.validate(content, self.contract)
        self._refuse_blocked(outcome.report)
        bad = outcome.quarantined
        if content is not batch and bad.num_rows:
            bad = bad.set_column(bad.schema.get_field_index("value"), "value", _as_came(batch, bad))
        return outcome.valid, _aside(bad, source), outcome.report

    def rows(
        self, rows: pa.Table, numbers: pa.Array, source: str
    ) -> tuple[pa.Table, pa.Table, Report]:
        """Judges a source's rows, as `Piece` has them."""
        if rows.column_names == ["value"]:
            data = pa.table({"offset": numbers, "value": rows["value"]})
            outcome = self._validation.validate(data, self.contract)
            self._refuse_blocked(outcome.report)
            return outcome.valid, _aside(outcome.quarantined, source), outcome.report
        outcome = self._validation.validate(rows.append_column(_ROW, numbers), self._counted)
        report = _without_count(outcome.report)
        self._refuse_blocked(report)
        bad = outcome.quarantined
        columns = bad.drop_columns([_ROW, "_reasons"])
        found = {
            "offset": bad[_ROW],
            "value": pa.array([encode(row) for row in columns.to_pylist()], pa.binary()),
            "_reasons": bad["_reasons"],
        }
        return outcome.valid.drop_columns([_ROW]), _aside(pa.table(found), source), report

    def _refuse_blocked(self, report: Report) -> None:
        if not report.blocked:
            return
        failed = [r for r in report.results if not r.ok and r.check.severity == "block"]
        told = "; ".join(
            f"{r.check.kind} of {r.check.column or 'rows'}: {r.message}" for r in failed
        )
        raise DataContractError(
            f"dataset {self.contract.dataset!r}: {told}; nothing of this batch was written"
        )


def _as_came(batch: pa.RecordBatch, rows: pa.Table) -> pa.Array:
    """The values of these rows' events in the batch."""
    places = {
        place: row
        for row, place in enumerate(
            zip(batch["partition"].to_pylist(), batch["offset"].to_pylist(), strict=True)
        )
    }
    wanted = zip(rows["partition"].to_pylist(), rows["offset"].to_pylist(), strict=True)
    return batch["value"].take(pa.array([places[place] for place in wanted], pa.int64()))


def _without_count(report: Report) -> Report:
    kept = tuple(result for result in report.results if result.check.column != _ROW)
    statistics: dict[str, Any] = {k: v for k, v in report.statistics.items() if k != _ROW}
    return dataclasses.replace(report, results=kept, statistics=statistics)


def _aside(found: pa.Table, source: str) -> pa.Table:
    """Rows in the quarantine's schema; what they don't have is null."""
    rows = found.num_rows
    columns: list[Any] = [pa.array([source] * rows, pa.string())]
    for field in list(QUARANTINE_SCHEMA)[1:]:
        if field.name in found.column_names:
            columns.append(found[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(rows, field.type))
    return pa.table(columns, schema=QUARANTINE_SCHEMA)


def refused(
    source: str, numbers: list[int], values: list[bytes | None], reasons: list[str]
) -> pa.Table:
    """Rows that could not be read, in the quarantine's schema."""
    return _aside(
        pa.table(
            {
                "offset": pa.array(numbers, pa.int64()),
                "value": pa.array(values, pa.binary()),
                "_reasons": pa.array([[reason] for reason in reasons], pa.list_(pa.string())),
            }
        ),
        source,
    )
