"""A view's history in parts: the same as at once, however often it is killed and repeated."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests import faults
from tests.data.features.backfill_program import START, backfill

import madang
from madang.cli import cli
from madang.data.features import FeatureView
from madang.data.features._backfill import BACKFILL
from madang.data.features.windows import hopping, rolling, session, tumbling
from madang.errors import ConflictError, InvalidInputError

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TIME = pa.timestamp("us", tz="UTC")
COMMON = {
    "source": "flights",
    "entity": ["route"],
    "timestamp": "arrived",
    "aggregates": {"n": (None, "count"), "mean": ("delay", "mean")},
}
SQL = FeatureView(
    "plain",
    ("route",),
    "arrived",
    ("delay",),
    sql="SELECT * FROM flights ORDER BY arrived -- all\n;",
)
FUNCTION = FeatureView(
    "computed",
    ("route",),
    "arrived",
    ("delay",),
    function=lambda tables: tables["flights"],
    sources=("flights",),
)
VIEWS = [
    SQL,
    FUNCTION,
    rolling("rolled", period=5 * HOUR, **COMMON),
    rolling("rolled_late", period=5 * HOUR, lateness=HOUR, **COMMON),
    tumbling("tumbled", size=7 * HOUR, **COMMON),
    hopping("hopped", size=7 * HOUR, step=2 * HOUR, lateness=HOUR, **COMMON),
    session("visits", gap=4 * HOUR, **COMMON),
]


def flights(count=300, kind=TIME):
    random = np.random.default_rng(4)
    hours = random.integers(0, 6 * 24 * 60, count)
    times = pa.array([START + int(minute) * timedelta(minutes=1) for minute in hours], TIME)
    return pa.table(
        {
            "route": pa.array([f"r{key}" for key in random.integers(0, 12, count)]),
            "arrived": times.cast(kind),
            "delay": random.standard_normal(count),
        }
    )


@pytest.fixture
def features(stack):
    stack.storage.write("flights", flights())
    return stack.features


def rows(stack, dataset):
    return sorted(stack.storage.read(dataset).read_all().to_pylist(), key=str)


RANGE = {"start": START + DAY, "end": START + 5 * DAY + HOUR / 2}


def expected(stack, view):
    table = stack.features.compute(view).to_pylist()
    inside = [r for r in table if RANGE["start"] <= r["arrived"] < RANGE["end"]]
    return sorted(inside, key=str)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("part", [5 * HOUR, 2 * DAY, 30 * DAY])
def test_parts_are_together_what_the_view_gives(stack, features, view, part):
    done = features.backfill(view, "history", part=part, **RANGE)
    assert rows(stack, "history") == expected(stack, view)
    assert done.rows == len(rows(stack, "history"))
    assert done.parts == -((RANGE["start"] - RANGE["end"]) // part)
    assert features.backfill(view, "history", part=part, **RANGE).rows == 0
    assert done.versions == {"flights": 0}


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("ms", "America/New_York")])
@pytest.mark.parametrize("view", [SQL, VIEWS[2]], ids=lambda view: view.name)
def test_times_of_every_kind(stack, view, kind):
    stack.storage.write("flights", flights(kind=kind))
    stack.features.backfill(view, "history", part=DAY, **RANGE)
    times = stack.features.compute(view)["arrived"].cast(TIME).to_pylist()
    inside = [t for t in times if RANGE["start"] <= t < RANGE["end"]]
    found = stack.storage.read("history").read_all()["arrived"].cast(TIME).to_pylist()
    assert sorted(found) == sorted(inside)


def test_dates(stack):
    days = [date(2026, 3, 8) + number * DAY for number in range(6)]
    stack.storage.write(
        "flights", pa.table({"route": ["a"] * 6, "arrived": days, "delay": range(6)})
    )
    stack.features.backfill(SQL, "history", part=DAY, **RANGE)
    assert {row["delay"] for row in rows(stack, "history")} == {1, 2, 3, 4, 5}


def test_goes_on_after_it_was_killed_with_the_versions_that_it_began_with(
    stack, features, monkeypatch
):
    """Between two parts the source changes; the history stays of one piece."""
    before = expected(stack, VIEWS[2])
    write, written = stack.storage.write, []

    def killed(*args, **named):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*args, **named))

    monkeypatch.setattr(stack.storage, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        features.backfill(VIEWS[2], "history", part=DAY, **RANGE)
    monkeypatch.undo()
    stack.storage.write("flights", flights(50))
    done = features.backfill(VIEWS[2], "history", part=DAY, **RANGE)
    assert (done.parts, done.versions) == (3, {"flights": 0})
    assert rows(stack, "history") == before
    with pytest.raises(
        ConflictError, match=r"has been backfilled from \{'flights': 0\}, and is now"
    ):
        features.backfill(VIEWS[2], "history", part=DAY, versions={"flights": 1}, **RANGE)


DEFINITION = """
from datetime import timedelta
from madang.data.features.windows import rolling

