"""`madang export`: what leaves the project in a form that other tools take."""

from __future__ import annotations

from pathlib import Path

import click

from madang.cli.lazy import LazyGroup
from madang.cli.output import open_stack

COMMANDS = {"container": "madang.cli.export:container"}
"""Command to `module:function`."""


@click.group(cls=LazyGroup, table=COMMANDS)
def export() -> None:
    """Write what other tools take: a model's container."""


@click.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--endpoint", help="The model's name in the protocol (default: its own).")
def container(model: str, folder: Path, endpoint: str | None) -> None:
    """Write the build context of an image that serves a MODEL into an empty FOLDER.

    VERSION is a number or an alias; without one it is the newest.
    """
    from madang.deployment.serving.container import write_context

    name, _, version = model.partition("@")
    with open_stack() as stack:
        found = write_context(stack.registry, name, version or None, folder, endpoint=endpoint)
    click.echo(f"{found.ref} is in {folder}; build it: docker build -t {name.lower()} {folder}")
