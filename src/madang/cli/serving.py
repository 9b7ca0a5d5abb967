"""`madang deploy`, `undeploy`, `predict`."""

from __future__ import annotations

import re
from typing import Any

import click

from madang.cli.output import as_json, open_stack, print_json, progress

_ARM = re.compile(r"(?P<model>[^@=]+)(@(?P<version>[^@=]+))?(=(?P<weight>[0-9.]+))?")


@click.command()
@click.argument("endpoint")
@click.argument("versions", nargs=-1, metavar="MODEL[@VERSION][=WEIGHT]...")
@click.option(
    "--file", type=click.File("rb"), help="The arms as YAML or JSON, in place of VERSIONS."
)
@click.option("--before", metavar="FILE.py:FUNCTION", help="Makes the inputs of each version.")
@click.option("--after", metavar="FILE.py:FUNCTION", help="Makes the answer of the outputs.")
@click.option(
    "--feature", "features", multiple=True, metavar="VIEW[:FEATURE]", help="Read by entity."
)
@click.option("--log/--no-log", default=None, help="Log predictions to a topic.")
@as_json
def deploy(  # noqa: PLR0917 - click passes options by name
    endpoint: str,
    versions: tuple[str, ...],
    file: Any,
    before: str | None,
    after: str | None,
    features: tuple[str, ...],
    log: bool | None,
    json: bool,
) -> None:
    """Serve model versions at ENDPOINT: delay, delay@champion, delay@3=0.9 delay@4=0.1.

    A file may say more, such as graphs of models: {"arms": [{"model": …, "version": …}], "log": true}.
    """
    from madang.deployment.serving._arms import arm_from, resolver

    if bool(versions) == bool(file) or (file and (before or after or features)):
        raise click.UsageError("give versions, with options if wanted, or --file FILE")
    shared = {"before": before, "after": after, "features": list(features) or None}
    with open_stack() as stack, progress(f"deploying {endpoint}", None):
        read = _read(file) if file else {"arms": [parsed_arm(text) | shared for text in versions]}
        arms = [arm_from(arm, resolver(stack.registry)) for arm in read["arms"]]
        logged = bool(read.get("log", True)) if log is None else log
        made = stack.serving.deploy(endpoint, arms, log=logged)
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


def _read(file: Any) -> dict[str, Any]:
    """What a file says: `arms`, and `log` if it does."""
    import yaml

    from madang.errors import InvalidInputError

    try:
        read = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"{file.name} is neither YAML nor JSON: {reason}") from error
    arms = read.get("arms") if isinstance(read, dict) else None
    unknown = set(read) - {"arms", "log"} if isinstance(read, dict) else set()
    if not isinstance(arms, list) or unknown or not isinstance(read.get("log", True), bool):
        raise InvalidInputError(
            f"{file.name} has a list of arms, and log: true or false if wanted; found {read!r:.100}"
        )
    return dict(read)


def parsed_arm(text: str) -> dict[str, Any]:
    """The arm that `MODEL[@VERSION][=WEIGHT]` means, as `arm_from` takes it."""
    found = _ARM.fullmatch(text)
    if not found:
        raise click.BadParameter(
            f"write MODEL, MODEL@VERSION or MODEL@VERSION=WEIGHT, found {text!r}"
        )
    version = found["version"]
    number = int(version) if version and version.isdigit() else version
    return {"model": found["model"], "version": number, "weight": float(found["weight"] or 1)}


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
