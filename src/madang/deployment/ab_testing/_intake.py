"""Reads what is new in a rollout's topics, exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from madang.deployment.ab_testing import _events
from madang.deployment.ab_testing._observations import Observations
from madang.deployment.ab_testing._records import Record, Records
from madang.deployment.ab_testing.contract import Plan
from madang.errors import AlreadyExistsError, NotFoundError

if TYPE_CHECKING:
    from madang.data.collection import Collection
    from madang.metadata import Transaction

_EVENTS = 5_000
_KEPT_REASON = 200


class Intake:
    """From topics to observations.

    What is read is written in one transaction with the position, so that a kill between two
    statements loses and doubles nothing, and of two processes that read at once one writes.
    """

    def __init__(self, collection: Collection, records: Records) -> None:
        self._collection = collection
        self._records = records

    def begin(self, tx: Transaction, record: Record, plan: Plan) -> None:
        """Begins at the ends of the topics, in the transaction that makes the rollout."""
        observations = Observations(tx, self._records.project, record.id)
        for topic in topics_of(plan):
            for part, position in enumerate(self._collection.topic(topic).next_offsets):
                observations.move(topic, part, position)

    def make_topics(self, plan: Plan) -> None:
        """Makes the topics that are not there."""
        for topic in topics_of(plan):
            try:
                self._collection.topic(topic)
            except NotFoundError:
                try:
                    self._collection.create_topic(topic)
                except AlreadyExistsError:
                    continue  # another process was first

    def read(self, id: str, plan: Plan) -> None:
        """Reads all that is there."""
        for name in topics_of(plan):
            topic = self._collection.topic(name)
            for part in range(topic.partitions):
                while self._read_some(id, plan, topic, part):
                    continue

    def _read_some(self, id: str, plan: Plan, topic: Any, part: int) -> bool:
        """Reads the next events of a partition; whether there may be more."""
        with self._records.database.transaction(write=False) as tx:
            found = Observations(tx, self._records.project, id).position(topic.name, part)
        position, first = found or 0, topic.first_offsets[part]
        start = max(position, first)
        batch = self._collection.read(topic.name, part, start, max_events=_EVENTS)
        if not len(batch):
            return False
        after = batch.column("offset")[-1].as_py() + 1
        with self._records.changing(id) as (tx, record):
            observations = Observations(tx, self._records.project, id)
            if record.ended_us is not None:
                return False
            if observations.position(topic.name, part) != found:
                return True  # another process has read these
            self._take(observations, record, plan, topic.name, batch)
            record.lost += start - position
            observations.move(topic.name, part, after)
        return True

    def _take(
        self, observations: Observations, record: Record, plan: Plan, topic: str, batch: Any
    ) -> None:
        problems: list[str] = []
        if topic == plan.outcomes_topic:
            outcomes, problems = _events.outcomes(batch)
            observations.add_outcomes(outcomes)
            ids = [one.id for one in outcomes]
        else:
            predictions = _events.predictions(batch, record.id, plan)
            observations.add_predictions(predictions)
            ids = [one.id for one in predictions if not one.failed]
            record.fresh += len(predictions)
        if plan.target is not None:
            count, unfit = observations.score(list(dict.fromkeys(ids)), plan.target)
            problems += unfit
            record.fresh += count
        if problems:
            count = record.unusable[0] + len(problems)
            record.unusable = (count, problems[-1][:_KEPT_REASON])


def topics_of(plan: Plan) -> tuple[str, ...]:
    """What a rollout reads."""
    return (
        f"predictions.{plan.endpoint}",
        f"rollouts.{plan.endpoint}",
        plan.outcomes_topic,
    )
