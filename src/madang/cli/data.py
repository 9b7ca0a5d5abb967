"""`madang data`: datasets, contracts, ingestion, SQL; one file for each topic, in the list below."""

from __future__ import annotations

import click

from madang.cli.lazy import LazyGroup

COMMANDS = {
    "diff": "madang.cli.contracts:diff",
    "import-contract": "madang.cli.contracts:import_contract",
    "infer": "madang.cli.contracts:infer",
    "ingest": "madang.cli.ingestion:ingest",
    "list": "madang.cli.datasets:list_datasets",
    "query": "madang.cli.datasets:query",
    "validate": "madang.cli.contracts:validate",
}
"""Command to `module:function`."""


@click.group(cls=LazyGroup, table=COMMANDS)
def data() -> None:
    """Datasets, their contracts, and SQL."""
