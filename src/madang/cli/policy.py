"""`madang policy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import as_json, format_us, open_stack, print_json, print_table
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.security.policy import Policy, Question
    from madang.stack import Stack


@click.group()
def policy() -> None:
    """Rules (Rego) that are asked before anything that matters."""


@policy.command()
@as_json
def show(json: bool) -> None:
    """Show the bundle in force: its digest, files and settings."""
    with open_stack() as stack:
        found = stack.policy.bundle()
    if json:
        print_json({"bundle": found.digest, "files": sorted(found.files), "data": found.data})
        return
    click.echo(f"bundle {found.digest}")
    for name in found.files:
        click.echo(f"  {name}")


@policy.command()
@click.option("--match", default="", help="Only tests whose name holds this text.")
@as_json
def test(match: str, json: bool) -> int:
    """Run the rules `test_…` of policies/**/*_test.rego and of the packaged rules; 1 if one fails."""
    from madang.errors import NotFoundError
    from madang.security.policy import connect, run_tests

    with open_stack() as stack:
        engine = connect(stack.project.urls.get("policy"), stack.context)
        found = run_tests(stack.root, engine, match=match)
        engine.close()
    if not found:
        raise NotFoundError(f"no test's name holds {match!r}")
    failed = [one for one in found if not one.passed]
    if json:
        print_json(found)
    else:
        for one in failed:
            click.echo(f"{one.file}: {one.name}: {one.problem}")
        click.echo(f"{len(found) - len(failed)} of {len(found)} tests passed")
    return 1 if failed else 0


@policy.command()
@click.argument("decision", required=False)
@click.argument("about", nargs=-1)
@click.option("--as", "actor", metavar="ACTOR", help="Who asks, such as user:ann (default: you).")
@click.option(
    "--input", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The input as JSON, in place of ABOUT.",
)  # fmt: skip
@click.option("--line", type=int, help="A decision of the ledger, by its line's number.")
@as_json
def explain(  # noqa: PLR0917 - click passes options by name
    decision: str | None,
    about: tuple[str, ...],
    actor: str | None,
    file: Path | None,
    line: int | None,
    json: bool,
) -> int:
    r"""Show a decision's input and result; nothing happens and nothing is recorded.

    \b
    madang policy explain promotion MODEL@VERSION ALIAS
    madang policy explain deployment ENDPOINT MODEL@VERSION[=WEIGHT]...
    madang policy explain dataset_read DATASET
    madang policy explain secret_read SECRET
    madang policy explain DECISION --input FILE
    madang policy explain --line NUMBER

    The exit code is 1 if it is denied.
    """
    if (line is None) == (decision is None) or (decision and bool(about) == bool(file)):
        raise click.UsageError("give DECISION with ABOUT or --input FILE, or --line NUMBER")
    with open_stack() as stack:
        name, input, before = _asked(
            stack, decision or "", about, actor=actor, file=file, line=line
        )
        found = stack.policy.decide(name, input)
    if json:
        print_json({"input": input, "decision": found, "then": before})
    else:
        print_json(input)
        if before is not None:
            click.echo(f"then: {before['outcome']} by bundle {before['bundle'][:12]}")
        _print(found)
    sys.stdout.flush()
    return 0 if found.allow else 1


def _print(found: Any) -> None:
    click.echo(
        f"{found.name}: {'allowed' if found.allow else 'DENIED'} (bundle {found.bundle[:12]})"
    )
    for reason in found.reasons:
        click.echo(f"  {reason.rule}: {reason.message}")
    for rule in found.exempt:
        click.echo(f"  exempt from: {rule}")


def _asked(
    stack: Stack,
    decision: str,
    about: tuple[str, ...],
    *,
    actor: str | None,
    file: Path | None,
    line: int | None,
) -> tuple[str, Any, Any]:
    """The decision's name, its input, and what was decided then if it is in the ledger."""
    import json

    from madang.ledger import acting_as, current_actor

    if line is not None:
        data = stack.ledger.get(line).data
        if "document" not in data:
            raise InvalidInputError(f"line {line} of the ledger is no policy decision")
        return data["decision"], data["document"], {k: data[k] for k in ("outcome", "bundle")}
    if file is not None:
        try:
            return decision, json.loads(file.read_text("utf-8")), None
        except ValueError as error:
            raise InvalidInputError(f"{file} is not JSON: {error}") from error
    with acting_as(actor or current_actor()):
        question = _question(stack, stack.policy, decision, about)
    return decision, question.input, None


def _question(stack: Stack, policy: Policy, decision: str, about: tuple[str, ...]) -> Question:
    from madang.cli.serving import parsed_arm
    from madang.deployment.serving._arms import arm_from, resolver
    from madang.development.experiments import AliasMove
    from madang.ledger import current_actor

    if decision == "promotion" and len(about) == 2:
        name, _, version = about[0].partition("@")
        found = stack.registry.get(name, version or None)
        previous = stack.registry.get_model(name).aliases.get(about[1])
        move = AliasMove(name, about[1], found.version, previous, current_actor())
        return policy.questions.promotion(move)
    if decision == "deployment":
        resolve = resolver(stack.registry)
        arms = [arm_from(parsed_arm(text), resolve) for text in about[1:]]
        return policy.questions.deployment(about[0], arms)
    if decision == "dataset_read" and len(about) == 1:
        return policy.questions.dataset_read(about[0])
    if decision == "secret_read" and len(about) == 1:
        return policy.questions.secret_read(about[0])
    raise InvalidInputError(
        f"{decision} {' '.join(about)} can't be asked this way; see madang policy explain --help"
    )


@policy.command()
@click.argument("subject")
@click.option("--reason", default="", help="For people.")
@click.option("--hours", type=float, default=24.0, show_default=True, help="How long it holds.")
def approve(subject: str, reason: str, hours: float) -> None:
    """Approve SUBJECT, which a denial to somebody else named."""
    with open_stack() as stack:
        found = stack.policy.approvals.approve(subject, reason=reason, hours=hours)
    click.echo(f"approved until {format_us(found.expires_us)} (UTC): {found.subject}")


@policy.command()
@as_json
def approvals(json: bool) -> None:
    """List the approvals that hold."""
    with open_stack() as stack:
        found = stack.policy.approvals.list()
    if json:
        print_json(found)
    else:
        rows = [(a.id, a.subject, a.by, a.reason, format_us(a.expires_us)) for a in found]
        print_table(["approval", "subject", "by", "reason", "ends (UTC)"], rows)


@policy.command()
@click.argument("approval_id")
def revoke(approval_id: str) -> None:
    """Take an approval back by its id."""
    with open_stack() as stack:
        stack.policy.approvals.revoke(approval_id)
    click.echo(f"approval {approval_id} holds no more")
