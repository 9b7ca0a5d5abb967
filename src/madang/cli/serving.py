"""`madang deploy`, `undeploy`, `predict`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import as_json, open_stack, print_json, progress

if TYPE_CHECKING:
    from madang.deployment.serving import Arm
    from madang.stack import Stack

_ARM = re.compile(r"(?P<model>[^@=]+)(@(?P<version>[^@=]+))?(=(?P<weight>[0-9.]+))?")


@click.command()
@click.argument("endpoint")
@click.argument("versions", nargs=-1, required=True, metavar="MODEL[@VERSION][=WEIGHT]...")
@click.option("--log/--no-log", default=True, help="Log predictions to a topic.")
@as_json
def deploy(endpoint: str, versions: tuple[str, ...], log: bool, json: bool) -> None:
    """Serve model versions at ENDPOINT: delay, delay@champion, delay@3=0.9 delay@4=0.1."""
    with open_stack() as stack, progress(f"deploying {endpoint}", None):
        arms = [_arm(stack, text) for text in versions]
        made = stack.serving.deploy(endpoint, arms, log=log)
        url = stack.serving.url()
    if json:
        print_json({"endpoint": made, "url": url})
        return
    parts = ", ".join(f"{arm.model}@{arm.version} (weight {arm.weight:g})" for arm in made.arms)
    click.echo(f"endpoint {made.name}, revision {made.revision}: {parts}")
    if url is None:
        click.echo("no inference worker runs; start them: madang up")
    else:
        click.echo(f"POST {url}/v2/models/{made.name}/infer")


def _arm(stack: Stack, text: str) -> Arm:
    from madang.deployment.serving import Arm

    found = _ARM.fullmatch(text)
    if not found:
        raise click.BadParameter(
            f"write MODEL, MODEL@VERSION or MODEL@VERSION=WEIGHT, found {text!r}"
        )
    version = found["version"]
    number = int(version) if version and version.isdigit() else version
    registered = stack.registry.get(found["model"], number)
    return Arm(registered.name, registered.version, float(found["weight"] or 1))


@click.command()
@click.argument("endpoint")
def undeploy(endpoint: str) -> None:
    """Stop serving ENDPOINT."""
    with open_stack() as stack:
        stack.serving.get(endpoint)  # a typing error must not look like an endpoint that ended
        stack.serving.undeploy(endpoint)
    click.echo(f"endpoint {endpoint} is gone")


@click.command()
@click.argument("endpoint")
@click.option("--data", help="JSON: rows as lists, or an object of input name to values.")
@click.option("--file", type=click.File("rb"), help="The same in a file; - for standard input.")
@as_json
def predict(endpoint: str, data: str | None, file: Any, json: bool) -> None:
    """Ask a running ENDPOINT."""
    import msgspec

    from madang.errors import InvalidInputError

    if (data is None) == (file is None):
        raise click.UsageError("give --data JSON or --file FILE")
    text = data.encode() if data is not None else file.read()
    try:
        inputs = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"the data is not JSON: {error}") from error
    with open_stack() as stack:
        answer = dict(stack.serving.predict(endpoint, inputs))
    plain = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in answer.items()}
    if json:
        print_json(plain)
    else:
        for name, value in plain.items():
            click.echo(f"{name}: {value}")
