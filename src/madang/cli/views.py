"""`madang data views`, `materialize`, `lineage`: views and where their columns come from."""

from __future__ import annotations

import click

from madang.cli.output import as_json, open_stack, print_json, print_table


@click.command()
@as_json
def views(json: bool) -> None:
    """Register what views/*.sql and views/*.py define, and list all views."""
    with open_stack() as stack:
        stack.processing.load_views()
        found = stack.processing.views()
    if json:
        print_json([{"name": v.name, "ref": v.ref, **v.definition} for v in found])
        return
    rows = [
        (v.name, v.dataset, v.definition["owner"], v.definition["description"], v.ref)
        for v in found
    ]
    print_table(["view", "materialized into", "owner", "description", "reference"], rows)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="VIEWS...")
@click.option("--into", help="The dataset (only for one view); default: what the view says.")
@click.option("--full", is_flag=True, help="Compute all, whatever is new.")
@as_json
def materialize(names: tuple[str, ...], into: str | None, full: bool, json: bool) -> None:
    """Write the rows of VIEWS into datasets: what is new in their sources, or all."""
    if into is not None and len(names) > 1:
        raise click.UsageError("--into is for one view")
    with open_stack() as stack:
        stack.processing.load_views()
        done = []
        for name in names:
            one = stack.processing.materialize(name, into=into, full=full)
            done.append(one)
            if not json:
                why = f" ({one.reason})" if one.reason else ""
                click.echo(f"{one.view}: {one.mode}, {one.dataset} at version {one.version}{why}")
    if json:
        print_json(done)


@click.command()
@click.argument("view")
@click.option("--column", help="Only this column.")
@as_json
def lineage(view: str, column: str | None, json: bool) -> None:
    """Show which columns of which datasets each column of VIEW (or of a SELECT) comes from."""
    from madang.errors import NotFoundError

    with open_stack() as stack:
        stack.processing.load_views()
        found = stack.processing.lineage(view)
    columns = found.columns
    if column is not None:
        one = found.of(column)
        if one is None:
            listed = ", ".join(each.name for each in columns)
            raise NotFoundError(f"{view!r} has no column {column!r}; its columns are: {listed}")
        columns = (one,)
    if json:
        print_json({"columns": columns, "rows": found.rows, "reason": found.reason})
        return
    rows = [
        (c.name, ", ".join(".".join(source) for source in c.sources), "yes" if c.exact else "no")
        for c in columns
    ]
    if column is None:
        rows.append(
            (
                "(which rows)",
                ", ".join(".".join(source) for source in found.rows),
                "no" if found.reason else "yes",
            )
        )
    print_table(["column", "comes from", "exact"], rows)
    if found.reason:
        click.echo(f"not exact: {found.reason}", err=True)
