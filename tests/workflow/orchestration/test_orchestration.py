"""The default engine by its contract; on time, in order, within limits, with a driven clock."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from tests.workflow.orchestration.projects import all_events, finish, fire, made, manual, started

import madang
from madang.data.collection import events
from madang.testing.orchestration import OrchestrationContract
from madang.workflow.continuous_training import Kind, Missed, Trigger
from madang.workflow.continuous_training.bell import Bell
from madang.workflow.continuous_training.cron import next_time, times_after


@pytest.mark.parametrize("stack", ["sqlite", "postgresql"], indirect=True)
class TestBuiltinOrchestration(OrchestrationContract):
    @pytest.fixture
    def orchestration(self, stack):
        return stack.orchestration

    @pytest.fixture
    def training(self, stack):
        return stack.continuous_training


# -- runs ------------------------------------------------------------------------------------------


def test_an_event_becomes_a_run_with_its_reason(stack):
    manual(stack)
    (event,) = fire(stack, "k")
    finish(stack)
    (ended,) = all_events(stack)
    run = stack.pipelines.get(event.run_id)
    assert (ended.status, ended.attempts, run.status) == ("SUCCEEDED", 1, "SUCCEEDED")
    assert (run.reason, run.actor) == ("trigger a: of k", "trigger:a")
    assert made(stack) == ["k"]
    kinds = [line.kind for line in stack.ledger.lines(kind="trigger.*", newest_first=False)]
    assert kinds == ["trigger.define", "trigger.event", "trigger.start", "trigger.end"]
    assert [line.kind for line in stack.ledger.origin(f"run:{event.run_id}")][:2] == [
        "pipeline.start", "trigger.start",
    ]  # fmt: skip
    assert stack.ledger.verify().ok


def test_a_run_that_fails_says_why(stack):
    stack.continuous_training.define(Trigger("a", Kind.MANUAL, "broken", {"root": str(stack.root)}))
    stack.continuous_training.define(Trigger("b", Kind.MANUAL, "nothing"))
    fire(stack, "k")
    fire(stack, "k", name="b")
    finish(stack)
    errors = {e.trigger: (e.status, e.error, e.attempts) for e in all_events(stack)}
    assert errors["b"][0] == "FAILED"
    assert "could not be started: there is no pipeline 'nothing'" in errors["b"][1]
    assert errors["a"][0] == "FAILED"
    assert "division by zero" in errors["a"][1]
    assert (errors["a"][2], errors["b"][2]) == (1, 1)


def test_no_more_runs_at_once_than_the_limits_say(stack, gate):
    manual(stack, "a", "held", max_active=2, pool="big")
    manual(stack, "b", "held", max_active=5, pool="big")
    stack.orchestration.set_pool("big", 3)
    fire(stack, "a1", "a2", "a3", "a4", name="a")
    fire(stack, "b1", "b2", "b3", name="b")
    stack.orchestration.advance()
    stack.orchestration.advance()
    assert started(stack) == ["a1", "a2", "b1"]
    (pool,) = stack.orchestration.pools()
    assert (pool.slots, pool.used, pool.waiting) == (3, 3, 4)
    most = []
    for name in ("a1", "a2", "b1"):  # they are at the gate, or on their way to it
        finish(stack, until=lambda name=name: (stack.root / f"{name}.started").exists())
    gate()

    def done():
        most.append(len(started(stack)))
        return all(e.status == "SUCCEEDED" for e in all_events(stack))

    finish(stack, until=done)
    assert max(most) <= 3
    assert sorted(made(stack)) == ["a1", "a2", "a3", "a4", "b1", "b2", "b3"]


def test_a_rate_is_kept_and_nothing_is_lost(stack):
    now = [1_000_000_000_000_000]
    stack.continuous_training.clock = stack.orchestration.clock = lambda: now[0]
    manual(stack, max_active=10, max_runs=2, per_seconds=60.0)
    fire(stack, "1", "2", "3", "4", "5")
    for count in (2, 4, 5):
        ended = lambda count=count: (  # noqa: E731
            sum(e.status == "SUCCEEDED" for e in all_events(stack)) == count
        )
        finish(stack, until=ended)
        stack.orchestration.advance()
        assert len(made(stack)) == count
        assert started(stack) == []
        now[0] += 60_000_000
    assert sorted(made(stack)) == ["1", "2", "3", "4", "5"]


def test_a_debounced_burst_is_one_run_that_says_so(stack):
    now = [1_000_000_000_000_000]
    stack.continuous_training.clock = stack.orchestration.clock = lambda: now[0]
    manual(stack, debounce_seconds=5.0)
    first, *_ = fire(stack, "1", "2", "3")
    stack.orchestration.advance()
    assert started(stack) == []
    now[0] += 5_000_000
    finish(stack)
    assert made(stack) == ["1"]
    assert stack.pipelines.get(first.run_id).reason == "trigger a: of 1 (and 2 more)"


# -- schedules -------------------------------------------------------------------------------------


def microseconds(*parts):
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture
def clock(stack):
    """A clock that the test moves; nothing is started, only events are made."""
    now = [microseconds(2024, 1, 1)]
    stack.continuous_training.clock = stack.orchestration.clock = lambda: now[0]
    stack.orchestration.set_pool("default", 0)

    def move(*parts):
        now[0] = microseconds(*parts)
        stack.orchestration.advance()
        return sorted(e.key[:16] for e in all_events(stack))

    return move


def hourly(stack, **more):
    return stack.continuous_training.define(
        Trigger("h", Kind.SCHEDULE, "work", {"at": "${due}"}, cron="0 * * * *", **more)
    )


def test_a_schedule_makes_its_events_on_time(stack, clock):
    hourly(stack)
    assert clock(2024, 1, 1, 0, 59) == []
    assert clock(2024, 1, 1, 1) == ["2024-01-01T01:00"]
    assert clock(2024, 1, 1, 1, 30) == ["2024-01-01T01:00"]
    (event,) = all_events(stack)
    assert event.reason == "scheduled for 2024-01-01T01:00:00.000000Z"
    assert event.params == {"at": "2024-01-01T01:00:00.000000Z"}


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        (Missed.ALL, ["01", "02", "03"]),
        (Missed.LATEST, ["03"]),
        (Missed.SKIP, []),
    ],
)
def test_what_becomes_of_missed_times_is_said(stack, clock, missed, expected):
    hourly(stack, missed=missed)
    assert [key[11:13] for key in clock(2024, 1, 1, 3, 30)] == expected
    # On time again:
    assert [key[11:13] for key in clock(2024, 1, 1, 4)] == [*expected, "04"]


def test_long_absences_are_caught_up_whole(stack, clock):
    hourly(stack, missed=Missed.ALL)
    stack.continuous_training.define(
        Trigger("m", Kind.SCHEDULE, "work", cron="* * * * *", missed=Missed.LATEST)
    )
    clock(2024, 3, 1)
    keys = [e.key for e in all_events(stack) if e.trigger == "h"]
    assert len(keys) == len(set(keys)) == 60 * 24
    assert [e.key for e in all_events(stack) if e.trigger == "m"] == ["2024-03-01T00:00:00.000000Z"]


def test_a_clock_that_jumps_neither_doubles_nor_stops_a_schedule(stack, clock):
    hourly(stack, missed=Missed.ALL)
    assert len(clock(2024, 1, 1, 2)) == 2
    assert len(clock(2024, 1, 1, 0, 30)) == 2  # set back
    assert len(clock(2024, 1, 1, 2, 30)) == 2
    assert len(clock(2024, 1, 1, 3)) == 3
    far = clock(2025, 1, 1)  # a wrong clock, a year ahead
    assert len(far) == 366 * 24
    assert clock(2024, 1, 1, 4) == far  # set right again: these have their events
    assert clock(2024, 1, 2) == far


def test_times_while_it_was_off_are_not_missed(stack, clock):
    trigger = hourly(stack, missed=Missed.ALL, enabled=False)
    assert clock(2024, 1, 1, 5) == []
    hourly(stack, missed=Missed.ALL)
    assert clock(2024, 1, 1, 6, 30) == ["2024-01-01T06:00"]
    assert not trigger.enabled


def test_a_changed_parameter_leaves_the_next_time(stack, clock):
    hourly(stack, missed=Missed.ALL)
    stack.continuous_training.clock = lambda: microseconds(2024, 1, 1, 2)
    hourly(stack, missed=Missed.ALL, max_active=2)
    assert len(clock(2024, 1, 1, 2)) == 2


def test_a_backfill_runs_in_order_and_not_what_ran_already(stack):
    params = {"root": str(stack.root), "name": "${due}"}
    stack.continuous_training.define(Trigger("d", Kind.SCHEDULE, "work", params, cron="0 0 * * *"))
    first = datetime(2013, 1, 1, tzinfo=UTC)
    stack.orchestration.backfill("d", first + timedelta(days=1), first + timedelta(days=2))
    finish(stack)
    stack.orchestration.backfill("d", first, first + timedelta(days=3))
    finish(stack)
    assert [text[8:10] for text in made(stack)] == ["02", "01", "03"]


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *", "15 1-3 * * *", "0 */2 * * *"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_the_next_time_does_not_depend_on_where_one_asks_from(cron, zone):
    for start in ((2024, 3, 9, 12), (2024, 3, 30, 12), (2024, 4, 6), (2024, 10, 5), (2024, 10, 26),
                  (2024, 11, 2, 12)):  # fmt: skip
        begin = microseconds(*start)
        times = []
        for at in times_after(cron, zone, begin):
            if at > begin + 2 * 86_400_000_000:
                break
            times.append(at)
        assert times == sorted(set(times))
        for moment in range(begin, times[-1], 10 * 60_000_000):
            assert next_time(cron, zone, moment) == next(at for at in times if at > moment)


# -- dependencies, datasets, files, topics ---------------------------------------------------------


def test_pipelines_run_in_the_order_of_their_dependencies(stack):
    manual(stack)
    root = str(stack.root)
    chain = stack.continuous_training
    (stack.root / "pipelines" / "more.py").write_text(
        "from madang import pipeline\nfrom pipelines.all import note\n"
        "@pipeline\ndef second(root: str):\n    return note(root, 'second')\n"
        "@pipeline\ndef third(root: str):\n    return note(root, 'third')\n"
    )
    chain.define(Trigger("third", Kind.PIPELINE, "third", {"root": root}, after=("work", "second")))
    chain.define(Trigger("second", Kind.PIPELINE, "second", {"root": root}, after=("work",)))
    fire(stack, "k")
    finish(stack, until=lambda: made(stack)[-1:] == ["third"])
    finish(stack)
    assert made(stack) == ["k", "second", "third"]
    third = chain.events(trigger="third")[0]
    assert third.reason.startswith("after second (")
    assert sorted(third.data["runs"]) == ["second", "work"]


def test_what_depends_on_a_failure_does_not_run(stack):
    root = str(stack.root)
    training = stack.continuous_training
    training.define(Trigger("a", Kind.MANUAL, "broken", {"root": root}))
    training.define(Trigger("b", Kind.PIPELINE, "work", {"root": root}, after=("broken",)))
    fire(stack, "k")
    finish(stack)
    stack.orchestration.advance()
    assert [e.trigger for e in all_events(stack)] == ["a"]


@pytest.fixture
def quiet(stack):
    """Only events are made."""
    stack.orchestration.set_pool("default", 0)


def table():
    return pa.table({"x": [1]})


def test_a_new_version_of_a_dataset_is_an_event(stack, quiet):
    stack.storage.write("orders", table())
    training = stack.continuous_training
    training.define(Trigger("o", Kind.DATASET, "work", {"v": "${data.version}"}, source="ord*"))
    stack.orchestration.advance()
    assert all_events(stack) == []  # what was there before
    stack.storage.write("orders", table())
    stack.storage.write("other", table())
    stack.orchestration.advance()
    stack.orchestration.advance()
    (event,) = all_events(stack)
    assert event.key == f"dataset:orders@{event.data['version']}"
    with madang.ledger.acting_as("trigger:o"):  # what its own run writes
        stack.storage.write("orders", table())
    stack.orchestration.advance()
    assert len(all_events(stack)) == 1


def test_each_file_is_an_event_and_each_change_of_it(stack, quiet):
    folder = stack.root / "incoming"
    folder.mkdir()
    (folder / "a.csv").write_text("1")
    training = stack.continuous_training
    training.define(Trigger("f", Kind.FILE, "work", {"p": "${data.path}"}, source="incoming/*.csv"))
    stack.orchestration.advance()
    (folder / "b.csv").write_text("1")
    (folder / "c.txt").write_text("1")
    (folder / "d.csv").mkdir()
    stack.orchestration.advance()
    stack.orchestration.advance()
    assert sorted(e.params["p"] for e in all_events(stack)) == ["incoming/a.csv", "incoming/b.csv"]
    (folder / "a.csv").write_text("22")
    stack.orchestration.advance()
    assert len(all_events(stack)) == 3
    with madang.open(stack.root) as restarted:
        restarted.orchestration.advance()
        assert len(all_events(restarted)) == 3


def serving(stack, condition):
    """Serves until something holds, in a thread of its own."""
    stopping = threading.Event()
    thread = threading.Thread(target=stack.orchestration.serve, args=(stopping,))
    thread.start()
    bell = Bell(stack.home)
    try:
        while not condition():
            assert thread.is_alive()
            bell.wait(0.05)
    finally:
        stopping.set()
        thread.join()
        bell.close()


def test_each_message_of_a_topic_is_an_event(stack, quiet):
    stack.collection.create_topic("alerts")
    stack.collection.append("alerts", events([b'{"old": 1}']))
    stack.continuous_training.define(
        Trigger("t", Kind.TOPIC, "work", {"n": "${data.n}"}, source="alerts", where={"ok": True})
    )
    stack.collection.append(
        "alerts", events([b'{"n": 1, "ok": true}', b"nonsense", b'{"ok": true}', b'{"n": 2}'])
    )
    serving(stack, lambda: len(all_events(stack)) == 2)
    found = {e.data["offset"]: e for e in all_events(stack)}
    assert found[1].params == {"n": 1}
    assert found[1].reason == "topic:alerts/0@1"
    # One that the parameters can't take does not hold up the others, and is not lost.
    assert (found[3].status, "refer to ${data.n}" in found[3].error) == ("FAILED", True)
    stack.collection.append("alerts", events([b'{"n": 3, "ok": true}']))
    serving(stack, lambda: len(all_events(stack)) == 3)


def test_serving_goes_on_after_an_error(stack, quiet, monkeypatch, caplog):
    manual(stack)
    orchestration, failed = stack.orchestration, threading.Event()

    def fails():
        failed.set()
        raise OSError("the disk is away")

    monkeypatch.setattr(orchestration, "_parts", (fails, *orchestration._parts))
    stack.orchestration.set_pool("default", 1)
    fire(stack, "k")
    serving(stack, lambda: all_events(stack)[0].status == "SUCCEEDED")
    assert failed.is_set()
    assert "the disk is away" in caplog.text
