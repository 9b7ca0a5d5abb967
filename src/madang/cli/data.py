"""`madang data`: datasets, contracts, ingestion, SQL; one file for each topic, in the list below."""

from __future__ import annotations

import click

from madang.cli.lazy import LazyGroup

COMMANDS = {
    "compact": "madang.cli.datasets:compact",
    "delete": "madang.cli.datasets:delete",
    "diff": "madang.cli.contracts:diff",
    "evolve": "madang.cli.datasets:evolve",
    "history": "madang.cli.datasets:history",
    "infer": "madang.cli.contracts:infer",
    "ingest": "madang.cli.ingestion:ingest",
    "ingestions": "madang.cli.ingestion:ingestions",
    "list": "madang.cli.datasets:list_datasets",
    "objects": "madang.cli.datasets:objects",
    "query": "madang.cli.datasets:query",
    "retain": "madang.cli.datasets:retain",
    "tag": "madang.cli.datasets:tag",
    "untag": "madang.cli.datasets:untag",
    "validate": "madang.cli.contracts:validate",
}
"""Command to `module:function`."""


@click.group(cls=LazyGroup, table=COMMANDS)
def data() -> None:
    """Datasets, their contracts, and SQL."""
