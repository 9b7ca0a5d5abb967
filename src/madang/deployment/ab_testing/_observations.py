"""Requests and outcomes of a rollout in the metadata database; the sums that statistics need of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from madang.deployment.ab_testing._scores import UnusableOutcomeError, score
from madang.deployment.ab_testing.contract import Target
from madang.metadata import Transaction

if TYPE_CHECKING:
    from madang.deployment.ab_testing.statistics import Moments

_CHUNK = 500

Cell = tuple[int, int]
"""Stage and version."""


class Prediction(NamedTuple):
    """One request at one arm."""

    id: str
    arm: int
    stage: int
    unit: str
    group: str
    bucket: int | None
    failed: bool
    covariate: float | None
    answer: str


class Outcome(NamedTuple):
    """What really happened after a prediction; `value` is JSON."""

    id: str
    value: str
    time_us: int


class Sums(NamedTuple):
    """All that the statistics need of a rollout.

    Attributes:
        scores: Of each arm, over units.
        pairs: Of each challenger minus control, over units whose requests both answered.
        groups: As `scores`, by group.
        buckets: Of latency, and how many answers fell into them.
        requests: How many were assigned, and how many of these failed.
        units: How many different ones were assigned.
    """

    scores: dict[Cell, Moments]
    pairs: dict[Cell, Moments]
    groups: dict[tuple[int, int, str], Moments]
    buckets: dict[Cell, dict[int, int]]
    requests: dict[Cell, tuple[int, int]]
    units: dict[Cell, int]


class Observations:
    """Those of one rollout, inside of a transaction."""

    def __init__(self, tx: Transaction, project: str, rollout: str) -> None:
        self._tx = tx
        self._own = (project, rollout)

    # -- writing ------------------------------------------------------------------------------

    def position(self, topic: str, part: int) -> int | None:
        """The next offset to read of a topic's partition."""
        rows = self._tx.execute(
            "SELECT position FROM rollout_progress "
            "WHERE project = ? AND rollout = ? AND topic = ? AND part = ?",
            (*self._own, topic, part),
        )
        return int(rows[0][0]) if rows else None

    def move(self, topic: str, part: int, position: int) -> None:
        """Sets the next offset to read."""
        self._tx.execute(
            "INSERT INTO rollout_progress VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (project, rollout, topic, part) DO UPDATE SET position = excluded.position",
            (*self._own, topic, part, position),
        )

    def add_predictions(self, predictions: Iterable[Prediction]) -> None:
        """Adds requests; one that is there already stays as it is."""
        self._tx.executemany(
            "INSERT INTO rollout_prediction VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL) "
            "ON CONFLICT (project, rollout, id, arm) DO NOTHING",
            [(*self._own, *one) for one in predictions],
        )

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Adds outcomes; of several for one prediction the newest counts, by their own times."""
        self._tx.executemany(
            "INSERT INTO rollout_outcome VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (project, rollout, id) DO UPDATE SET "
            "value = excluded.value, time_us = excluded.time_us "
            "WHERE excluded.time_us >= rollout_outcome.time_us",
            [(*self._own, *one) for one in outcomes],
        )

    def score(self, ids: Sequence[str], target: Target) -> tuple[int, list[str]]:
        """Scores the predictions of these ids whose outcomes are known.

        Returns:
            How many were scored; and what can't be, with the reasons.
        """
        count, problems = 0, list[str]()
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            rows = self._tx.execute(
                "SELECT p.id, p.arm, p.answer, o.value FROM rollout_prediction p "  # noqa: S608 - marks
                "JOIN rollout_outcome o "
                "ON o.project = p.project AND o.rollout = p.rollout AND o.id = p.id "
                "WHERE p.project = ? AND p.rollout = ? AND NOT p.failed "
                f"AND p.id IN ({', '.join('?' * len(some))})",
                (*self._own, *some),
            )
            scored: list[tuple[Any, ...]] = []
            for id, arm, answer, value in rows:
                try:
                    found = score(target, msgspec.json.decode(answer), msgspec.json.decode(value))
                except UnusableOutcomeError as error:
                    found = None
                    problems.append(f"{id}: {error}")
                scored.append((found, *self._own, id, arm))
                count += found is not None
            self._tx.executemany(
                "UPDATE rollout_prediction SET score = ? "
                "WHERE project = ? AND rollout = ? AND id = ? AND arm = ?",
                scored,
            )
        return count, problems

    # -- sums ---------------------------------------------------------------------------------

    def sums(self, control: int, *, paired: bool, grouped: bool) -> Sums:
        """The sums of now.

        Args:
            control: The version of control.
            paired: Whether challengers are compared with control request by request.
            grouped: Whether groups are needed.
        """
        where = "WHERE project = ? AND rollout = ?"
        requests = self._tx.execute(
            "SELECT stage, arm, COUNT(*), SUM(CASE WHEN failed THEN 1 ELSE 0 END), "  # noqa: S608
            f"COUNT(DISTINCT unit) FROM rollout_prediction {where} GROUP BY stage, arm",
            self._own,
        )
        buckets: dict[Cell, dict[int, int]] = {}
        for stage, arm, bucket, count in self._tx.execute(
            f"SELECT stage, arm, bucket, COUNT(*) FROM rollout_prediction {where} "  # noqa: S608
            "AND bucket IS NOT NULL GROUP BY stage, arm, bucket",
            self._own,
        ):
            buckets.setdefault((stage, arm), {})[bucket] = count
        units = self._units("grp" if grouped else "''")
        return Sums(
            scores=_merged(units),
            pairs=self._paired(control) if paired else {},
            groups={(stage, arm, group): found for stage, arm, group, found in units},
            buckets=buckets,
            requests={(r[0], r[1]): (int(r[2]), int(r[3])) for r in requests},
            units={(r[0], r[1]): int(r[4]) for r in requests},
        )

    def _units(self, group: str) -> list[tuple[int, int, str, Moments]]:
        """Moments over units: all requests of one are one observation, their mean."""
        centres = self._tx.execute(
            "SELECT AVG(score), AVG(covariate) FROM rollout_prediction "
            "WHERE project = ? AND rollout = ? AND score IS NOT NULL",
            self._own,
        )
        y, x = (float(value or 0.0) for value in centres[0])
        source = (
            f"SELECT stage, arm, {group} AS grp, unit, AVG(score) - ? AS y, "  # noqa: S608 - no input
            "AVG(COALESCE(covariate, ?)) - ? AS x FROM rollout_prediction "
            "WHERE project = ? AND rollout = ? AND score IS NOT NULL "
            f"GROUP BY stage, arm, {'grp, ' if group == 'grp' else ''}unit"
        )
        return self._moments(source, (y, x, x, *self._own), y, x)

    def _paired(self, control: int) -> dict[Cell, Moments]:
        source = (
            "SELECT c.stage AS stage, s.arm AS arm, '' AS grp, c.unit AS unit, "
            "AVG(s.score - c.score) AS y, 0.0 AS x "
            "FROM rollout_prediction c JOIN rollout_prediction s "
            "ON s.project = c.project AND s.rollout = c.rollout AND s.id = c.id AND s.arm <> c.arm "
            "WHERE c.project = ? AND c.rollout = ? AND c.arm = ? "
            "AND c.score IS NOT NULL AND s.score IS NOT NULL GROUP BY c.stage, s.arm, c.unit"
        )
        return _merged(self._moments(source, (*self._own, control), 0.0, 0.0))

    def _moments(
        self, source: str, parameters: Sequence[Any], y: float, x: float
    ) -> list[tuple[int, int, str, Moments]]:
        from madang.deployment.ab_testing import statistics  # SciPy, which a look alone needs

        rows = self._tx.execute(
            "SELECT stage, arm, grp, COUNT(*), SUM(y), SUM(x), SUM(y * y), SUM(x * x), SUM(y * x) "  # noqa: S608
            f"FROM ({source}) AS units GROUP BY stage, arm, grp",
            parameters,
        )
        found = []
        for stage, arm, group, count, *numbers in rows:
            sums = [float(number) for number in numbers]
            mean, x_mean = sums[0] / count, sums[1] / count
            moments = statistics.Moments(
                float(count),
                y + mean,
                max(0.0, sums[2] - count * mean**2),
                x + x_mean,
                max(0.0, sums[3] - count * x_mean**2),
                sums[4] - count * mean * x_mean,
            )
            found.append((stage, arm, group, moments))
        return found


def _merged(cells: Iterable[tuple[int, int, str, Moments]]) -> dict[Cell, Moments]:
    from madang.deployment.ab_testing import statistics

    found: dict[Cell, Moments] = {}
    for stage, arm, _, moments in cells:
        found[stage, arm] = found.get((stage, arm), statistics.Moments()) + moments
    return found
