"""`ingest`: from a topic or a source, through validation, into a dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

from madang.data.ingestion import open_source
from madang.data.ingestion._connector import ConnectorMove
from madang.data.ingestion._gathering import Ingested, Limits
from madang.data.ingestion._job import Job
from madang.data.ingestion._record import Ingestion, Part, Record
from madang.data.ingestion._topic import TopicMove
from madang.data.validation.contract_file import contract_path, read_contract
from madang.errors import InvalidInputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from madang.data.ingestion.contract import Source
    from madang.data.validation import DataContract, Report
    from madang.stack import Stack

_TOPIC = "topic:"

_log = logging.getLogger(__name__)


def ingest(
    stack: Stack,
    source: str | Source,
    dataset: str | None = None,
    *,
    batch_events: int = 250_000,
    batch_bytes: int = 128 << 20,
    batch_seconds: float = 5.0,
    follow: bool = False,
    stop: Event | None = None,
    poll_seconds: float = 10.0,
    on_batch: Callable[[Report], None] | None = None,
) -> Ingested:
    """Moves what is new in a topic or source, validated, into a dataset; bad rows to its quarantine.

    Every event is in exactly one of the two, exactly once, whoever is killed when, also while
    several processes ingest the same topic (`madang.data.ingestion._landing` says why). The
    dataset's contract is `contracts/DATASET.yaml`.

    Args:
        stack: The project.
        source: A topic, whose events are JSON objects; a name of `[sources]` in `madang.toml`; a
            URL; or a `Source`.
        dataset: Default: the dataset of the topic's or source's name.
        batch_events: Rows of a batch, at most; the memory that it needs grows with it.
        batch_bytes: Size of a batch in memory, at most.
        batch_seconds: A batch lands so long after its first row at the latest (when a valid row is
            among them; else after a minute), so a slow stream is fresh as well.
        follow: Whether to go on when everything has been taken, and to try again, with growing
            pauses, while the broker, the source's server or the storage does not answer.
        stop: When it is set, the batch that is under way lands and the call returns.
        poll_seconds: How often a followed source is asked for more.
        on_batch: Called with the report of each piece that was judged.

    Raises:
        NotFoundError: There is no such topic or source, or no contract for the dataset.
        InvalidInputError: A URL was given without a dataset, or the source can't be read.
        DataContractError: A check with severity "block" failed; nothing of that batch was written.
        ConflictError: Other processes ingest the same now.
        UnavailableError: A server does not answer (with `follow`: the metadata's).
    """
    found = stack.project.sources.get(source) if isinstance(source, str) else None
    if isinstance(source, str) and found is None and "://" not in source:
        if ":" in source:
            raise InvalidInputError(
                f"{source!r} is neither a name nor a URL; a URL begins with scheme://, such as "
                "file:///in"
            )
        try:
            contract = _contract(stack, dataset or source)
        except NotFoundError:
            with _told_of_topic(stack, source):
                stack.collection.topic(source)
            raise
        job = Job(
            stack, f"{_TOPIC}{source}", contract, Limits(batch_events, batch_bytes, batch_seconds),
            follow, stop or Event(), on_batch, poll_seconds,
        )  # fmt: skip
        return _run(job, lambda: _topic_move(job, source))
    named = source if isinstance(source, str) and found is not None else None
    into = dataset or named
    if into is None:
        raise InvalidInputError("say into which dataset: a URL has no name (--dataset NAME)")
    contract = _contract(stack, into)
    opened = source if not isinstance(source, str) else open_source(found or source, stack.context)
    job = Job(
        stack, f"source:{named}" if named else opened.identity, contract,
        Limits(batch_events, batch_bytes, batch_seconds), follow, stop or Event(), on_batch,
        poll_seconds,
    )  # fmt: skip
    try:
        return _run(job, lambda: ConnectorMove(job, opened))
    finally:
        if opened is not source:
            opened.close()


def _topic_move(job: Job, name: str) -> TopicMove:
    with _told_of_topic(job.stack, name):
        return TopicMove(job, name)


@contextmanager
def _told_of_topic(stack: Stack, name: str) -> Iterator[None]:
    """Says what to do where there is no such topic."""
    try:
        yield
    except NotFoundError as error:
        sources = ", ".join(sorted(stack.project.sources)) or "none"
        raise NotFoundError(
            f"there is neither a topic {name!r} nor a source of that name; the sources of "
            f"madang.toml are: {sources}. Make the topic (madang topics create {name}), write the "
            "source under [sources], or give a URL such as file:///in"
        ) from error


def _contract(stack: Stack, dataset: str) -> DataContract:
    return replace(read_contract(contract_path(stack.root, dataset)), dataset=dataset)


def _run(job: Job, prepare: Callable[[], TopicMove | ConnectorMove]) -> Ingested:
    try:
        while not _ran(job, prepare):
            pass
    except Exception as error:
        job.end(error)
        raise
    job.end()
    return job.result()


def _ran(job: Job, prepare: Callable[[], TopicMove | ConnectorMove]) -> bool:
    """One try; whether the call is done. Each begins where the dataset is by then."""
    try:
        move = prepare()  # says that a topic isn't there before anything is on record
        job.begin()
        job.recall()
        move.run()
    except UnavailableError as error:
        if not job.follow:
            raise
        job.ride_out(error)
        return job.stop.is_set()
    return True


def ingestions(stack: Stack) -> list[Ingestion]:
    """All ingestions of the project: position, lag and freshness of each part, the last error.

    The lag of a topic's partitions is as of now, where its broker answers; a part is as its newest
    batch left it.
    """
    context = stack.context
    found = Record(context.metadata, context.ledger, context.project).list()
    topics = {one.source for one in found if one.source.startswith(_TOPIC)}
    ends = {source: _ends(stack, source.removeprefix(_TOPIC)) for source in topics}
    return [
        replace(one, parts=tuple(_as_of_now(part, ends[one.source]) for part in one.parts))
        if one.source in ends
        else one
        for one in found
    ]


def _ends(stack: Stack, topic: str) -> tuple[int, ...]:
    try:
        return stack.collection.topic(topic).next_offsets
    except NotFoundError:  # it was deleted; the record stays
        return ()
    except UnavailableError as error:  # the more the record is wanted
        _log.warning("the lag of topic %r is that of its newest batch: %s", topic, error)
        return ()


def _as_of_now(part: Part, ends: tuple[int, ...]) -> Part:
    number = int(part.part)
    return replace(part, lag=max(0, ends[number] - part.position)) if number < len(ends) else part
