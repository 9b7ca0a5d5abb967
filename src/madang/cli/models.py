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
@click.argument("version", metavar="NAME[@VERSION]")
@as_json
def show(version: str, json: bool) -> None:
    """Show a version (number or alias): what it was made from, how good it is, where it serves."""
    name, _, asked = version.partition("@")
    with open_stack() as stack:
        found = stack.registry.describe(name, asked or None)
    if json:
        print_json(found)
        return
    model = found.version
    click.echo(
        f"{model.ref} ({model.format}), registered {format_us(model.created_us)} (UTC) by {model.user}"
    )
    lines = {
        "aliases": ", ".join(model.aliases),
        "description": model.description,
        "run": f"{found.run.id} of {found.run.experiment}" if found.run else model.run_id or "",
        "code": ", ".join(found.code),
        "datasets": ", ".join(found.datasets),
        "feature views": ", ".join(found.feature_views),
        "inputs": ", ".join(
            f"{s.name} {s.datatype} {list(s.shape)}" for s in model.signature.inputs
        ),
        "outputs": ", ".join(
            f"{s.name} {s.datatype} {list(s.shape)}" for s in model.signature.outputs
        ),
        "requirements": ", ".join(f"{key} {value}" for key, value in found.requirements.items()),
        "evaluation": _metrics(model.evaluation),
        "serves at": ", ".join(found.endpoints),
        "tags": ", ".join(f"{key} {value}" for key, value in model.tags.items()),
    }
    for title, text in lines.items():
        click.echo(f"{title}: {text or '-'}")


@models.command()
@click.argument("version", metavar="NAME[@VERSION]")
def delete(version: str) -> None:
    """Delete a model with all its versions, or one version; what an endpoint serves stays."""
    name, at, number = version.partition("@")
    if at and not number.isdecimal():
        raise click.UsageError(f"{number!r} is no number of a version, such as {name}@3")
    with open_stack() as stack:
        if at:
            stack.registry.delete_version(name, int(number))
        else:
            stack.registry.delete_model(name)
    click.echo(f"{version} is deleted; madang experiments gc gives its space back")


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
