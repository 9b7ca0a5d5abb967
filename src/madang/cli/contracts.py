"""`madang data infer`, `validate`, `diff`, `import-contract`: data contracts."""

from __future__ import annotations

from pathlib import Path

import click

from madang.cli.output import as_json, open_stack, print_json


@click.command()
@click.argument("dataset")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False), help="A CSV or Parquet sample."
)
@click.option("--distributions", is_flag=True, help="Freeze the sample's distributions, too.")
@click.option("--overwrite", is_flag=True, help="Replace a contract that is there.")
def infer(dataset: str, file: str | None, distributions: bool, overwrite: bool) -> None:
    """Propose contracts/DATASET.yaml from a sample, or from the dataset itself, to be edited."""
    from madang.data.validation.contract_file import contract_path, write_contract

    with open_stack() as stack:
        path = contract_path(stack.root, dataset)
        sample = _sample(Path(file)) if file else stack.storage.read(dataset)
        proposed = stack.validation.infer(sample, dataset, distributions=distributions)
        write_contract(proposed, path, inferred=True, overwrite=overwrite)
    click.echo(f"wrote {path}; read it, and change what you know better")


def _sample(path: Path) -> object:
    import polars as pl

    from madang.errors import InvalidInputError

    kind = "Parquet" if path.suffix == ".parquet" else "CSV"
    try:
        if kind == "Parquet":
            return pl.read_parquet(path)
        _check_header(path)
        return pl.read_csv(path, try_parse_dates=True)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(f"{path} can't be read as {kind}: {reason}") from error


def _check_header(path: Path) -> None:
    """Refuses what Polars gives other names without a word."""
    import csv

    from madang.errors import InvalidInputError

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(
            f"{path} can't be read as CSV: {error}; it must be UTF-8, with the columns' names in "
            "its first line"
        ) from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"{path}: the header has a name twice: {', '.join(twice)}")
    if any("\0" in name for name in names):
        raise InvalidInputError(
            f"{path} can't be read as CSV: its header has zero bytes; is it UTF-16?"
        )


@click.command()
@click.argument("dataset")
@click.option("--version", type=int, help="A version (default: the newest).")
@click.option("--stored", is_flag=True, help="Show the version's last report that is on record.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write the report as a page.")
@as_json
def validate(dataset: str, version: int | None, stored: bool, html: str | None, json: bool) -> int:
    """Check a dataset against its contract; exit code 1 if rows or the dataset are refused."""
    from madang.data.validation.datasets import last_validation, validate_dataset
    from madang.data.validation.report import outcome, to_dict, to_html, to_text
    from madang.errors import InvalidInputError, NotFoundError

    page = Path(html) if html else None
    if page is not None and not page.parent.is_dir():
        raise NotFoundError(f"there is no folder {page.parent} for the report; make it")
    with open_stack() as stack:
        if stored:
            found = last_validation(stack, dataset, version=version)
        else:
            found = validate_dataset(stack, dataset, version=version)
    report = found.report
    if page is not None:
        try:
            page.write_text(to_html(report), encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(f"{page} can't be written: {error.strerror}") from error
    if json:
        print_json({"version": found.version, "line": found.line, **to_dict(report)})
    else:
        click.echo(to_text(report))
    return 0 if outcome(report) in ("valid", "warned") else 1


@click.command()
@click.argument("old")
@click.argument("new", required=False)
@as_json
def diff(old: str, new: str | None, json: bool) -> int:
    """Compare two contracts, or two versions of a dataset; exit code 1 if a change breaks.

    OLD and NEW are files or names of contracts, COMMIT:NAME for a contract as it was, or
    DATASET@VERSION. With one name, what changed in its contract since the last commit.
    """
    from madang.data.validation.comparison import diff as compare
    from madang.data.validation.diff import to_dict, to_text

    with open_stack() as stack:
        found = compare(stack, old, new)
    if json:
        print_json(to_dict(found))
    else:
        click.echo(to_text(found))
    return 1 if found.breaking else 0


@click.command("import-contract")
@click.argument("source")
@click.argument("dataset")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False), help="A CSV or Parquet sample."
)
@click.option(
    "--severity",
    type=click.Choice(["block", "quarantine", "warn"]),
    default="block",
    help="What a failure does (default: block, as there).",
)
@click.option("--overwrite", is_flag=True, help="Replace a contract that is there.")
def import_contract(
    source: str, dataset: str, file: str | None, severity: str, overwrite: bool
) -> None:
    """Make contracts/DATASET.yaml of a pandera schema or a suite of Great Expectations.

    SOURCE is a YAML or JSON file that the tool wrote, or module:attribute of a pandera schema. What
    can't be taken over exactly is listed with the reason.
    """
    import pyarrow as pa

    from madang.data.validation import contract_path, import_contract as imported, write_contract

    with open_stack() as stack:
        schema = None
        if file:
            schema = pa.table(_sample(Path(file))).schema
        elif dataset in stack.storage.tables():
            schema = stack.storage.read(dataset).schema
        found = imported(source, dataset, sample=schema, severity=severity)  # type: ignore[arg-type] # click has checked it
        path = contract_path(stack.root, dataset)
        write_contract(found.contract, path, overwrite=overwrite)
    click.echo(f"wrote {path}: {len(found.contract.checks)} checks, from {found.source}")
    if found.left_out:
        click.echo(f"{len(found.left_out)} things are not taken over, or not in every case:")
    for text in found.left_out:
        click.echo(f"  {text}")
