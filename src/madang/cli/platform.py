"""`madang logs`, `config`."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

from madang.cli.output import Moment, as_json, format_us, open_stack, print_json, print_table


@click.command()
@click.argument("text", default="")
@click.option("--run", help="Only of this run of a pipeline.")
@click.option("--step", help="Only of this step.")
@click.option("--request", help="Only of this request to the API.")
@click.option("--level", help="This level or a higher one: DEBUG, INFO, WARNING, ERROR, CRITICAL.")
@click.option("--since", type=Moment(), help="Not before this time (UTC).")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, help="At most so many, newest first."
)
@as_json
def logs(
    text: str, level: str | None, since: datetime | None, limit: int, json: bool, **fields: str
) -> None:
    """Search the logs: records whose message has all words of TEXT, newest first."""
    since_us = None if since is None else int(since.timestamp() * 1e6)
    given = {name: value for name, value in fields.items() if value is not None}
    with open_stack() as stack:
        found = stack.logs.search(text, fields=given, level=level, since_us=since_us, limit=limit)
    if json:
        print_json(found)
        return
    rows = [
        (
            format_us(r.time_us),
            r.level,
            ", ".join(f"{k}={v}" for k, v in r.fields.items()),
            r.message,
        )
        for r in found
    ]
    print_table(["time (UTC)", "level", "fields", "message"], rows)


@click.group()
def config() -> None:
    """Live settings, with their history."""


@config.command("list")
@click.argument("prefix", default="")
@as_json
def list_settings(prefix: str, json: bool) -> None:
    """List settings whose key starts with PREFIX."""
    with open_stack() as stack:
        found = stack.configuration.list(prefix)
    if json:
        print_json(found)
        return
    rows = [(s.key, _text(s.value), s.version, format_us(s.time_us)) for s in found]
    print_table(["key", "value", "version", "set (UTC)"], rows)


@config.command("set")
@click.argument("key")
@click.argument("value")
def set_setting(key: str, value: str) -> None:
    """Set KEY to VALUE: JSON, or else text."""
    try:
        content = msgspec.json.decode(value.encode())
    except msgspec.DecodeError:
        content = value
    with open_stack() as stack:
        setting = stack.configuration.set(key, content)
    click.echo(f"{key} = {_text(setting.value)}, version {setting.version}")


@config.command("get")
@click.argument("key")
@click.option("--version", type=int, help="As it was at this version.")
@as_json
def get_setting(key: str, version: int | None, json: bool) -> None:
    """Print KEY's value."""
    with open_stack() as stack:
        setting = stack.configuration.get(key, version=version)
    if json:
        print_json(setting)
    else:
        click.echo(_text(setting.value))


@config.command("delete")
@click.argument("key")
def delete_setting(key: str) -> None:
    """Delete KEY; its history stays."""
    with open_stack() as stack:
        stack.configuration.delete(key)
    click.echo(f"{key} is gone; its history stays")


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
