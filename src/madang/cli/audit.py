"""`madang audit`: search the record of what happened, sign it, prove lines of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from madang.cli.output import as_json, open_stack, print_json, print_table


def _moment(_context: Any, _parameter: Any, value: str | None) -> int | None:
    """A time as microseconds since 1970 UTC; without a zone it is UTC."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"write it as 2013-04-01 or 2013-04-01T06:00:00Z: {error}"
        ) from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1_000_000)


@click.group()
def audit() -> None:
    """Who did what, when and from where, with proofs."""


@audit.command()
@click.option("--actor", help="Who, such as user:ann, or a beginning such as 'user:*'.")
@click.option("--kind", help="What, such as model.promoted or 'model.*'.")
@click.option("--subject", help="To what, such as model:delay@2 or 'model:*'.")
@click.option("--text", help="Something that stands anywhere in a line.")
@click.option("--since", callback=_moment, metavar="TIME", help="Not before.")
@click.option("--until", callback=_moment, metavar="TIME", help="Before.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, help="At most so many, newest first."
)
@as_json
def search(  # noqa: PLR0917 - one for each option
    actor: str | None,
    kind: str | None,
    subject: str | None,
    text: str | None,
    since: int | None,
    until: int | None,
    limit: int,
    json: bool,
) -> None:
    """Find what happened."""
    with open_stack() as stack:
        lines = stack.audit.search(
            actor=actor, kind=kind, subject=subject, text=text, since_us=since, until_us=until,
            limit=limit,
        )  # fmt: skip
    if json:
        print_json(lines)
        return
    rows = [(n.seq, n.time[:19], n.actor, n.place, n.kind, n.phase, n.subject) for n in lines]
    print_table(["line", "time (UTC)", "actor", "from", "kind", "phase", "subject"], rows)


@audit.command()
def checkpoint() -> None:
    """Sign what the ledger is now, and print the note to hand out."""
    with open_stack() as stack:
        click.echo(stack.audit.checkpoint().note, nl=False)


@audit.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most so many.")
@as_json
def checkpoints(limit: int, json: bool) -> None:
    """List what was signed, newest first."""
    with open_stack() as stack:
        found = stack.audit.checkpoints(limit=limit)
    if json:
        print_json(found)
        return
    print_table(["lines", "time (UTC)", "root"], [(c.size, c.time[:19], c.root) for c in found])


@audit.command()
@click.argument("line", type=click.IntRange(min=1))
def prove(line: int) -> None:
    """Print the proof, as JSON, that LINE is in the ledger."""
    with open_stack() as stack:
        print_json(stack.audit.prove([line])[0])


@audit.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json
def compare(file: Path, json: bool) -> int:
    """Check that the ledger still begins with what the checkpoint in FILE says; else exit code 1."""
    with open_stack() as stack:
        found = stack.audit.compare(file.read_text("utf-8"))
    if json:
        print_json(found)
    else:
        said = f"ok: the first {found.size} lines are those that were signed"
        click.echo(said if found.ok else f"DIFFERENT: {found.problem}")
    return 0 if found.ok else 1


@audit.command()
def key() -> None:
    """Print the public key that checks the checkpoints."""
    with open_stack() as stack:
        click.echo(stack.audit.verifier_key())
