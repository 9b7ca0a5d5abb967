"""`madang data`: datasets, contracts, ingestion, SQL."""

from __future__ import annotations

from pathlib import Path

import click

from madang.cli.output import as_json, open_stack, print_json, print_table, progress


@click.group()
def data() -> None:
    """Datasets, their contracts, and SQL."""


@data.command("list")
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


@data.command()
@click.argument("dataset")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False), help="A CSV or Parquet sample."
)
@click.option("--overwrite", is_flag=True, help="Replace a contract that is there.")
def infer(dataset: str, file: str | None, overwrite: bool) -> None:
    """Propose contracts/DATASET.yaml from a sample, or from the dataset itself, to be edited."""
    from madang.data.validation.contract_file import contract_path, write_contract

    with open_stack() as stack:
        path = contract_path(stack.root, dataset)
        sample = _sample(Path(file)) if file else stack.storage.read(dataset)
        write_contract(
            stack.validation.infer(sample, dataset), path, inferred=True, overwrite=overwrite
        )
    click.echo(f"wrote {path}; read it, and change what you know better")


def _sample(path: Path) -> object:
    import polars as pl

    from madang.errors import InvalidInputError

    kind = "Parquet" if path.suffix == ".parquet" else "CSV"
    try:
        if kind == "Parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, try_parse_dates=True)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(f"{path} can't be read as {kind}: {reason}") from error


@data.command()
@click.argument("dataset")
@click.option("--version", type=int, help="A version (default: the newest).")
@click.option("--html", type=click.Path(dir_okay=False), help="Write the report as a page.")
@as_json
def validate(dataset: str, version: int | None, html: str | None, json: bool) -> int:
    """Check a dataset against its contract; exit code 1 if a check failed."""
    from madang.data.validation.contract_file import contract_path, read_contract
    from madang.data.validation.report import to_dict, to_html, to_text

    with open_stack() as stack:
        contract = read_contract(contract_path(stack.root, dataset))
        report = stack.validation.validate(
            stack.storage.read(dataset, version=version), contract
        ).report
    if html:
        Path(html).write_text(to_html(report), encoding="utf-8")
    if json:
        print_json(to_dict(report))
    else:
        click.echo(to_text(report))
    return 0 if all(result.ok for result in report.results) else 1


@data.command()
@click.argument("topic")
@click.option("--dataset", help="Default: of the topic's name.")
@as_json
def ingest(topic: str, dataset: str | None, json: bool) -> None:
    """Move a topic's new events, validated, into a dataset; bad ones to its quarantine."""
    from madang.loop import ingest as move

    with open_stack() as stack, progress(f"ingesting {topic}", None) as update:
        done = [0]

        def on_batch(report: object) -> None:
            done[0] += getattr(report, "rows", 0)
            update(done[0], f"ingesting {topic}")

        result = move(stack, topic, dataset, on_batch=on_batch)
    if json:
        print_json(result)
        return
    click.echo(f"{result.events} events: {result.valid} valid, {result.quarantined} quarantined")
    for reason, count in sorted(result.reasons.items(), key=lambda item: -item[1]):
        click.echo(f"  {count} rows: {reason}")


@data.command()
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
