"""Metric histories in the metadata database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from madang.development.experiments import _rows
from madang.development.experiments._base import LocalPart
from madang.development.experiments._search import bad_token, decoded_token, encoded_token
from madang.development.experiments.contract import MetricHistories
from madang.development.experiments.values import Metric, Page
from madang.errors import InvalidInputError
from madang.metadata import Row

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_PAGE = 200_000
_CHUNK = 5_000
_POINTS = (
    "SELECT step, time, value, number FROM run_metric WHERE project = ? AND run_id = ? AND name = ?"
)


class LocalHistories(LocalPart, MetricHistories):
    """Every point is a row, numbered in the order of logging."""

    def metric_history(self, run_id: str, key: str) -> list[Metric]:
        rows = self._points(run_id, key)
        rows.sort(key=lambda row: (row[0], row[1], row[3]))
        read = _rows.read
        return [Metric(key, read(value), step, time) for step, time, value, _ in rows]

    def _points(self, run_id: str, key: str) -> list[Row]:
        """All points in the order of logging, which is the key's: the database sorts nothing."""
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
            return tx.execute(f"{_POINTS} ORDER BY number", (self._project, run_id, key))

    def _chunks(self, run_id: str, key: str) -> Iterator[list[Row]]:
        """As `_points`, part by part: a million tuples at once keep the garbage collector busy."""
        after = -1
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
            while rows := tx.execute(
                f"{_POINTS} AND number > ? ORDER BY number LIMIT {_CHUNK}",
                (self._project, run_id, key, after),
            ):
                yield rows
                after = rows[-1][3]

    def metric_page(
        self, run_id: str, key: str, *, limit: int = 1000, page_token: str | None = None
    ) -> Page[Metric]:
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidInputError(f"a page has 1 to {_MAX_PAGE} points, asked for {limit}")
        mark = f"{run_id}/{key}"
        after, place = "", []
        if page_token:
            place = decoded_token(page_token, mark)
            if len(place) != 3 or not all(isinstance(value, int) for value in place):
                raise bad_token()
            after = " AND (step, time, number) > (?, ?, ?)"
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
            rows = tx.execute(
                f"{_POINTS}{after} ORDER BY step, time, number LIMIT ?",
                (self._project, run_id, key, *place, limit + 1),
            )
        token = None
        if len(rows) > limit:
            rows = rows[:limit]
            step, time, _, number = rows[-1]
            token = encoded_token(mark, [step, time, number])
        return Page(tuple(Metric(key, _rows.read(r[2]), r[0], r[1]) for r in rows), token)

    def metric_table(self, run_id: str, key: str) -> pa.Table:
        import numpy as np

        from madang.development.experiments._points import points_table

        kind = np.dtype([("step", "i8"), ("time", "i8"), ("value", "f8"), ("number", "i8")])
        # A null, which stands for NaN, becomes one.
        parts = [np.array(rows, kind) for rows in self._chunks(run_id, key)]
        points = np.concatenate([np.empty(0, kind), *parts])
        step, time, value = (
            np.ascontiguousarray(points[name]) for name in ("step", "time", "value")
        )
        return points_table(step, time, value)

    def metric_sample(
        self,
        run_id: str,
        key: str,
        *,
        points: int = 1000,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> pa.Table:
        from madang.development.experiments._points import sampled

        return sampled(self.metric_table(run_id, key), points, first_step, last_step)
