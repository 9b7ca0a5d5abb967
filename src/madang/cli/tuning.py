"""`madang tune`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import as_json, format_us, open_stack, print_json, print_table, progress

if TYPE_CHECKING:
    from madang.development.tuning import Study, Trial


@click.group()
def tune() -> None:
    """Search for hyperparameters, and look at searches."""


@tune.command()
@click.argument("study")
@click.option("--trials", type=click.IntRange(min=1), help="At most so many, in all.")
@click.option("--seconds", type=click.FloatRange(min=0), help="No new trial starts after so long.")
@click.option("--workers", type=click.IntRange(min=1), help="Trials at once.")
@click.option("--sampler", help="Which one proposes.")
@click.option("--seed", type=click.IntRange(min=0), help="For a repeatable search.")
@click.option("--resume", is_flag=True, help="Go on with the newest study of this name.")
@as_json
def run(study: str, seconds: float | None, json: bool, resume: bool, **options: Any) -> None:
    """Run STUDY: a name, or a file such as studies/late.py:late."""
    from madang.development.tuning.studies import find_study

    chosen = {name: value for name, value in options.items() if value is not None}
    if seconds is not None:
        chosen["timeout_seconds"] = seconds
    with open_stack() as stack:
        found = find_study(stack.root, study)
        with progress(found.name, None) as update:

            def on_trial(trial: Trial) -> None:
                update(trial.number + 1, f"{trial.state.lower()} {_numbers(trial.values)}")

            ended = found.run(stack, resume=resume, on_trial=on_trial, **chosen)
        _report(ended, stack.tuning.importances, json=json)


@tune.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most so many.")
@as_json
def list_studies(limit: int, json: bool) -> None:
    """List studies, newest first."""
    with open_stack() as stack:
        found = stack.tuning.studies(limit=limit)
    if json:
        print_json(found)
        return
    rows = [
        (s.name, s.run_id, s.state, s.stopped or "-", _directions(s), format_us(s.created_us))
        for s in found
    ]
    print_table(["study", "run", "state", "ended by", "objectives", "started (UTC)"], rows)


@tune.command()
@click.argument("study")
@click.option("--limit", type=click.IntRange(min=1), default=10, help="Best trials to show.")
@as_json
def show(study: str, limit: int, json: bool) -> None:
    """Show a study by its name or run: best trials or front, and what each parameter matters."""
    with open_stack() as stack:
        _report(stack.tuning.get(study), stack.tuning.importances, json=json, limit=limit)


def _report(study: Study, importances: Any, *, json: bool, limit: int = 10) -> None:
    from madang.development.tuning import TrialState

    finished = sum(trial.state is TrialState.FINISHED for trial in study.trials)
    shares = {
        objective: importances(study, objective) if finished >= 2 else {}
        for objective in study.directions
    }
    best = study.best_trials
    if json:
        numbers = [trial.number for trial in best]
        print_json({"study": study, "best": numbers, "importances": shares})
        return
    counts = Counter(trial.state.lower() for trial in study.trials)
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    ended = f", ended by {study.stopped}" if study.stopped else ""
    click.echo(f"study {study.name}, run {study.run_id}: {study.state.lower()}{ended}; {said}")
    for note in study.notes:
        click.echo(f"warm start: {note}")
    rows = [
        (t.number, _numbers(t.values), ", ".join(f"{k} {v}" for k, v in t.params.items()), t.run_id)
        for t in best[:limit]
    ]
    click.echo("best" if len(study.directions) == 1 else f"front of {len(best)} trials")
    print_table(["trial", _directions(study), "parameters", "run"], rows)
    for objective, found in shares.items():
        if found:
            click.echo(f"importance for {objective}: {_numbers(found)}")


def _directions(study: Study) -> str:
    return ", ".join(f"{name} ({way})" for name, way in study.directions.items())


def _numbers(values: Any) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in values.items())
