"""`madang data list`, `query`, `history`, `compact` and more: datasets, their versions, and SQL."""

from __future__ import annotations

from datetime import timedelta

import click

from madang.cli.output import Duration, as_json, open_stack, print_json, print_table


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
@click.option("--limit", type=click.IntRange(min=1), default=50, help="Print at most so many rows.")
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


@click.command()
@click.argument("dataset")
@click.option("--limit", type=click.IntRange(min=1), default=50, help="Only so many, the newest.")
@as_json
def history(dataset: str, limit: int, json: bool) -> None:
    """List a dataset's versions and tags."""
    with open_stack() as stack:
        found = stack.storage.versions(dataset, limit=limit)
        tags = stack.storage.tags(dataset)
    names = {v.version: [name for name, at in tags.items() if at == v.version] for v in found}
    if json:
        print_json([{"version": v, "tags": names[v.version]} for v in found])
        return
    rows = [
        (v.version, v.operation, f"{v.timestamp:%Y-%m-%d %H:%M:%S}", ", ".join(names[v.version]))
        for v in found
    ]
    print_table(["version", "by", "written (UTC)", "tags"], rows)


@click.command()
@click.argument("dataset")
def compact(dataset: str) -> None:
    """Join a dataset's small files into large ones."""
    with open_stack() as stack:
        click.echo(f"{dataset} is at version {stack.storage.compact(dataset)}")


@click.command()
@click.argument("dataset")
@click.argument("where")
def delete(dataset: str, where: str) -> None:
    """Delete the rows for which the SQL condition WHERE is true."""
    with open_stack() as stack:
        click.echo(f"{dataset} is at version {stack.storage.delete_rows(dataset, where)}")


@click.command()
@click.argument("dataset")
@click.argument("columns", nargs=-1, required=True, metavar="COLUMN:TYPE...")
def evolve(dataset: str, columns: tuple[str, ...]) -> None:
    """Add nullable columns, and give columns a wider type (such as note:string)."""
    import pyarrow as pa

    from madang.data.validation._types import type_of

    parts = [column.partition(":") for column in columns]
    schema = pa.schema([(name, type_of(type)) for name, _, type in parts])
    with open_stack() as stack:
        click.echo(f"{dataset} is at version {stack.storage.evolve(dataset, schema)}")


@click.command()
@click.argument("dataset")
@click.argument("version", type=click.IntRange(min=0))
@click.argument("name")
def tag(dataset: str, version: int, name: str) -> None:
    """Give a version a name, which keeps it."""
    with open_stack() as stack:
        stack.storage.tag(dataset, version, name)


@click.command()
@click.argument("dataset")
@click.argument("name")
def untag(dataset: str, name: str) -> None:
    """Take a version's name away."""
    with open_stack() as stack:
        stack.storage.untag(dataset, name)


@click.command()
@click.argument("dataset")
@click.option("--keep", type=Duration(), required=True, help="How long replaced versions stay.")
@click.option("--grace", type=Duration(), default="1d", help="How long their files stay then.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@as_json
def retain(dataset: str, keep: timedelta, grace: timedelta, dry_run: bool, json: bool) -> None:
    """Drop versions that were replaced long ago, and delete files that no version needs."""
    with open_stack() as stack:
        done = stack.storage.retain(dataset, keep=keep, grace=grace, dry_run=dry_run)
    if json:
        print_json(done)
        return
    names = {"dropped": done.dropped, "swept": done.swept, "kept by tags and models": done.kept}
    for name, versions in names.items():
        click.echo(f"{name}: {', '.join(map(str, versions)) or 'none'}")
    verb = "would delete" if dry_run else "deleted"
    click.echo(f"{verb} {done.files} files, {done.size_bytes / 1e6:.1f} MB")


@click.command()
@click.argument("prefix", default="")
@click.option(
    "--where", help="An SQL condition on key, size_bytes, modified, content_type, metadata."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, help="Print at most so many.")
@as_json
def objects(prefix: str, where: str | None, limit: int, json: bool) -> None:
    """List objects whose key starts with PREFIX."""
    from madang.data.storage.search import search_objects

    with open_stack() as stack:
        rows = search_objects(stack.storage, prefix, where=where, limit=limit).to_pylist()
    rows = [{**row, "metadata": dict(row["metadata"])} for row in rows]
    if json:
        print_json(rows)
        return
    print_table(
        ["key", "bytes", "modified (UTC)", "type", "metadata"],
        [
            (
                row["key"],
                row["size_bytes"],
                f"{row['modified']:%Y-%m-%d %H:%M:%S}",
                row["content_type"] or "",
                ", ".join(f"{name}={text}" for name, text in row["metadata"].items()),
            )
            for row in rows
        ],
    )
