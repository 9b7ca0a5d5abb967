"""`madang up`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import click

from madang.cli.output import open_stack

if TYPE_CHECKING:
    from madang.stack import Stack

_PORT = click.IntRange(0, 65_535)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The API's address.")
@click.option(
    "--port",
    type=_PORT,
    default=8600,
    show_default=True,
    help="The API's port; 0 for a free one.",
)
@click.option(
    "--inference-port", type=_PORT, help="The inference workers' port (default: as in madang.toml)."
)
def up(host: str, port: int, inference_port: int | None) -> None:
    """Run Madang in the foreground, until Ctrl-C: the HTTP API and the inference workers."""
    from madang.loop import settle
    from madang.server.supervisor import Supervisor

    with open_stack() as stack:
        token = _first_admin(stack)
        settle(stack)
        supervisor = Supervisor(stack, host=host, port=port, inference_port=inference_port)
        try:
            supervisor.start()
            click.echo(f"API        {supervisor.url}")
            click.echo(f"inference  {supervisor.inference_url}")
            if token:
                click.echo(f"admin's token, made now, is in {stack.home / 'admin.token'}")
            click.echo("ready; Ctrl-C stops it")
            supervisor.serve(threading.Event())
        finally:
            supervisor.stop()


def _first_admin(stack: Stack) -> str | None:
    from madang.security.identity import HasFirstAdmin

    identity = stack.identity
    return identity.first_admin() if isinstance(identity, HasFirstAdmin) else None