recent = rolling(
    "recent",
    source="flights",
    entity=["route"],
    timestamp="arrived",
    aggregates={"n": (None, "count"), "mean": ("delay", "mean")},
    period=timedelta(hours=5),
)
"""


@pytest.mark.timeout(600)
def test_killed_before_any_commit_it_ends_as_without_the_fault(tmp_path, monkeypatch, request):
    path = [str(request.config.rootpath), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    template, project = tmp_path / "template", tmp_path / "project"
    madang.init(template, name="test")
    (template / "features" / "recent.py").write_text(DEFINITION)
    with madang.open(template) as stack:
        stack.storage.write("flights", flights())
        stack.features.load_definitions()
        history = stack.features.compute("recent").to_pylist()
    end = START + 6 * DAY
    expected = sorted((row for row in history if START <= row["arrived"] < end), key=str)

    def reset():
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(template, project)

    command = [sys.executable, "-m", "tests.data.features.backfill_program", project, "--armed"]
    for fault in faults.each(
        "kill",
        command,
        under=project / ".madang" / "storage",
        reset=reset,
        calls=("rename", "link"),
        armed=False,
    ):
        fault.run()
        with madang.open(project) as stack:
            stack.features.load_definitions()
            backfill(stack.features)
            assert rows(stack, "history") == expected, fault.what


def test_is_on_record(stack, features):
    features.backfill(SQL, "history", **RANGE)
    (line,) = stack.ledger.origin("dataset:history@0", depth=1)
    assert line.inputs == ("dataset:flights@0", features.views()[0].ref)
    (version,) = stack.storage.versions("history")
    assert json.loads(version.metadata[BACKFILL])["versions"] == {"flights": 0}


def test_a_training_set_from_the_history_equals_one_from_the_view(stack, features):
    view = VIEWS[2]
    features.backfill(view, "history", start=START - DAY, end=START + 30 * DAY, part=DAY)
    kept = FeatureView("kept", ("route",), "arrived", ("n", "mean"), sql="SELECT * FROM history")
    labels = pa.table(
        {
            "route": ["r1", "r2", "r3"] * 40,
            "timestamp": pa.array([START + number * HOUR for number in range(120)], TIME),
        }
    )
    ours = features.training_set(labels, [kept]).to_pylist()
    assert ours == features.training_set(labels, [view]).to_pylist()


def test_from_the_command_line(stack, features, monkeypatch):
    features.register(SQL)
    monkeypatch.chdir(stack.root)
    command = "features backfill plain history --start 2026-03-09 --end 2026-03-11 --part-days 0.5"
    found = CliRunner().invoke(cli, command.split())
    count = len(rows(stack, "history"))
    assert found.output == f"{count} rows of plain in 4 parts are in dataset history\n"
    again = CliRunner().invoke(cli, [*command.split(), "--json"])
    assert json.loads(again.output) == {"rows": 0, "parts": 0, "versions": {"flights": 0}}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"start": START, "end": START}, "a backfill goes from start to a later end"),
        (
            {"start": START, "end": START + DAY, "part": timedelta(0)},
            "in parts longer than nothing",
        ),
        (
            {"start": datetime(2026, 1, 1), "end": START},
            "start=2026-01-01 00:00:00 has no time zone",
        ),
    ],
)
def test_ranges_that_can_not_be(features, how, message):
    with pytest.raises(InvalidInputError, match=message):
        features.backfill(SQL, "history", **how)
