"""`madang ledger verify`, `show`, `origin`."""

from __future__ import annotations

import click

from madang.cli.output import as_json, open_stack, print_json, print_table, progress


@click.group()
def ledger() -> None:
    """The record of everything that happened."""


@ledger.command()
@as_json
def verify(json: bool) -> int:
    """Check every line of the chain; exit code 1 and the place where it is broken."""
    with open_stack() as stack, progress("lines", None) as update:
        found = stack.ledger.verify(progress=lambda done, _total: update(done, "lines"))
    if json:
        print_json(found)
    elif found.ok:
        click.echo(f"ok: {found.lines} lines, head {found.head}")
    else:
        place = "" if found.seq is None else f" at line {found.seq}"
        click.echo(f"BROKEN{place}: {found.problem}")
    return 0 if found.ok else 1


@ledger.command()
@click.option("--kind", help="A kind, or a group such as 'dataset.*'.")
@click.option("--subject", help="A reference, such as model:delay@2.")
@click.option("--actor", help="Who did it.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=30, help="At most so many, newest first."
)
@as_json
def show(
    kind: str | None,
    subject: str | None,
    actor: str | None,
    limit: int,
    json: bool,
) -> None:
    """List lines, newest first."""
    with open_stack() as stack:
        lines = stack.ledger.lines(kind=kind, subject=subject, actor=actor, limit=limit)
    if json:
        print_json(lines)
        return
    rows = [(n.seq, n.time[:19], n.actor, n.kind, n.phase, n.subject) for n in lines]
    print_table(["line", "time (UTC)", "actor", "kind", "phase", "subject"], rows)


@ledger.command()
@click.argument("ref")
@as_json
def origin(ref: str, json: bool) -> None:
    """Show what REF (such as model:delay@2) was made from, nearest first."""
    with open_stack() as stack:
        lines = stack.ledger.origin(ref)
    if json:
        print_json(lines)
        return
    rows = [(n.seq, n.time[:19], n.kind, n.subject, ", ".join(n.inputs)) for n in lines]
    print_table(["line", "time (UTC)", "kind", "subject", "made from"], rows)
