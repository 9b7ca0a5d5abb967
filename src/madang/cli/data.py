"""`madang data`: datasets, contracts, ingestion, SQL; one file for each topic, in the list below."""

from __future__ import annotations

import click

from madang.cli.lazy import LazyGroup

COMMANDS = {
    "describe": "madang.cli.repository:describe",
    "infer": "madang.cli.contracts:infer",
    "ingest": "madang.cli.ingestion:ingest",
    "ingestions": "madang.cli.ingestion:ingestions",
    "lineage": "madang.cli.views:lineage",
    "list": "madang.cli.datasets:list_datasets",
    "materialize": "madang.cli.views:materialize",
    "query": "madang.cli.datasets:query",
    "show": "madang.cli.repository:show",
    "uses": "madang.cli.repository:uses",
    "validate": "madang.cli.contracts:validate",
    "views": "madang.cli.views:views",
}
"""Command to `module:function`."""


@click.group(cls=LazyGroup, table=COMMANDS)
def data() -> None:
    """Datasets, their contracts, and SQL."""
