"""Topics that are made, configured and deleted stand in the ledger; events go straight through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Self

import pyarrow as pa

from madang import engines
from madang.data import collection
from madang.data.collection.contract import Collection, Consumer, Topic, TopicSettings
from madang.engines import Context, EngineURL, Health
from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import Ledger, Line
from madang.metadata import Database

CREATE = "topic.create"
CONFIGURE = "topic.configure"
DELETE = "topic.delete"


class RecordedCollection(Collection):
    """Any engine, with `topic.create`, `topic.configure` and `topic.delete` on the record.

    An intent that a killed process left open is settled before the next change, by looking at
    the topic. Appending, reading and committing never touch the ledger.
    """

    def __init__(self, engine: Collection, ledger: Ledger, database: Database) -> None:
        self.engine = engine
        self._ledger = ledger
        self._database = database

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        engine = engines.load(collection.ENGINES[url.scheme], "data.collection", url.scheme)
        return cls(engine.from_url(url, context), context.ledger, context.metadata)

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: TopicSettings | None = None
    ) -> Topic:
        self.settle()
        subject = f"topic:{name}"
        with self._ledger.intent(CREATE, subject, data={"partitions": partitions}) as intent:
            topic = self.engine.create_topic(name, partitions=partitions, settings=settings)
            intent.outputs.append(subject)
            intent.data |= {"partitions": topic.partitions, "settings": asdict(topic.settings)}
        return topic

    def configure_topic(self, name: str, settings: TopicSettings) -> Topic:
        self.settle()
        data = {"settings": asdict(settings)}
        with self._ledger.intent(CONFIGURE, f"topic:{name}", data=data) as intent:
            topic = self.engine.configure_topic(name, settings)
            intent.data |= data
        return topic

    def delete_topic(self, name: str) -> None:
        self.settle()
        with self._ledger.intent(DELETE, f"topic:{name}"):
            self.engine.delete_topic(name)
            self._forget_schemas(name)

    def settle(self) -> None:
        """Writes the outcome of changes whose process died in the middle."""
        self._settle(CREATE, lambda found, _: found is not None)
        self._settle(DELETE, lambda found, _: found is None)
        self._settle(
            CONFIGURE,
            lambda found, line: (
                found is not None and asdict(found.settings) == dict(line.data["settings"])
            ),
        )

    def _settle(self, kind: str, happened: Callable[[Topic | None, Line], bool]) -> None:
        for line in self._ledger.open_intents(kind):
            if happened(self._find(line.subject.removeprefix("topic:")), line):
                outputs = [line.subject] if kind == CREATE else []
                if kind == DELETE:
                    self._forget_schemas(line.subject.removeprefix("topic:"))
                self._ledger.close_intent(
                    line.seq, kind, line.subject, phase="settled", outputs=outputs
                )
            else:
                self._ledger.close_intent(
                    line.seq,
                    kind,
                    line.subject,
                    phase="failed",
                    data={"error": "the process died before the change was made"},
                )

    def _forget_schemas(self, name: str) -> None:
        from madang.data.collection.schemas import forget

        with self._database.transaction() as tx:
            forget(tx, self._ledger.project, name)

    def _find(self, name: str) -> Topic | None:
        try:
            return self.engine.topic(name)
        except (NotFoundError, InvalidInputError):  # the intent may name what can't be a topic
            return None

    def topics(self) -> list[Topic]:
        return self.engine.topics()

    def topic(self, name: str) -> Topic:
        return self.engine.topic(name)

    def append(self, topic: str, events: pa.RecordBatch | pa.Table) -> dict[int, tuple[int, int]]:
        return self.engine.append(topic, events)

    def read(
        self, topic: str, partition: int, offset: int, *, max_events: int = 10_000
    ) -> pa.RecordBatch:
        return self.engine.read(topic, partition, offset, max_events=max_events)

    def offset_at(self, topic: str, partition: int, timestamp: datetime) -> int:
        return self.engine.offset_at(topic, partition, timestamp)

    def consumer(self, topic: str, group: str) -> Consumer:
        return self.engine.consumer(topic, group)

    def committed(self, topic: str, group: str) -> dict[int, int]:
        return self.engine.committed(topic, group)

    def enforce(self) -> None:
        self.engine.enforce()

    def health(self) -> Health:
        return self.engine.health()

    def close(self) -> None:
        self.engine.close()
