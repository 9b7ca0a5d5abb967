"""`madang data list`, `query`: datasets and SQL."""

from __future__ import annotations

import click

from madang.cli.output import as_json, open_stack, print_json, print_table


@click.command("list")
@as_json
def list_datasets(json: bool) -> None:
    """List datasets."""
    with open_stack() as stack:
        found = [
            (name, stack.storage.versions(name, limit=1)[-1]) for name in stack.storage.tables()
        ]
    if json:
        print_json([{"name": name, "version": newest} for name, newest in found])
        return
    rows = [(name, v.version, v.operation, f"{v.timestamp:%Y-%m-%d %H:%M:%S}") for name, v in found]
    print_table(["dataset", "version", "by", "written (UTC)"], rows)


@click.command()
@click.argument("sql")
@click.option("--limit", default=50, help="Print at most so many rows.")
@as_json
def query(sql: str, limit: int, json: bool) -> None:
    """Run one SELECT over datasets."""
    with open_stack() as stack:
        table = stack.processing.query(sql)
    rows = table.slice(0, limit).to_pylist()
    if json:
        print_json(rows)
        return
    print_table(table.column_names, [list(row.values()) for row in rows])
    if table.num_rows > limit:
        click.echo(f"… {table.num_rows - limit} more rows", err=True)
