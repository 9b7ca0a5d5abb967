"""`madang rollouts`: shadow, canary, A/B and bandit between versions of an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import as_json, format_us, open_stack, print_json, print_table, progress

if TYPE_CHECKING:
    from madang.deployment.ab_testing import Rollout


@click.group()
def rollouts() -> None:
    """Try model versions on an endpoint's traffic; they are promoted or rolled back by themselves."""


@rollouts.command()
@click.argument("endpoint", required=False)
@click.argument("challengers", nargs=-1, metavar="MODEL[@VERSION]...")
@click.option(
    "--file", type=click.File("rb"), help="The plan as YAML or JSON, in place of all else."
)
@click.option(
    "--kind", type=click.Choice(["shadow", "canary", "ab", "bandit"]), default=None, help="Which."
)
@click.option(
    "--score",
    type=click.Choice(["value", "correct", "absolute_error", "squared_error", "brier"]),
    help="Of a prediction and its outcome: the target.",
)
@click.option(
    "--margin", type=click.FloatRange(min=0), default=0.0, help="So much worse is allowed."
)
@click.option("--alias", default="", help="An alias that moves to the winner.")
@as_json
def start(  # noqa: PLR0917 - click passes options by name
    endpoint: str | None,
    challengers: tuple[str, ...],
    file: Any,
    kind: str | None,
    score: str | None,
    margin: float,
    alias: str,
    json: bool,
) -> None:
    """Start a rollout at ENDPOINT, whose one arm is control.

    A file may say everything: guards, shares, method, how sure to be.
    """
    from madang.deployment.ab_testing._plans import plan_from
    from madang.deployment.serving._arms import resolver

    if bool(file) == bool(endpoint and challengers):
        raise click.UsageError(
            "give ENDPOINT and CHALLENGERS, with options if wanted, or --file FILE"
        )
    if file:
        data = _read(file)
    else:
        parts = [text.partition("@") for text in challengers]
        arms = [{"model": name, "version": _number(version)} for name, _, version in parts]
        data = {"endpoint": endpoint, "challengers": arms, "kind": kind or "canary", "alias": alias}
        if score:
            data["target"] = {"score": score, "margin": margin}
    with open_stack() as stack, progress("starting the rollout", None):
        found = stack.ab_testing.start(plan_from(data, resolver(stack.registry)))
    _show(found, json=json)


def _read(file: Any) -> Any:
    import yaml

    from madang.errors import InvalidInputError

    try:
        return yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"{file.name} is neither YAML nor JSON: {reason}") from error


def _number(version: str) -> int | str | None:
    return int(version) if version.isdigit() else version or None


@rollouts.command("list")
@click.option("--endpoint", help="Of this endpoint alone.")
@click.option("--running", is_flag=True, help="Those that have not ended alone.")
@as_json
def list_rollouts(endpoint: str | None, running: bool, json: bool) -> None:
    """List rollouts, newest first."""
    with open_stack() as stack:
        found = stack.ab_testing.rollouts(endpoint=endpoint, running=running)
    if json:
        print_json(found)
        return
    rows = [
        (r.id, r.plan.endpoint, r.plan.kind, r.state, _weights(r), r.looks, format_us(r.started_us))
        for r in found
    ]
    print_table(["id", "endpoint", "kind", "state", "weights", "looks", "started (UTC)"], rows)


@rollouts.command()
@click.argument("rollout")
@as_json
def show(rollout: str, json: bool) -> None:
    """Show a rollout by its id, or the newest of an endpoint, with its evidence."""
    with open_stack() as stack:
        found = stack.ab_testing.get(rollout)
    _show(found, json=json)


@rollouts.command()
@click.argument("rollout")
@click.option("--reason", default="", help="For the ledger.")
@as_json
def stop(rollout: str, reason: str, json: bool) -> None:
    """Roll a rollout back: control answers everything again."""
    with open_stack() as stack, progress("rolling back", None):
        found = stack.ab_testing.stop(rollout, reason)
    _show(found, json=json)


@rollouts.command()
@click.argument("rollout")
@click.option("--version", type=int, help="Which challenger, of several.")
@click.option("--reason", default="", help="For the ledger.")
@as_json
def promote(rollout: str, version: int | None, reason: str, json: bool) -> None:
    """Promote a challenger now, whatever the statistics say."""
    with open_stack() as stack, progress("promoting", None):
        found = stack.ab_testing.promote(rollout, version, reason)
    _show(found, json=json)


def _weights(rollout: Rollout) -> str:
    return ", ".join(f"{version}: {weight:.2f}" for version, weight in rollout.weights.items())


def _show(rollout: Rollout, *, json: bool) -> None:
    if json:
        print_json(rollout)
        return
    click.echo(
        f"rollout {rollout.id}: {rollout.plan.kind} at {rollout.plan.endpoint}, {rollout.state}"
    )
    click.echo(
        f"weights by version: {_weights(rollout)}; stage {rollout.stage}; looks {rollout.looks}"
    )
    for label, text in (("reason", rollout.reason), ("waits for", rollout.waits_for)):
        if text:
            click.echo(f"{label}: {text}")
    if rollout.unusable[0]:
        click.echo(
            f"outcomes that can't be scored: {rollout.unusable[0]}, as {rollout.unusable[1]}"
        )
    if rollout.evidence:
        rows = [
            (e.about, e.version or "all", _cell(e.estimate), _cell(e.low), _cell(e.high),
             _cell(e.limit), e.count, e.verdict)
            for e in rollout.evidence
        ]  # fmt: skip
        columns = ["about", "version", "estimate", "low", "high", "limit", "count", "verdict"]
        print_table(columns, rows)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
