"""`madang experiments`: runs and what they logged; the pipelines' runs are `madang runs`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import Duration, as_json, format_us, open_stack, print_json, print_table
from madang.engines import EngineURL

if TYPE_CHECKING:
    from madang.development.experiments import Experiment, Experiments
    from madang.development.experiments.copies import Copied


@click.group()
def experiments() -> None:
    """Experiments and their runs."""


@experiments.command("list")
@click.option("--filter", default="", help="MLflow's language: name LIKE 'fl%', tags.team = 'a'.")
@click.option("--deleted", is_flag=True, help="Those that were deleted.")
@as_json
def list_experiments(filter: str, deleted: bool, json: bool) -> None:
    """List experiments, the newest first."""
    from madang.development.experiments import View

    view = View.DELETED if deleted else View.ACTIVE
    with open_stack() as stack:
        found = stack.experiments.search_experiments(filter, view=view).items
    if json:
        print_json(found)
        return
    rows = [(e.id, e.name, format_us(e.created_us), _pairs(e.tags)) for e in found]
    print_table(["id", "experiment", "made (UTC)", "tags"], rows)


@experiments.command()
@click.argument("names", nargs=-1)
@click.option(
    "--filter", default="", help="MLflow's language: metrics.auc > 0.7 AND params.depth = '3'."
)
@click.option(
    "--order", multiple=True, metavar="KEY [DESC]", help="metrics.auc DESC, start_time, …"
)
@click.option("--deleted", is_flag=True, help="Those that were deleted.")
@click.option("--limit", type=click.IntRange(1, 50_000), default=20, show_default=True)
@as_json
def runs(
    names: tuple[str, ...],
    filter: str,
    order: tuple[str, ...],
    *,
    deleted: bool,
    limit: int,
    json: bool,
) -> None:
    """List runs of experiments NAMES (default: of all)."""
    from madang.development.experiments import View

    view = View.DELETED if deleted else View.ACTIVE
    with open_stack() as stack:
        ids = [_named(stack.experiments, name).id for name in names] or None
        page = stack.experiments.search_runs(ids, filter, order_by=order, view=view, limit=limit)
    if json:
        print_json(page.items)
        return
    rows = [
        (r.id, r.experiment, r.name, r.status, format_us(r.start_us), _figures(r.metrics), _pairs(r.params))
        for r in page.items
    ]  # fmt: skip
    print_table(["run", "experiment", "name", "status", "started (UTC)", "metrics", "params"], rows)
    if page.next_token:
        click.echo(f"there are more than {limit}: raise --limit, or narrow the --filter", err=True)


@experiments.command()
@click.argument("run_id")
@as_json
def show(run_id: str, json: bool) -> None:
    """Show a run: parameters, last metrics, tags, what it used, its artifacts."""
    with open_stack() as stack:
        run = stack.experiments.get_run(run_id)
        artifacts = stack.experiments.artifacts(run_id)
    if json:
        print_json({"run": run, "artifacts": artifacts})
        return
    click.echo(
        f"run {run.id} ({run.name}) of {run.experiment}: {run.status.lower()}, by {run.user}"
    )
    click.echo(f"from {format_us(run.start_us)} to {format_us(run.end_us)} (UTC)")
    for title, values in (("params", run.params), ("tags", run.tags)):
        for key, value in values.items():
            click.echo(f"{title}.{key} = {value}")
    for key, number in run.metrics.items():
        click.echo(f"metrics.{key} = {number:.6g}")
    for dataset in run.datasets:
        click.echo(f"dataset {dataset.name} {dataset.digest}")
    for path in artifacts:
        click.echo(f"artifact {path}")


@experiments.command()
@click.argument("name")
@click.argument("new_name")
def rename(name: str, new_name: str) -> None:
    """Give experiment NAME another name."""
    with open_stack() as stack:
        stack.experiments.rename_experiment(_named(stack.experiments, name).id, new_name)
    click.echo(f"experiment {name} is {new_name}")


@experiments.command()
@click.argument("name", required=False)
@click.option("--run", "run_id", help="Only this run.")
def delete(name: str | None, run_id: str | None) -> None:
    """Delete experiment NAME with its runs, or one --run; `restore` brings them back until `gc`."""
    _one_of(name, run_id)
    with open_stack() as stack:
        if run_id is not None:
            stack.experiments.delete_run(run_id)
        else:
            stack.experiments.delete_experiment(_named(stack.experiments, str(name)).id)
    click.echo(f"{name or run_id} is deleted; madang experiments gc removes it for good")


@experiments.command()
@click.argument("name", required=False)
@click.option("--run", "run_id", help="Only this run.")
def restore(name: str | None, run_id: str | None) -> None:
    """Bring experiment NAME back with its runs, or one --run."""
    _one_of(name, run_id)
    with open_stack() as stack:
        if run_id is not None:
            stack.experiments.restore_run(run_id)
        else:
            stack.experiments.restore_experiment(_named(stack.experiments, str(name)).id)
    click.echo(f"{name or run_id} is back")


@experiments.command()
@click.option(
    "--older-than",
    type=Duration(),
    default="30d",
    show_default=True,
    help="Deleted at least so long ago.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@as_json
def gc(older_than: timedelta, dry_run: bool, json: bool) -> None:
    """Remove what was deleted for good, and give its space back."""
    from madang.development.experiments import CanPurge
    from madang.errors import ConfigurationError

    with open_stack() as stack:
        if not isinstance(stack.experiments, CanPurge):
            raise ConfigurationError(
                "this experiments engine removes nothing for good; ask its own tool"
            )
        found = stack.experiments.purge(older_than=older_than, dry_run=dry_run)
    if json:
        print_json(found)
        return
    click.echo(
        f"{'would remove' if dry_run else 'removed'} {len(found.experiments)} experiments, "
        f"{len(found.runs)} runs, {len(found.logged_models)} logged models, {len(found.versions)} versions "
        f"and {found.objects} objects of {found.bytes:,} bytes"
    )
    for ref, reason in found.kept.items():
        click.echo(f"kept {ref}: {reason}")


@experiments.command("export")
@click.argument("names", nargs=-1)
@click.option("--to", "url", required=True, metavar="URL", help="mlflow+sqlite:///mlflow.db, …")
@click.option("--accept-loss", is_flag=True, help="Copy also what the target can't keep whole.")
@as_json
def export_experiments(names: tuple[str, ...], url: str, *, accept_loss: bool, json: bool) -> None:
    """Copy experiments NAMES (default: all, with all models) to another engine.

    Repeating it goes on where it was, and puts nothing twice.
    """
    from madang.development.experiments import connect
    from madang.development.experiments.copies import copy

    with open_stack() as stack:
        target = connect(url, stack.context)
        try:
            done = copy(
                stack.experiments,
                target,
                names or None,
                origin=f"project {stack.context.project}",
                accept_loss=accept_loss,
                trust=True,  # the project's own, which it may load
                progress=None if json else _told,
            )
        finally:
            target.close()
    _show_copied(done, json=json)


@experiments.command("import")
@click.argument("url")
@click.argument("names", nargs=-1)
@click.option("--accept-loss", is_flag=True, help="Import also what can't be kept whole.")
@click.option(
    "--trust-models",
    is_flag=True,
    help="Keep models loadable also when loading them runs their code.",
)
@as_json
def import_experiments(
    url: str, names: tuple[str, ...], *, accept_loss: bool, trust_models: bool, json: bool
) -> None:
    """Copy experiments NAMES (default: all, with all models) from the engine at URL.

    Repeating it goes on where it was, and puts nothing twice.
    """
    from madang.development.experiments import connect
    from madang.development.experiments.copies import copy

    with open_stack() as stack:
        source = connect(_existing(url), stack.context)
        try:
            done = copy(
                source,
                stack.experiments,
                names or None,
                origin=EngineURL.parse(url).scheme + " " + EngineURL.parse(url).path,
                accept_loss=accept_loss,
                trust=trust_models,
                progress=None if json else _told,
            )
        finally:
            source.close()
    _show_copied(done, json=json)


def _existing(url: str) -> str:
    """The URL of a file that must be there, so that a mistyped one makes no new file."""
    if not url.startswith("mlflow+sqlite:") or "create=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}create=no"


def _told(what: str, done: Copied) -> None:
    click.echo(
        f"{what}: {done.runs} runs, {done.points:,} points, {done.artifacts} files", err=True
    )


def _show_copied(done: Copied, *, json: bool) -> None:
    if json:
        print_json(done)
        return
    for line in done.left:
        click.echo(f"left: {line}", err=True)
    click.echo(
        f"copied {done.experiments} experiments, {done.runs} runs with {done.points:,} points, "
        f"{done.logged_models} logged models, {done.models} models, {done.versions} versions and "
        f"{done.artifacts} files of {done.bytes:,} bytes; {done.there} were there already"
    )


def _named(engine: Experiments, name: str) -> Experiment:
    from madang.errors import NotFoundError

    found = engine.find_experiment(name)
    if found is None:
        raise NotFoundError(f"there is no experiment {name!r}; see: madang experiments list")
    return found


def _one_of(name: str | None, run_id: str | None) -> None:
    if (name is None) == (run_id is None):
        raise click.UsageError("give the NAME of an experiment, or --run RUN")


def _figures(values: Any) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items())


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
