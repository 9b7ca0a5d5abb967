"""`madang data infer`, `validate`: data contracts."""

from __future__ import annotations

from pathlib import Path

import click

from madang.cli.output import as_json, open_stack, print_json


@click.command()
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


@click.command()
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
