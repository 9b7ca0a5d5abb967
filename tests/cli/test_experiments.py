"""`madang experiments` and what `madang models` shows of a version."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import madang
from madang.deployment.serving import Arm


@pytest.fixture
def stack(project):
    with madang.open(project) as opened:
        yield opened


@pytest.fixture
def runs(stack):
    """Three runs of two experiments, the last one nested in the first."""
    experiments = stack.experiments
    first = experiments.start_run("flights", name="a", params={"depth": 3}, tags={"team": "x"})
    experiments.end_run(first.id, metrics={"auc": 0.7})
    second = experiments.start_run("flights", name="b", params={"depth": 6})
    experiments.end_run(second.id, metrics={"auc": 0.8})
    third = experiments.start_run("others", name="c", parent_id=first.id)
    return [first.id, second.id, third.id]


def column(text, number=0):
    return [line.split("\t")[number] for line in text.splitlines()[1:]]


def test_runs_by_filter_and_order(call, refused, runs):
    assert column(call("experiments", "runs").out, 2) == ["c", "b", "a"]
    assert column(call("experiments", "runs", "flights", "--order", "metrics.auc ASC").out, 2) == [
        "a",
        "b",
    ]
    found = call("experiments", "runs", "--filter", "metrics.auc > 0.75 AND params.depth = '6'")
    assert column(found.out) == [runs[1]]
    more = call("experiments", "runs", "--limit", "1")
    assert "there are more than 1" in more.err
    assert len(call("experiments", "runs", "--json").json) == 3
    assert "no experiment 'nope'; see: madang experiments list" in refused(
        "experiments", "runs", "nope"
    )
    assert "colour" in refused("experiments", "runs", "--filter", "colour.x = 1")


def test_a_run_is_shown_whole(call, stack, runs):
    stack.experiments.log_artifact(runs[0], "notes.txt", b"hello")
    text = call("experiments", "show", runs[0]).out
    for line in ("params.depth = 3", "tags.team = x", "metrics.auc = 0.7", "artifact notes.txt"):
        assert line in text.splitlines()
    assert call("experiments", "show", runs[0], "--json").json["artifacts"] == ["notes.txt"]


def test_an_experiment_is_renamed_deleted_restored_and_removed(call, refused, stack, runs):
    call("experiments", "rename", "flights", "planes")
    assert "planes" in column(call("experiments", "list").out, 1)
    assert "gc removes it for good" in call("experiments", "delete", "planes").out
    assert "planes" not in column(call("experiments", "list").out, 1)
    assert column(call("experiments", "list", "--deleted").out, 1) == ["planes"]
    assert call("experiments", "restore", "planes").out == "planes is back\n"
    assert column(call("experiments", "runs", "planes").out, 2) == ["b", "a"]
    call("experiments", "delete", "planes")
    call("experiments", "delete", "--run", runs[2])
    assert call("experiments", "gc").out.startswith("removed 0 experiments, 0 runs")
    planned = call("experiments", "gc", "--older-than", "0s", "--dry-run").out
    assert planned.startswith("would remove 1 experiments, 3 runs")
    removed = call("experiments", "gc", "--older-than", "0s", "--json").json
    assert sorted(removed["runs"]) == sorted(runs)
    assert stack.experiments.find_experiment("planes") is None


@pytest.mark.parametrize("arguments", [["delete"], ["delete", "e", "--run", "r"], ["restore"]])
def test_one_thing_is_deleted_at_a_time(arguments, project):
    from click.testing import CliRunner

    from madang.cli import cli

    done = CliRunner().invoke(cli, ["experiments", *arguments])
    assert done.exit_code == 2
    assert "give the NAME of an experiment, or --run RUN" in done.output


def test_an_age_is_a_number_and_a_unit(project):
    from click.testing import CliRunner

    from madang.cli import cli

    done = CliRunner().invoke(cli, ["experiments", "gc", "--older-than", "soon"])
    assert done.exit_code == 2
    assert "no duration such as 30d, 12h, 15m or 0s" in done.output


def test_a_version_shows_what_it_is_made_of(call, refused, stack, runs):
    rows = np.arange(30.0).reshape(10, 3)
    stack.registry.register(
        "late",
        LinearRegression().fit(rows, rows[:, 0]),
        example=rows[:3],
        run_id=runs[1],
        inputs=["dataset:flights@3", "view:delays@abc", "code:0123abcd"],
        evaluation={"rmse": 0.5},
        tags={"team": "x"},
    )
    stack.registry.set_alias("late", "champion", 1)
    stack.serving.deploy("eta", [Arm("late", 1)])
    text = call("models", "show", "late@champion").out.splitlines()
    assert text[0].startswith("model:late@1 (skops), registered ")
    for line in (
        "aliases: champion",
        f"run: {runs[1]} of flights",
        "code: code:0123abcd",
        "datasets: dataset:flights@3",
        "feature views: view:delays@abc",
        "inputs: input FP64 [-1, 3]",
        "evaluation: rmse 0.5",
        "serves at: eta",
        "tags: team x",
    ):
        assert line in text
    assert any(line.startswith("requirements: ") and "scikit-learn" in line for line in text)
    assert call("models", "show", "late", "--json").json["endpoints"] == ["eta"]
    assert "eta" in refused("models", "delete", "late")
    stack.serving.undeploy("eta")
    assert call("models", "delete", "late@1").out.startswith("late@1 is deleted")


def test_a_version_to_delete_is_a_number(project):
    from click.testing import CliRunner

    from madang.cli import cli

    done = CliRunner().invoke(cli, ["models", "delete", "late@champion"])
    assert done.exit_code == 2
    assert "'champion' is no number of a version, such as late@3" in done.output
