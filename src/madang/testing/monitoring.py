"""What every monitoring engine must do.

Override the fixture `stack` with an open project whose monitoring engine is under test. The suite
needs no inference worker: it appends to the prediction log itself what a worker would.
"""

from __future__ import annotations

import functools
import json
import random as randomness
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from madang.data.collection.contract import events
from madang.deployment.monitoring import (
    SAMPLE_SCHEMA,
    Baseline,
    Monitor,
    MonitorReport,
    Recorded,
    Sensitivity,
)
from madang.deployment.serving import Arm
from madang.errors import InvalidInputError, NotFoundError, SchemaMismatchError

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = START + 100 * DAY

SURE = Sensitivity(false_alarms=1e-4)
"""So that no seed of the suite meets a false alarm."""


@functools.cache
def model() -> Any:
    """A logistic regression of two numbers, whose probabilities are right for `labelled`."""
    from sklearn.linear_model import LogisticRegression

    rows, truth = labelled(np.random.default_rng(0), 20_000)
    return LogisticRegression().fit(rows, truth)


def labelled(random: np.random.Generator, rows: int, shift: float = 0.0) -> tuple[Any, Any]:
    """Rows of two numbers, and what comes about."""
    values = random.normal([shift, 0], 1, (rows, 2))
    return values, (random.random(rows) < 1 / (1 + np.exp(-values.sum(axis=1)))).astype(int)


def prepare(stack: Any, *, serve: bool = True) -> Any:
    """Registers and serves the model `delay`, made from the dataset `training`; returns it."""
    import polars as pl

    fitted = model()
    rows, _ = labelled(np.random.default_rng(1), 20_000)
    days = [START - timedelta(days=1 + i % 20) for i in range(len(rows))]
    frame = pl.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "day": days})
    stack.storage.write("training", frame)
    stack.registry.register(
        "delay", _named(fitted), example=frame.head(4).select("a", "b"),
        inputs=["dataset:training@0"],
    )  # fmt: skip
    if serve:
        stack.serving.deploy("delay", [Arm("delay", 1)])
    return fitted


def _named(fitted: Any) -> Any:
    fitted.feature_names_in_ = np.array(["a", "b"], object)
    return fitted


def logged(
    fitted: Any, rows: Any, day: float, *, prefix: str = "", version: int = 1
) -> list[bytes]:
    """The log's events of predictions, one second after another, with the ids `PREFIX/PLACE`."""
    del_names = fitted.__dict__.pop("feature_names_in_", None)  # NumPy rows have no names
    chances = fitted.predict_proba(rows)
    if del_names is not None:
        fitted.feature_names_in_ = del_names
    found = []
    for place, (row, chance) in enumerate(zip(rows.tolist(), chances.tolist(), strict=True)):
        time = START + timedelta(days=day, seconds=place)
        values = list(row)
        event = {
            "id": f"{prefix or day}/{place}", "endpoint": "delay", "model": "delay",
            "version": version, "time": time.isoformat().replace("+00:00", "Z"),
            "latency_seconds": 0.001,
            "inputs": [
                {"name": "input", "datatype": "FP64", "shape": [1, len(row)], "data": values}
            ],
            "outputs": [
                {"name": "predict", "datatype": "INT64", "shape": [1],
                 "data": [int(chance[1] > 0.5)]},
                {"name": "predict_proba", "datatype": "FP64", "shape": [1, 2], "data": chance},
            ],
        }  # fmt: skip
        found.append(json.dumps(event).encode())
    return found


def send(stack: Any, values: Sequence[bytes]) -> None:
    """Appends events to the log."""
    stack.collection.append("predictions.delay", events(values))


def outcomes(ids: Any, values: Any, **columns: Any) -> pa.Table:
    """Outcomes as a table."""
    return pa.table({"id": ids, "value": values, **columns})


def whole(stack: Any, name: str = "delay", days: int = 100) -> MonitorReport:
    """The report of all days."""
    found: MonitorReport = stack.monitoring.report(name, START, START + days * DAY)
    return found


