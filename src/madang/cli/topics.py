"""`madang topics`: topics, what they keep, their events, schemas and dead letters."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import Moment, as_json, open_stack, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from madang.data.collection import Topic, TopicSettings

_KEEP = (
    click.option("--retention-bytes", type=int, help="Keep so much of each partition."),
    click.option("--retention-seconds", type=float, help="Keep events so long, by their own time."),
    click.option("--compact/--no-compact", default=None, help="Keep each key's newest event."),
    click.option("--tombstone-seconds", type=float, help="Keep tombstones at least so long."),
)


def _keeping(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_KEEP):
        command = option(command)
    return command


@click.group()
def topics() -> None:
    """Topics and their events."""


@topics.command("list")
@as_json
def list_topics(json: bool) -> None:
    """List topics."""
    with open_stack() as stack:
        found = stack.collection.topics()
    if json:
        print_json(found)
        return
    rows = [
        (t.name, t.partitions, _kept(t), sum(t.next_offsets), _words(t.settings)) for t in found
    ]
    print_table(["topic", "partitions", "kept offsets", "appended", "keeps"], rows)


@topics.command()
@click.argument("name")
@click.option("--partitions", default=1, help="How many partitions (1).")
@_keeping
def create(name: str, partitions: int, **given: Any) -> None:
    """Make a topic."""
    from madang.data.collection import TopicSettings

    with open_stack() as stack:
        made = stack.collection.create_topic(
            name, partitions=partitions, settings=_changed(TopicSettings(), given)
        )
    click.echo(f"made topic {made.name!r}, keeps {_words(made.settings)}")


@topics.command()
@click.argument("name")
@_keeping
@click.option("--forever", is_flag=True, help="First drop the limits of size and age.")
def configure(name: str, forever: bool, **given: Any) -> None:
    """Change what a topic keeps; what isn't given stays."""
    from dataclasses import replace

    with open_stack() as stack:
        before = stack.collection.topic(name).settings
        if forever:
            before = replace(before, retention_bytes=None, retention_seconds=None)
        topic = stack.collection.configure_topic(name, _changed(before, given))
    click.echo(f"topic {name!r} keeps {_words(topic.settings)}")


@topics.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a topic and its events."""
    with open_stack() as stack:
        stack.collection.topic(name)
        stack.collection.delete_topic(name)
    click.echo(f"deleted topic {name!r}")


@topics.command()
@click.argument("name")
@click.option("--partition", default=0, help="Of this partition (0).")
@click.option("--offset", type=int, help="From this offset on (default: the first kept).")
@click.option("--since", type=Moment(), help="From this time on (UTC).")
@click.option("--limit", type=click.IntRange(min=1), default=100, help="At most so many (100).")
@as_json
def read(  # noqa: PLR0917 - click passes options by name
    name: str, partition: int, offset: int | None, since: datetime | None, limit: int, json: bool
) -> None:
    """Read events again, from an offset or a time on."""
    with open_stack() as stack:
        topic = stack.collection.topic(name)
        if since is not None:
            offset = stack.collection.offset_at(name, partition, since)
        if offset is None:
            offset = topic.first_offsets[partition] if 0 <= partition < topic.partitions else 0
        rows = stack.collection.read(name, partition, offset, max_events=limit).to_pylist()
    shown = [row | {"key": _text(row["key"]), "value": _text(row["value"])} for row in rows]
    if json:
        print_json(shown)
        return
    print_table(
        ["offset", "time (UTC)", "key", "value"],
        [(r["offset"], f"{r['timestamp']:%Y-%m-%d %H:%M:%S}", r["key"], r["value"]) for r in shown],
    )


@topics.command()
@click.argument("name")
@click.option("--set", "file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="A YAML or JSON file with columns, as a data contract has them.")  # fmt: skip
@click.option("--compatibility", help="backward, forward, full or none.")
@click.option("--malformed", help="What happens to other events: refuse or dead-letter.")
@as_json
def schema(name: str, file: str | None, compatibility: Any, malformed: Any, json: bool) -> None:
    """Show the versions of a topic's schema, or put one in force."""
    from madang.data.collection.schemas import TopicSchemas, describe

    with open_stack() as stack:
        schemas = TopicSchemas(stack)
        stack.collection.topic(name)
        if file is not None:
            schemas.set(name, _columns(file), compatibility=compatibility, malformed=malformed)
        elif compatibility or malformed:
            raise click.UsageError("--compatibility and --malformed go with --set FILE")
        found = schemas.versions(name)
    if json:
        print_json(
            [
                {
                    "version": s.version,
                    "columns": [describe(column) for column in s.columns],
                    "compatibility": s.compatibility,
                    "malformed": s.malformed,
                }
                for s in found
            ]
        )
        return
    rows = [
        (
            s.version,
            s.compatibility,
            s.malformed,
            c["name"],
            c["type"],
            "" if c["nullable"] else "not null",
        )
        for s in found
        for c in map(describe, s.columns)
    ]
    print_table(["version", "compatibility", "malformed", "column", "type", ""], rows)


@topics.command("dead-letters")
@click.argument("name")
@click.option("--partition", default=0, help="Of the dead-letter topic (0).")
@click.option("--offset", type=int, help="From this dead letter on (default: the first kept).")
@click.option("--limit", type=click.IntRange(min=1), default=100, help="At most so many (100).")
@click.option("--replay", is_flag=True, help="Append those not yet replayed to the topic again.")
@as_json
def dead_letters(  # noqa: PLR0917 - click passes options by name
    name: str, partition: int, offset: int | None, limit: int, replay: bool, json: bool
) -> None:
    """Show the events that could not be processed, or replay them after a fix."""
    from madang.data.collection import checked, dead_letters as letters

    with open_stack() as stack:
        if replay:
            count = letters.replay(
                stack.collection, name, append=lambda topic, b: checked.append(stack, topic, b)
            )
            click.echo(f"replayed {count} events into topic {name!r}", err=json)
            return
        found = letters.dead_letters(
            stack.collection, name, partition=partition, offset=offset, max_events=limit
        )
    if json:
        print_json([{**vars(d), "key": _text(d.key), "value": _text(d.value)} for d in found])
        return
    rows = [
        (d.place[1], f"{d.set_aside:%Y-%m-%d %H:%M:%S}", _source(d.partition, d.offset), d.reason,
         _text(d.value))
        for d in found
    ]  # fmt: skip
    print_table(["dead letter", "set aside (UTC)", "was at", "reason", "value"], rows)


def _columns(file: str) -> Any:
    from pathlib import Path

    import yaml

    from madang.data.collection.schemas import read_columns
    from madang.errors import InvalidInputError

    try:
        content = yaml.safe_load(Path(file).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    return read_columns(content.get("columns") if isinstance(content, dict) else content)


def _changed(before: TopicSettings, given: dict[str, Any]) -> TopicSettings:
    from dataclasses import replace

    return replace(before, **{key: value for key, value in given.items() if value is not None})


def _kept(topic: Topic) -> int:
    return sum(topic.next_offsets) - sum(topic.first_offsets)


def _words(settings: TopicSettings) -> str:
    words = []
    if settings.retention_bytes is not None:
        words.append(f"{settings.retention_bytes} bytes")
    if settings.retention_seconds is not None:
        words.append(f"{settings.retention_seconds:g} s")
    if settings.compact:
        words.append("each key's newest")
    return ", ".join(words) or "everything"


def _source(partition: int | None, offset: int | None) -> str:
    return "-" if offset is None else f"{partition}@{offset}"


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
