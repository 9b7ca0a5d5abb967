"""What all commands share: opening the project, and printing for people or as JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from madang.stack import Stack

# A sum of integers is a decimal in DuckDB; as text it would be no number to the reader.
_encode = msgspec.json.Encoder(enc_hook=str, decimal_format="number").encode

as_json = click.option("--json", "json", is_flag=True, help="Print JSON.")
"""The option of every command that prints data."""


class Moment(click.ParamType[datetime]):
    """A time as ISO 8601 writes it; in UTC where it names no zone."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time such as 2026-01-31 or 2026-01-31T12:00:00Z", param, ctx
            )
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


class Duration(click.ParamType[timedelta]):
    """A number and a unit: s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if found is None:
            self.fail(f"{value!r} is no duration such as 30d, 12h, 15m or 0s", param, ctx)
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
        return timedelta(**{unit: int(found[1])})


@contextmanager
def open_stack() -> Iterator[Stack]:
    """The project that the command line's options name."""
    from madang.stack import open

    options = click.get_current_context().find_root().obj
    with open(options["project"], env=options["env"]) as stack:
        root = str(stack.root)
        if root not in sys.path:
            sys.path.insert(0, root)  # `pipelines.x` and `features.y` are imported from there
        yield stack


def print_json(value: Any) -> None:
    """Prints a value (dataclasses and dates included) as one JSON document."""
    sys.stdout.buffer.write(msgspec.json.format(_encode(value)) + b"\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows for people, or tab-separated lines when the output is not a terminal."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def format_us(microseconds: int | None) -> str:
    """A time in UTC, to the second."""
    if microseconds is None:
        return "-"
    return f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M:%S}"


def _draw_nothing(_done: int, _text: str = "") -> None:
    """The progress bar where there is no terminal."""


@contextmanager
def progress(text: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on the terminal's error output: call it with (done so far, what is done now).

    Without a terminal nothing is drawn.
    """
    if not sys.stderr.isatty():
        yield _draw_nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)

        def update(done: int, what: str = "") -> None:
            bar.update(task, completed=done, description=what or text)

        yield update
