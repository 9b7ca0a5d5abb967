"""A topic's events through a window, exactly once: whoever is killed, and whenever."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests import faults

import madang
from madang.cli import cli
from madang.data.collection import events
from madang.data.features._checkpoint import CheckpointFile
from madang.data.features.windows import rolling, tumbling
from madang.data.validation import Check, Column, DataContract
from madang.data.validation.contract_file import contract_path, write_contract
from madang.errors import ConflictError, DataContractError, IntegrityError, NotFoundError
from madang.ledger import new_id

START = datetime(2026, 3, 8, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TIME = pa.timestamp("us", tz="UTC")
CONTRACT = DataContract(
    "flights",
    (Column("route", pa.string()), Column("arrived", TIME), Column("delay", pa.float64())),
)
DEFINITION = """
from datetime import timedelta
from madang.data.features.windows import tumbling

recent = tumbling(
    "recent",
    source="flights",
    entity=["route"],
    timestamp="arrived",
    aggregates={"n": (None, "count"), "mean": ("delay", "mean")},
    size=timedelta(minutes=10),
    lateness=timedelta(minutes=2),
)
"""
COMMON = {
    "source": "flights",
    "entity": ["route"],
    "timestamp": "arrived",
    "aggregates": {"n": (None, "count"), "mean": ("delay", "mean")},
}
RECENT = tumbling("recent", size=10 * MINUTE, lateness=2 * MINUTE, **COMMON)
ROLLING = rolling("rolled", period=10 * MINUTE, **COMMON)


def flight(minute, route="JFK-LAX", delay=1.0):
    moment = (START + minute * MINUTE).isoformat()
    return json.dumps({"route": route, "arrived": moment, "delay": delay}).encode()


def append(stack, values, *, minutes=None, partition=0):
    stamps = None if minutes is None else [START + m * MINUTE for m in minutes]
    batch = events(values, timestamps=stamps)
    column = pa.array([partition] * len(values), pa.int32())
    stack.collection.append("flights", batch.append_column("partition", column))


@pytest.fixture
def project(stack):
    prepare(stack)
    return stack


def prepare(stack, partitions=1):
    write_contract(CONTRACT, contract_path(stack.root, "flights"))
    (stack.root / "features").mkdir(exist_ok=True)
    (stack.root / "features" / "windows.py").write_text(DEFINITION)
    stack.collection.create_topic("flights", partitions=partitions)


def rows(stack, dataset):
    if dataset not in stack.storage.tables():
        return []
    return sorted(stack.storage.read(dataset).read_all().to_pylist(), key=str)


def seen(stack):
    """All that a stream leaves behind, without the order of rows."""
    online = stack.features.read(["recent"], [{"route": "JFK-LAX"}, {"route": "LGA-ORD"}])
    names = ("windows", "recent_late", "recent_quarantine")
    return {name: rows(stack, name) for name in names}, online


SOME = [
    *(flight(minute, "JFK-LAX", minute / 7) for minute in (1, 3, 11)),
    b"{torn",
    *(flight(minute, "LGA-ORD", minute / 3) for minute in (12, 14)),
    flight(2),  # too late
    *(flight(minute) for minute in (25, 26, 40)),
]


class TestStream:
    def test_rows_go_to_the_dataset_and_online(self, project):
        append(project, SOME)
        done = project.features.stream(RECENT, "flights", dataset="windows", batch_events=4)
        assert (done.events, done.rows, done.late, done.quarantined) == (10, 5, 1, 1)
        table = project.storage.read("windows").read_all()
        kept = [json.loads(v) for i, v in enumerate(SOME) if i not in (3, 6)]
        whole = pa.table(
            {
                "route": [row["route"] for row in kept],
                "arrived": pa.array([datetime.fromisoformat(r["arrived"]) for r in kept], TIME),
                "delay": [row["delay"] for row in kept],
            }
        )
        history = RECENT.function({"flights": whole})
        known = history.filter(
            pa.array([t <= START + 40 * MINUTE for t in history["arrived"].to_pylist()])
        )
        order = [("route", "ascending"), ("arrived", "ascending")]
        assert table.sort_by(order).to_pylist() == known.sort_by(order).to_pylist()
        (late,) = rows(project, "recent_late")
        assert (late["arrived"], late["_reasons"]) == (START + 2 * MINUTE, ["late"])
        (torn,) = rows(project, "recent_quarantine")
        assert (torn["value"], torn["offset"]) == (b"{torn", 3)
        (row,) = project.features.read([RECENT], [{"route": "JFK-LAX"}])
        assert row.values == {"n": 2, "mean": 1.0}
        assert row.timestamps == {"recent": START + 32 * MINUTE}

    def test_goes_on_where_it_was(self, project):
        for value in SOME:
            append(project, [value])
            project.features.stream(RECENT, "flights", dataset="windows")
        one_by_one = seen(project)
        assert project.features.stream(RECENT, "flights", dataset="windows").events == 0
        assert seen(project) == one_by_one
        view = replace(RECENT, name="again")
        project.features.stream(view, "flights", dataset="whole")
        assert rows(project, "whole") == one_by_one[0]["windows"]

    def test_rolling_windows_are_online_at_once(self, project):
        append(project, [flight(1, delay=3.0), flight(2, delay=5.0)])
        project.features.stream(ROLLING, "flights", dataset="windows")
        (row,) = project.features.read([ROLLING], [{"route": "JFK-LAX"}])
        assert row.values == {"n": 2, "mean": 4.0}
        assert [r["n"] for r in rows(project, "windows")] == [1]  # the last may still change
        append(project, [flight(2, delay=7.0)])
        project.features.stream(ROLLING, "flights", dataset="windows")
        (row,) = project.features.read([ROLLING], [{"route": "JFK-LAX"}])
        assert row.values == {"n": 3, "mean": 5.0}

    def test_windows_end_by_a_clock_when_nothing_comes(self, project):
        append(project, [flight(1), flight(2)])
        moment = START + 11 * MINUTE
        done = project.features.stream(ROLLING, "flights", dataset="windows", until=moment)
        assert (done.events, done.rows) == (2, 2)
        (row,) = project.features.read([ROLLING], [{"route": "JFK-LAX"}])
        assert row.values["n"] == 1  # one has left at this very moment: that row is still open
        again = project.features.stream(ROLLING, "flights", dataset="windows", until=moment)
        assert (again.events, again.rows) == (0, 0)
        later = START + 60 * MINUTE
        assert project.features.stream(ROLLING, "flights", dataset="windows", until=later).rows == 2
        (row,) = project.features.read([ROLLING], [{"route": "JFK-LAX"}])
        assert row.values == {"n": 0, "mean": None}
        append(project, [flight(30), flight(61)])
        done = project.features.stream(ROLLING, "flights", dataset="windows")
        assert (done.events, done.late) == (2, 1)
        assert [r["n"] for r in rows(project, "windows")].count(0) == 1

    def test_an_empty_topic_begins_nothing(self, project):
        for _ in range(2):
            done = project.features.stream(RECENT, "flights", until=START)
            assert done.events == done.rows == 0
        assert project.ledger.lines(kind="view.stream") == []

    def test_offline_only(self, project):
        append(project, SOME)
        project.features.stream(RECENT, "flights", dataset="windows", online=False)
        with pytest.raises(NotFoundError, match="recent"):
            project.features.read([RECENT], [{"route": "JFK-LAX"}])

    def test_partitions_are_read_in_step(self, stack):
        """Partition 0 alone would move the clock past all events of partition 1."""
        prepare(stack, partitions=2)
        early, late = list(range(0, 60, 2)), list(range(1, 60, 2))
        append(stack, [flight(m, "A") for m in early], minutes=early, partition=0)
        append(stack, [flight(m, "B") for m in late], minutes=late, partition=1)
        done = stack.features.stream(RECENT, "flights", dataset="windows", batch_events=7)
        assert (done.events, done.late) == (60, 0)
        assert {row["n"] for row in rows(stack, "windows")} == {5}
        assert len(rows(stack, "windows")) == 2 * 5

    def test_what_was_made_from_what_is_on_record(self, project):
        append(project, SOME[:3])
        append(project, [flight(30)])
        project.features.stream(RECENT, "flights", dataset="windows")
        (line,) = project.ledger.lines(kind="view.stream")
        ref = project.features.views()[0].ref
        assert line.inputs == (ref, "topic:flights")
        (made,) = project.ledger.origin("dataset:windows@0", depth=1)
        assert made.inputs == (ref, "topic:flights/0@0-3")
        writes = len(project.ledger.lines(kind="dataset.write"))
        project.features.stream(RECENT, "flights", dataset="windows")
        assert len(project.ledger.lines(kind="dataset.write")) == writes

    def test_events_that_were_not_kept_are_counted(self, project, monkeypatch):
        append(project, SOME[:3])
        project.features.stream(RECENT, "flights")
        append(project, SOME[4:6])
        known = project.collection.topic("flights")
        monkeypatch.setattr(
            project.collection, "topic", lambda name: replace(known, first_offsets=(4,))
        )
        done = project.features.stream(RECENT, "flights")
        assert (done.events, done.missed) == (1, 1)

    def test_from_the_command_line(self, project, monkeypatch):
        append(project, SOME)
        monkeypatch.chdir(project.root)
        command = ["features", "stream", "recent", "--topic", "flights", "--dataset", "windows"]
        found = CliRunner().invoke(cli, command)
        assert found.output == "10 events: 5 rows of recent, 1 late, 1 quarantined\n"
        found = CliRunner().invoke(cli, [*command, "--json"])
        assert json.loads(found.output)["events"] == 0

    def test_from_kafka(self, tmp_path, kafka_server):
        madang.init(tmp_path, name=f"k{new_id()[-12:]}")
        file = tmp_path / "madang.toml"
        file.write_text(f'{file.read_text()}\n[stack]\ncollection = "kafka://{kafka_server}"\n')
        with madang.open(tmp_path) as stack:
            prepare(stack, partitions=2)
            early, late = list(range(0, 60, 2)), list(range(1, 60, 2))
            append(stack, [flight(m, "A") for m in early], minutes=early, partition=0)
            append(stack, [flight(m, "B") for m in late], minutes=late, partition=1)
            for _ in range(2):
                stack.features.stream(RECENT, "flights", dataset="windows", batch_events=7)
            assert {row["n"] for row in rows(stack, "windows")} == {5}
            assert len(rows(stack, "windows")) == 2 * 5
            assert rows(stack, "recent_late") == []


class TestErrors:
    def test_no_topic_and_no_contract(self, project):
        with pytest.raises(NotFoundError, match="other"):
            project.features.stream(RECENT, "other")
        view = tumbling("t", size=MINUTE, **{**COMMON, "source": "trains"})
        with pytest.raises(NotFoundError, match="trains"):
            project.features.stream(view, "flights")
        assert not (project.home / "streams").exists()

    def test_a_check_that_blocks(self, project):
        check = Check("range", "delay", "block", {"max": 10.0})
        write_contract(
            replace(CONTRACT, checks=(check,)),
            contract_path(project.root, "flights"),
            overwrite=True,
        )
        append(project, [flight(1, delay=50.0)])
        with pytest.raises(DataContractError, match="block: range of delay; nothing of this batch"):
            project.features.stream(RECENT, "flights")

    def test_another_definition_or_dataset(self, project):
        append(project, SOME)
        project.features.stream(RECENT, "flights", dataset="windows")
        with pytest.raises(
            ConflictError, match="begun with the dataset windows and is now asked fo"
        ):
            project.features.stream(RECENT, "flights", dataset="other")
        other = tumbling("recent", size=MINUTE, **COMMON)
        with pytest.raises(ConflictError, match="was begun with the view view:recent@"):
            project.features.stream(other, "flights", dataset="windows")

    def test_one_process_at_a_time(self, project):
        file = CheckpointFile(project.home / "streams" / "recent" / "flights")
        with file.alone(), pytest.raises(ConflictError, match="another process runs the stream of"):
            project.features.stream(RECENT, "flights")

    def test_a_topic_that_was_made_anew(self, project):
        append(project, SOME)
        project.features.stream(RECENT, "flights")
        project.collection.delete_topic("flights")
        project.collection.create_topic("flights")
        with pytest.raises(ConflictError, match="up to offset 10, and the topic ends at 0: it was"):
            project.features.stream(RECENT, "flights")

    def test_a_damaged_checkpoint(self, project):
        append(project, SOME)
        project.features.stream(RECENT, "flights")
        path = project.home / "streams" / "recent" / "flights" / "checkpoint"
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
        with pytest.raises(
            IntegrityError, match="checkpoint is damaged; delete its folder to begi"
        ):
            project.features.stream(RECENT, "flights")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    madang.init(folder, name="test")
    with madang.open(folder) as stack:
        prepare(stack)
        append(stack, SOME)
        stack.features.load_definitions()
    whole = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(folder, whole)
    with madang.open(whole) as stack:
        stack.features.load_definitions()
        stack.features.stream("recent", "flights", dataset="windows", batch_events=4)
        return folder, seen(stack)


class TestFaults:
    """Killed before each sync and rename, one by one, the stream ends as without the fault."""

    @pytest.fixture
    def program(self, template, tmp_path, monkeypatch, request):
        """The program, its project, what makes the project fresh, and what is seen without a fault."""
        path = [str(request.config.rootpath), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        folder, expected = template
        project = tmp_path / "project"

        def reset():
            shutil.rmtree(project, ignore_errors=True)
            shutil.copytree(folder, project)

        command = [sys.executable, "-m", "tests.data.features.stream_program", project, "--armed"]
        return command, project, reset, expected

    @staticmethod
    def recovered(project, batch_events):
        """What is seen after the stream went on, in batches of any size."""
        with madang.open(project) as stack:
            stack.features.load_definitions()
            stack.features.stream("recent", "flights", dataset="windows", batch_events=batch_events)
            return seen(stack)

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("part", ["streams", "storage", "online"])
    def test_killed_anywhere(self, program, part):
        command, project, reset, expected = program
        under = project / ".madang" / part
        for fault in faults.each("kill", command, under=under, reset=reset, armed=False):
            fault.run()
            assert self.recovered(project, 3) == expected, fault.what

    def test_a_full_disk(self, program):
        command, project, reset, expected = program
        under = project / ".madang" / "streams"
        for fault in faults.each("full", command, under=under, reset=reset, armed=False):
            done = fault.run()
            assert done.returncode == 1
            assert "No space left on device" in done.stderr
            assert self.recovered(project, 4) == expected, fault.what
