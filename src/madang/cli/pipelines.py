"""`madang run`, `resume`, `runs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from madang.cli.output import as_json, format_us, open_stack, print_json, print_table, progress

if TYPE_CHECKING:
    from madang.stack import Stack
    from madang.workflow.pipelines import PipelineRun, StepRun


@click.command()
@click.argument("pipeline")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter.")
@click.option("--reason", default="by hand", help="Why it runs; stands in the ledger.")
@click.option("--run-id", help="The run's id, for a caller that may have to ask again.")
@as_json
def run(pipeline: str, params: tuple[str, ...], reason: str, run_id: str | None, json: bool) -> int:
    """Run PIPELINE: a name, or a file such as pipelines/train.py:train."""
    from madang.workflow.pipelines.discovery import find_pipeline

    values = dict(_parameter(text) for text in params)
    with open_stack() as stack:
        found = find_pipeline(stack.root, pipeline)
        with _watching(found.name) as on_step:
            ended = stack.pipelines.run(
                found, values, reason=reason, run_id=run_id, on_step=on_step
            )
        return _report(stack, ended, json=json)


@click.command()
@click.argument("run_id")
@as_json
def resume(run_id: str, json: bool) -> int:
    """Go on with a run that failed or was killed; finished steps are not repeated."""
    from madang.workflow.pipelines.discovery import find_pipeline

    with open_stack() as stack:
        found = find_pipeline(stack.root, stack.pipelines.get(run_id).pipeline)
        with _watching(found.name) as on_step:
            ended = stack.pipelines.resume(found, run_id, on_step=on_step)
        return _report(stack, ended, json=json)


@click.command()
@click.argument("run_id", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, help="At most so many, newest first."
)
@as_json
def runs(run_id: str | None, limit: int, json: bool) -> None:
    """List runs of pipelines, or show one with its steps."""
    with open_stack() as stack:
        if run_id is not None:
            _report(stack, stack.pipelines.get(run_id), json=json)
            return
        found = stack.pipelines.list(limit=limit)
        if json:
            print_json(found)
            return
        rows = [
            (r.id, r.pipeline, _status(r), format_us(r.started_us), _seconds(r.started_us, r.ended_us), r.reason)
            for r in found
        ]  # fmt: skip
        print_table(["run", "pipeline", "status", "started (UTC)", "seconds", "reason"], rows)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"write NAME=VALUE, found {text!r}", param_hint="--param")
    return name, value


@contextmanager
def _watching(name: str) -> Iterator[Callable[[StepRun], None]]:
    """A progress bar over the steps of a run."""
    done: set[str] = set()
    with progress(name, None) as update:

        def on_step(step: StepRun) -> None:
            if step.ended_us is not None:
                done.add(step.name)
            update(len(done), f"{step.name} {step.status.lower()}")

        yield on_step


def _report(stack: Stack, run: PipelineRun, *, json: bool) -> int:
    if json:
        print_json(run)
    else:
        click.echo(f"run {run.id} of {run.pipeline}: {_status(run).lower()}")
        click.echo(f"code {run.code}, params {dict(run.params)}, {run.reason}, by {run.actor}")
        rows = [
            (s.name, s.status, s.attempts, _seconds(s.started_us, s.ended_us), ", ".join(a.kind for a in s.outputs))
            for s in run.steps
        ]  # fmt: skip
        print_table(["step", "status", "attempts", "seconds", "outputs"], rows)
        for name, artifact in run.results.items():
            if artifact.kind in ("json", "metrics", "text") and artifact.inline is not None:
                click.echo(f"{name} = {stack.pipelines.load(artifact)}")
            else:
                click.echo(
                    f"{name}: {artifact.kind}, {artifact.size_bytes:,} bytes, {artifact.ref}"
                )
        for step in run.steps:
            if step.error and not step.status.finished_well:
                click.echo(f"\nstep {step.name} failed: {step.error}", err=True)
        if run.interrupted or run.status in ("FAILED", "CANCELLED"):
            click.echo(f"to go on where it stopped: madang resume {run.id}", err=True)
    return 0 if run.status in ("SUCCEEDED", "RUNNING") else 1


def _status(run: PipelineRun) -> str:
    return "INTERRUPTED" if run.interrupted else run.status


def _seconds(start: int | None, end: int | None) -> str:
    return "-" if start is None or end is None else f"{(end - start) / 1e6:.3f}"