class MonitoringContract:
    """Tests over the fixture `stack`."""

    @pytest.fixture
    def fitted(self, stack: Any) -> Any:
        """The served model, and a monitor `delay` of its endpoint."""
        fitted = prepare(stack)
        stack.monitoring.configure(Monitor("delay", "delay", sensitivity=SURE))
        return fitted

    # -- configuration ----------------------------------------------------------------------------

    def test_a_monitor_compares_with_what_the_served_model_was_made_from(
        self, stack: Any, fitted: Any
    ) -> None:
        made = stack.monitoring.get("delay")
        assert made.baseline == Baseline(model="delay@1")
        assert made.columns == ("a", "b")
        assert stack.monitoring.monitors() == [made]
        line = stack.ledger.lines(kind="monitor.configure")[0]
        assert line.inputs == ("endpoint:delay", "dataset:training@0")
        assert line.data["rows"] == 20_000
        found = whole(stack)
        assert [column.column for column in found.columns] == ["a", "b", "prediction", "score"]
        assert found.rows == found.predictions == 0
        assert found.quality is None

    def test_what_is_not_there_is_named(self, stack: Any, fitted: Any) -> None:
        monitoring = stack.monitoring
        with pytest.raises(NotFoundError, match="no monitor 'other'; it has: delay"):
            monitoring.get("other")
        for ask in (
            lambda: monitoring.run("other"),
            lambda: monitoring.record("other", outcomes(["x"], [1])),
            lambda: monitoring.samples("other"),
            lambda: monitoring.findings("other"),
            lambda: monitoring.forget("other", START),
            lambda: monitoring.report("other", START, LATER),
        ):
            with pytest.raises(NotFoundError, match="no monitor 'other'"):
                ask()
        with pytest.raises(NotFoundError, match="no endpoint 'nowhere'"):
            monitoring.configure(Monitor("delay", "nowhere"))
        assert monitoring.get("delay").endpoint == "delay"

    @pytest.mark.parametrize(
        ("monitor", "message"),
        [
            (Monitor("a b", "delay"), "a monitor's name has letters"),
            (Monitor("x", "delay", window_seconds=0), "window_seconds is 1 to 366 days"),
            (Monitor("x", "delay", quality={"colour": 1.0}), "no direction of 'colour'"),
            (Monitor("x", "delay", max_skew=2.0), "max_skew is a share"),
            (Monitor("x", "delay", Baseline()), "a baseline is one of: model, dataset, or"),
            (Monitor("x", "delay", Baseline(start=LATER, end=START)), "start is before its end"),
            (
                Monitor("x", "delay", Baseline(dataset="training", timestamp="day"),
                        window_seconds=30 * 86_400),
                "fewer than 8 don't say how windows vary",
            ),
        ],
    )  # fmt: skip
    def test_what_can_not_be_meant_is_refused_and_nothing_is_made(
        self, stack: Any, fitted: Any, monitor: Monitor, message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            stack.monitoring.configure(monitor)
        assert [one.name for one in stack.monitoring.monitors()] == ["delay"]

    def test_a_column_that_the_baseline_lacks_is_named(self, stack: Any, fitted: Any) -> None:
        with pytest.raises(SchemaMismatchError, match="training@0 lacks colour"):
            stack.monitoring.configure(Monitor("x", "delay", columns=("a", "colour")))
        with pytest.raises(SchemaMismatchError, match="has no column 'colour'"):
            stack.monitoring.configure(
                Monitor("x", "delay", Baseline(dataset="training", timestamp="colour"))
            )

    def test_deleting_removes_everything_and_repeating_it_is_safe(
        self, stack: Any, fitted: Any
    ) -> None:
        send(stack, logged(fitted, labelled(np.random.default_rng(2), 10)[0], 0))
        stack.monitoring.run("delay")
        stack.monitoring.record("delay", outcomes(["0/1"], [1]))
        stack.monitoring.delete("delay")
        stack.monitoring.delete("delay")
        assert stack.monitoring.monitors() == []
        assert len(stack.ledger.lines(kind="monitor.delete")) == 1
        stack.monitoring.configure(Monitor("delay", "delay"))
        assert stack.monitoring.record("delay", outcomes(["0/1"], [1])) == Recorded(new=1)

    # -- counting ---------------------------------------------------------------------------------

    def test_each_event_counts_once(self, stack: Any, fitted: Any) -> None:
        sent = logged(fitted, labelled(np.random.default_rng(2), 700)[0], 0)
        send(stack, sent)
        send(stack, sent[:100])  # the log may hold an event twice
        send(stack, [b"no prediction", b"{}"])
        first = stack.monitoring.run("delay", until=LATER)
        assert (first.events, first.repeated, first.unreadable) == (700, 100, 2)
        assert first.judged == (START,)
        again = stack.monitoring.run("delay", until=LATER)
        assert (again.events, again.judged, again.findings) == (0, (), ())
        found = whole(stack)
        assert found.rows == found.predictions == 700

    def test_runs_at_once_count_once(self, stack: Any, fitted: Any) -> None:
        rows = labelled(np.random.default_rng(2), 6_000)[0]
        send(stack, logged(fitted, rows, 0))
        done: list[Any] = []

        def run() -> None:
            done.append(stack.monitoring.run("delay", until=LATER))

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(one.events for one in done) == 6_000
        assert len(done) == 3
        assert whole(stack).rows == 6_000

    def test_a_day_a_week_and_a_month_come_from_the_same_counts(
        self, stack: Any, fitted: Any
    ) -> None:
        random = np.random.default_rng(3)
        days = {day: labelled(random, 600)[0] for day in (0, 1, 2, 8)}
        for day in (8, 0, 2, 1):  # in no order
            send(stack, logged(fitted, days[day], day))
        stack.monitoring.run("delay", until=LATER)
        week = stack.monitoring.report("delay", START, START + 7 * DAY)
        assert week.rows == 1_800
        rows = np.concatenate([days[day] for day in (0, 1, 2)])
        column = week.columns[0]
        assert column.mean is not None
        assert column.mean[1] == pytest.approx(rows[:, 0].mean())
        with pytest.raises(InvalidInputError, match="a report is of whole windows of 86400 s"):
            stack.monitoring.report("delay", START, START + timedelta(hours=5))
        with pytest.raises(InvalidInputError, match="whole windows"):
            stack.monitoring.report("delay", START + DAY, START)

    def test_clocks_that_jump_disturb_no_other_window(self, stack: Any, fitted: Any) -> None:
        random = np.random.default_rng(4)
        send(stack, logged(fitted, labelled(random, 600)[0], 0))
        before = logged(fitted, labelled(random, 5)[0], -20_000)
        after = logged(fitted, labelled(random, 5)[0], 1_000_000)
        send(stack, [*after, *before])
        send(stack, logged(fitted, labelled(random, 600)[0], 1))
        found = stack.monitoring.run("delay", until=LATER)
        assert found.events == 1_210
        assert found.judged == (START - 20_000 * DAY, START, START + DAY)
        assert stack.monitoring.report("delay", START, START + DAY).rows == 600
        # A window that was not to end yet is judged when it has.
        assert len(stack.monitoring.run("delay", until=START + 1_000_010 * DAY).judged) == 1

    def test_a_window_waits_for_its_end_and_its_grace(self, stack: Any, fitted: Any) -> None:
        send(stack, logged(fitted, labelled(np.random.default_rng(2), 600)[0], 0))
        end = START + DAY + timedelta(hours=1)
        assert stack.monitoring.run("delay", until=end - timedelta(microseconds=1)).judged == ()
        assert stack.monitoring.run("delay", until=end).judged == (START,)
        with pytest.raises(InvalidInputError, match="has no time zone"):
            stack.monitoring.run("delay", until=datetime(2026, 1, 1))  # noqa: DTZ001 - what is tested

    # -- drift ------------------------------------------------------------------------------------

    def test_a_shift_is_found_once_and_a_quiet_day_is_not(self, stack: Any, fitted: Any) -> None:
        random = np.random.default_rng(5)
        send(stack, logged(fitted, labelled(random, 3_000)[0], 0))
        send(stack, logged(fitted, labelled(random, 3_000, shift=1.0)[0], 1))
        found = stack.monitoring.run("delay", until=LATER).findings
        assert {(one.start, one.kind, one.subject) for one in found} == {
            (START + DAY, "distribution", name) for name in ("a", "prediction", "score")
        }
        assert "the distribution of a has moved: PSI" in found[0].message
        assert len(stack.ledger.lines(kind="monitor.finding")) == 3
        send(stack, logged(fitted, labelled(random, 10, shift=1.0)[0], 1.5))  # it comes late
        again = stack.monitoring.run("delay", until=LATER)
        assert (again.judged, again.findings) == ((START + DAY,), ())
        assert len(stack.monitoring.findings("delay")) == 3
        assert stack.monitoring.findings(limit=1)[0].end == START + 2 * DAY

    def test_missing_values_are_found(self, stack: Any, fitted: Any) -> None:
        rows = labelled(np.random.default_rng(5), 2_000)[0]
        values = logged(fitted, rows, 0)
        broken = [
            json.dumps(
                (event := json.loads(value))
                | {"inputs": [event["inputs"][0] | {"data": [None, event["inputs"][0]["data"][1]]}]}
            ).encode()
            if place % 10 == 0
            else value
            for place, value in enumerate(values)
        ]
        send(stack, broken)
        found = stack.monitoring.run("delay", until=LATER).findings
        assert [(one.kind, one.subject) for one in found] == [("missing", "a")]
        assert found[0].value == pytest.approx(0.1)

    def test_a_baseline_of_the_log_is_one_of_windows(self, stack: Any, fitted: Any) -> None:
        random = np.random.default_rng(6)
        for day in range(10):
            send(stack, logged(fitted, labelled(random, 600)[0], day))
        baseline = Baseline(start=START, end=START + 9 * DAY)
        made = stack.monitoring.configure(Monitor("own", "delay", baseline))
        assert made.columns == ("a", "b")
        stack.monitoring.run("own", until=LATER)
        found = stack.monitoring.report("own", START + 9 * DAY, START + 10 * DAY)
        assert found.basis == "windows vary as the reference's 9 did"
        assert found.columns[0].values == (5_400, 600)
        with pytest.raises(NotFoundError, match="the log of endpoint 'delay' holds no prediction"):
            stack.monitoring.configure(
                Monitor("own", "delay", Baseline(start=START - DAY, end=START))
            )
        dated = Monitor("dated", "delay", Baseline(dataset="training@0", timestamp="day"))
        stack.monitoring.configure(dated)
        assert stack.monitoring.report("dated", START, START + DAY).basis.endswith("20 did")

    def test_another_baseline_counts_the_log_again_and_keeps_outcomes(
        self, stack: Any, fitted: Any
    ) -> None:
        random = np.random.default_rng(7)
        rows, truth = labelled(random, 600)
        send(stack, logged(fitted, rows, 0))
        stack.monitoring.run("delay", until=LATER)
        stack.monitoring.record("delay", outcomes([f"0/{i}" for i in range(600)], truth))
        stack.storage.write("other", pa.table({"a": random.normal(5, 1, 900)}))
        stack.monitoring.configure(
            Monitor("delay", "delay", Baseline(dataset="other"), columns=("a",), sensitivity=SURE)
        )
        found = stack.monitoring.run("delay", until=LATER)
        assert found.events == 600
        assert {one.subject for one in found.findings} == {"a"}
        report = whole(stack)
        assert (report.rows, report.outcomes) == (600, 600)

    # -- outcomes ---------------------------------------------------------------------------------

    def test_outcomes_late_doubled_and_in_any_order_are_a_join(
        self, stack: Any, fitted: Any
    ) -> None:
        random = np.random.default_rng(8)
        rows, truth = labelled(random, 400)
        values = logged(fitted, rows, 0)
        chosen = randomness.Random(8)
        sent: list[tuple[str, int, int]] = []
        for place in range(300):
            corrections = chosen.choice([1, 1, 2, 3])
            sent += [
                (f"0/{place}", int(truth[place]) ^ (one < corrections - 1), one)
                for one in range(corrections)
            ]
        sent += [chosen.choice(sent) for _ in range(200)]
        sent += [("unknown", 1, 0)] * 3
        chosen.shuffle(sent)
        half = len(sent) // 2
        for part, event in ((sent[:half], values[:200]), (sent[half:], values[200:])):
            for some in (part[:10], part[10:]):
                times = [START + timedelta(days=9, seconds=one[2]) for one in some]
                stack.monitoring.record(
                    "delay",
                    outcomes([one[0] for one in some], [one[1] for one in some], time=times),
                )
            send(stack, event)
            stack.monitoring.run("delay", until=LATER)
        found = whole(stack)
        assert (found.predictions, found.outcomes) == (400, 300)
        assert found.coverage == 0.75
        from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

        chances = _chances(fitted, rows[:300])
        assert found.quality is not None
        metrics = found.quality.metrics
        assert metrics["auc"] == pytest.approx(roc_auc_score(truth[:300], chances))
        assert metrics["log_loss"] == pytest.approx(log_loss(truth[:300], chances))
        assert metrics["accuracy"] == pytest.approx(accuracy_score(truth[:300], chances > 0.5))
        low, high = found.quality.intervals["auc"]
        assert low < metrics["auc"] < high

    def test_what_becomes_of_outcomes_is_told(self, stack: Any, fitted: Any) -> None:
        record = stack.monitoring.record
        at = lambda day: [START + day * DAY]  # noqa: E731 - one line, used here alone
        assert record("delay", outcomes(["x"], [1], time=at(2))) == Recorded(new=1)
        assert record("delay", outcomes(["x"], [1], time=at(2))) == Recorded(repeated=1)
        assert record("delay", outcomes(["x"], [0], time=at(1))) == Recorded(repeated=1)
        assert record("delay", outcomes(["x"], [0], time=at(3))) == Recorded(corrected=1)
        assert record("delay", outcomes(["x"], [0], row=[1], time=at(0))) == Recorded(new=1)
        nothing = outcomes(
            pa.array([], pa.string()), pa.array([], pa.int64()), row=pa.array([], pa.int64())
        )
        assert record("delay", nothing) == Recorded()
        twice = outcomes(["y", "y"], [0, 1], time=["2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"])
        assert record("delay", twice) == Recorded(new=1, corrected=1)

    def test_what_is_known_of_one_prediction(self, stack: Any, fitted: Any) -> None:
        stack.monitoring.configure(Monitor("delay", "delay"))
        assert stack.monitoring.outcomes_of("d0-1") == []
        stack.monitoring.record("delay", outcomes(["d0-1", "d0-2"], [True, False]))
        (found,) = stack.monitoring.outcomes_of("d0-1")
        assert (found.monitor, found.row, found.value) == ("delay", 0, True)
        stack.monitoring.record("delay", outcomes(["d0-1"], [None]))
        assert [one.value for one in stack.monitoring.outcomes_of("d0-1")] == [None]

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (pa.table({"id": ["x"]}), "outcomes need the columns id and value"),
            (outcomes(["x"], [[1]]), "a number, a text or a boolean, not list"),
            (outcomes([None], [1]), "an outcome has an id"),
            (outcomes(["x"], [1], row=[-1]), "a row of 0 or more"),
            (outcomes(["x"], [1], time=["today"]), "a text such as 2026-01-31T12:00:00Z"),
            (outcomes(["x"], [1], time=[7]), "'time' must hold timestamps"),
        ],
    )
    def test_a_table_that_holds_no_outcomes_is_refused(
        self, stack: Any, fitted: Any, table: pa.Table, message: str
    ) -> None:
        with pytest.raises(SchemaMismatchError, match=message):
            stack.monitoring.record("delay", table)

    def test_outcomes_come_by_a_topic_as_well(self, stack: Any, fitted: Any) -> None:
        rows, truth = labelled(np.random.default_rng(9), 100)
        stack.collection.create_topic("late")
        stack.monitoring.configure(Monitor("delay", "delay", outcomes="late", sensitivity=SURE))
        values = [
            json.dumps({"id": f"0/{i}", "value": bool(one)}).encode()
            for i, one in enumerate(truth[:60])
        ]
        stack.collection.append("late", events([*values, b"nothing", *values]))
        send(stack, logged(fitted, rows, 0))
        found = stack.monitoring.run("delay", until=LATER)
        assert (found.outcomes.new, found.unreadable) == (60, 1)
        assert found.outcomes.corrected + found.outcomes.repeated == 60
        assert whole(stack).outcomes == 60

    def test_outcomes_that_mean_nothing_are_counted_and_withdrawn_ones_are_none(
        self, stack: Any, fitted: Any
    ) -> None:
        rows, truth = labelled(np.random.default_rng(9), 100)
        send(stack, logged(fitted, rows, 0))
        ids = [f"0/{i}" for i in range(100)]
        stack.monitoring.record("delay", outcomes(ids, truth, time=[START] * 100))
        stack.monitoring.record("delay", outcomes(ids[:5], ["late"] * 5, time=[LATER] * 5))
        gone = pa.array([None] * 5, pa.int64())
        stack.monitoring.record("delay", outcomes(ids[5:10], gone, time=[LATER] * 5))
        stack.monitoring.run("delay", until=LATER)
        found = whole(stack)
        assert (found.predictions, found.outcomes, found.unusable) == (100, 90, 5)

    def test_an_estimate_is_called_one_and_ends_with_the_outcomes(
        self, stack: Any, fitted: Any
    ) -> None:
        rows, truth = labelled(np.random.default_rng(10), 3_000)
        send(stack, logged(fitted, rows, 0))
        stack.monitoring.run("delay", until=LATER)
        found = whole(stack)
        assert found.quality is None
        assert found.estimate is not None
        assert found.estimate.estimated
        assert found.estimate.basis.startswith("an estimate")
        ids = [f"0/{i}" for i in range(3_000)]
        stack.monitoring.record("delay", outcomes(ids, truth))
        known = whole(stack)
        assert known.estimate is None
        assert known.quality is not None
        assert not known.quality.estimated
        for metric in ("auc", "log_loss", "accuracy", "brier"):
            low, high = found.estimate.intervals[metric]
            width = high - low
            assert low - width < known.quality.metrics[metric] < high + width

    def test_quality_beyond_its_limit_is_found_for_each_model(
        self, stack: Any, fitted: Any
    ) -> None:
        stack.monitoring.configure(
            Monitor("delay", "delay", quality={"auc": 0.7, "log_loss": 5.0}, sensitivity=SURE)
        )
        rows, truth = labelled(np.random.default_rng(11), 1_000)
        send(stack, logged(fitted, rows, 0))
        send(stack, logged(fitted, rows, 1, version=2))
        ids = [f"{day}/{i}" for day in (0, 1) for i in range(1_000)]
        stack.monitoring.record("delay", outcomes(ids, np.concatenate([truth, 1 - truth])))
        found = stack.monitoring.run("delay", until=LATER).findings
        assert [(one.kind, one.subject, one.start) for one in found] == [
            ("quality", "auc", START + DAY)
        ]
        assert "and the limit is 0.7" in found[0].message
        by_model = whole(stack).by_model
        assert by_model["delay@1"].metrics["auc"] > 0.7 > by_model["delay@2"].metrics["auc"]

    def test_what_is_forgotten_is_not_joined_and_stays_counted(
        self, stack: Any, fitted: Any
    ) -> None:
        for day in (0, 1):
            send(stack, logged(fitted, labelled(np.random.default_rng(2), 100)[0], day))
        stack.monitoring.record("delay", outcomes(["0/1", "1/1"], [1, 1]))
        stack.monitoring.run("delay", until=LATER)
        assert stack.monitoring.forget("delay", START + DAY) == 100
        found = whole(stack)
        assert (found.rows, found.predictions, found.outcomes) == (200, 100, 1)
        with pytest.raises(InvalidInputError, match="has no time zone"):
            stack.monitoring.forget("delay", datetime(2026, 1, 1))  # noqa: DTZ001 - what is tested

    # -- numbers over time ------------------------------------------------------------------------

    def test_judged_windows_are_numbers_over_time(self, stack: Any, fitted: Any) -> None:
        for day in (0, 1):
            send(stack, logged(fitted, labelled(np.random.default_rng(12), 600)[0], day))
        assert stack.monitoring.samples("delay").num_rows == 0
        stack.monitoring.run("delay", until=LATER)
        found = stack.monitoring.samples("delay")
        assert found.schema == SAMPLE_SCHEMA
        rows = [
            row for row in found.to_pylist()
            if row["name"] == "madang_monitor_psi" and ("column", "a") in row["labels"]
        ]  # fmt: skip
        assert [row["time"] for row in rows] == [START + DAY, START + 2 * DAY]
        assert ("monitor", "delay") in rows[0]["labels"]
        later = stack.monitoring.samples("delay", start=START + DAY, end=START + 2 * DAY)
        assert set(later["time"].to_pylist()) == {START + 2 * DAY}


def _chances(fitted: Any, rows: Any) -> Any:
    import polars as pl

    return fitted.predict_proba(pl.DataFrame(rows, schema=["a", "b"]).to_pandas())[:, 1]
