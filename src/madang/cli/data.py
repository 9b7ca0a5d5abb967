"""`madang data`: datasets, contracts, ingestion, SQL; one file for each topic, in the list below."""

from __future__ import annotations

import click

from madang.cli.lazy import LazyGroup

COMMANDS = {
    "compact": "madang.cli.datasets:compact",
    "delete": "madang.cli.datasets:delete",
    "describe": "madang.cli.repository:describe",
    "diff": "madang.cli.contracts:diff",
    "import-contract": "madang.cli.contracts:import_contract",
    "evolve": "madang.cli.datasets:evolve",
    "history": "madang.cli.datasets:history",
    "infer": "madang.cli.contracts:infer",
    "ingest": "madang.cli.ingestion:ingest",
    "ingestions": "madang.cli.ingestion:ingestions",
    "lineage": "madang.cli.views:lineage",
    "list": "madang.cli.datasets:list_datasets",
    "materialize": "madang.cli.views:materialize",
    "objects": "madang.cli.datasets:objects",
    "query": "madang.cli.datasets:query",
    "retain": "madang.cli.datasets:retain",
    "show": "madang.cli.repository:show",
    "tag": "madang.cli.datasets:tag",
    "untag": "madang.cli.datasets:untag",
    "uses": "madang.cli.repository:uses",
    "validate": "madang.cli.contracts:validate",
    "views": "madang.cli.views:views",
}
"""Command to `module:function`."""


@click.group(cls=LazyGroup, table=COMMANDS)
def data() -> None:
    """Datasets, their contracts, and SQL."""
