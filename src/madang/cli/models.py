"""`madang models`."""

from __future__ import annotations

import click

from madang.cli.evaluation import evaluate
from madang.cli.output import as_json, format_us, open_stack, print_json, print_table


@click.group(invoke_without_command=True)
@click.option("--name", help="Only this model's versions.")
@as_json
@click.pass_context
def models(context: click.Context, name: str | None, json: bool) -> None:
    """List registered models with their versions and aliases."""
    if context.invoked_subcommand:
        return
    with open_stack() as stack:
        names = [name] if name else stack.registry.models()
        found = [version for n in names for version in stack.registry.versions(n)]
    if json:
        print_json(found)
        return
    rows = [
        (v.name, v.version, ", ".join(v.aliases), v.format, format_us(v.created_us), _metrics(v.evaluation))
        for v in found
    ]  # fmt: skip
    print_table(["model", "version", "aliases", "format", "registered (UTC)", "evaluation"], rows)


def _metrics(evaluation: object) -> str:
    items = dict(evaluation).items() if isinstance(evaluation, dict) else []
    return ", ".join(f"{key} {value:.4g}" for key, value in items)


@models.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=int)
def alias(name: str, alias: str, version: int) -> None:
    """Point ALIAS (such as champion) of a model to a VERSION."""
    with open_stack() as stack:
        stack.registry.set_alias(name, alias, version)
    click.echo(f"{name}@{alias} is version {version}")


models.add_command(evaluate)
