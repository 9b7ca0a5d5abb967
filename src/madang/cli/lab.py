"""`madang lab`."""

from __future__ import annotations

import click

from madang.cli.output import open_stack

_PORT = click.IntRange(0, 65_535)


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=_PORT, default=8888, show_default=True, help="The port; 0 for a free one."
)
@click.pass_context
def lab(context: click.Context, host: str, port: int) -> None:
    """Work in notebooks: JupyterLab in the project, until Ctrl-C."""
    if context.invoked_subcommand:
        return
    with open_stack() as stack:
        modeling = stack.modeling
        try:
            started = modeling.start(host=host, port=port)
            click.echo(f"{started.url}/lab?token={started.token}")
            click.echo("ready; Ctrl-C stops it")
            modeling.wait()
        finally:
            modeling.stop()


@lab.command("setup-git")
def setup_git() -> None:
    """Keep what notebooks show out of git: set up a filter in this repository."""
    from madang.development.modeling.git import set_up

    with open_stack() as stack:
        for line in set_up(stack.root):
            click.echo(line)


@lab.command()
@click.argument("notebooks", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
def clear(notebooks: tuple[str, ...]) -> None:
    """Remove what NOTEBOOKS show from their files."""
    from madang.development.modeling.git import clear_file

    for notebook in notebooks:
        changed = clear_file(notebook)
        click.echo(f"{notebook}: {'cleared' if changed else 'was clear'}")
