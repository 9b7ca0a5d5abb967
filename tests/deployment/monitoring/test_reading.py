"""The prediction log as columns: as a worker writes it, and as nobody should have."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from tests.deployment.serving.conftest import Server, make_project, tensor

from madang.data.features import FeatureView
from madang.deployment.monitoring import Baseline, Monitor
from madang.deployment.monitoring._reading import Event, decoded, rows_of
from madang.deployment.serving import Arm, FeatureJoin
from madang.testing.monitoring import LATER, START, labelled, outcomes, prepare

DAY = timedelta(days=1)


def event(inputs, outputs, features=(), **more):
    found = {
        "id": "x", "endpoint": "e", "model": "m", "version": 1, "time": "2026-03-01T00:00:00Z",
        "inputs": inputs, "outputs": outputs, "features": list(features),
    }  # fmt: skip
    return json.dumps(found | more).encode()


def read(*values, matrix=()):
    found, unreadable = decoded(
        pa.RecordBatch.from_pydict({"value": pa.array(values, pa.binary())})
    )
    rows, bad = rows_of(found, matrix)
    return rows, unreadable + bad


PREDICT = {"name": "predict", "datatype": "INT64", "shape": [2], "data": [1, 0]}


def test_a_matrix_has_its_columns_names_and_a_request_its_rows():
    body = {"name": "input", "datatype": "FP64", "shape": [2, 2], "data": [[1.0, None], [3.0, 4.0]]}
    (rows,), bad = read(event([body], [PREDICT]), matrix=("a", "b"))
    assert bad == 0
    assert rows.frame.columns == ["a", "b", "prediction"]
    assert rows.frame["a"].to_list() == [1.0, 3.0]
    assert rows.frame["b"].is_nan().to_list() == [True, False]
    assert rows.ids == ["x", "x"]
    assert rows.numbers.tolist() == [0, 1]
    assert rows.outputs.tolist() == [[1.0], [0.0]]
    (unnamed,), _ = read(event([body], [PREDICT]))
    assert unnamed.frame.columns == ["input_0", "input_1", "prediction"]


def test_binary_tensors_are_the_same_bytes_in_another_form():
    values = np.array([[0.5, np.inf], [np.nan, -1.0]])
    body = {"name": "input", "datatype": "FP64", "shape": [2, 2],
            "data_base64": base64.b64encode(values.tobytes()).decode()}  # fmt: skip
    (rows,), bad = read(event([body], [PREDICT]))
    assert bad == 0
    assert np.array_equal(
        rows.frame.select("input_0", "input_1").to_numpy(), values, equal_nan=True
    )


def test_texts_and_features_are_columns_and_since_when_they_are_known_is_none():
    key = {"name": "user", "datatype": "BYTES", "shape": [2], "data": ["u", "v"]}
    joined = [
        {"name": "spent", "datatype": "FP64", "shape": [2], "data": [None, 2.0]},
        {"name": "v__timestamp", "datatype": "BYTES", "shape": [2], "data": [None, "2026"]},
    ]
    (rows,), bad = read(event([key], [PREDICT], joined))
    assert bad == 0
    assert (rows.sent, rows.joined) == (("user",), ("spent",))
    assert rows.frame["user"].to_list() == ["u", "v"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        event([PREDICT], [PREDICT], time="2026-03-01T00:00:00"),
        event([PREDICT], [PREDICT], time="9999-03-01T00:00:00Z"),
        event([PREDICT], [PREDICT], time="1900-03-01T00:00:00Z"),
        event([PREDICT | {"shape": [3]}], [PREDICT]),
        event([PREDICT | {"shape": [2, -1]}], [PREDICT]),
        event([PREDICT | {"data": ["x", "y"]}], [PREDICT]),
        event([PREDICT | {"data": 7}], [PREDICT]),
        event([PREDICT | {"data": None}], [PREDICT]),
        event([PREDICT | {"datatype": "COLOUR"}], [PREDICT]),
        event([PREDICT | {"data_base64": "!"}], [PREDICT]),
        event([PREDICT | {"name": "a\0b"}], [PREDICT]),
    ],
)
def test_what_is_no_prediction_is_counted_and_takes_no_other_with_it(value):
    good = event([PREDICT | {"name": "input"}], [PREDICT])
    rows, bad = read(good, value, good)
    assert bad == 1
    assert sum(len(one.ids) for one in rows) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(
    JSON,
    st.lists(st.integers(-2, 4), max_size=3),
    st.sampled_from(["FP64", "BYTES", "BOOL", "INT8", "?"]),
)
def test_no_event_stops_the_reading(data, shape, datatype):
    body = {"name": "input", "datatype": datatype, "shape": shape, "data": data}
    value = event([body], [PREDICT | {"shape": shape[:1], "data": data}])
    rows, bad = read(value, event([PREDICT], [PREDICT]))
    assert bad in (0, 1)
    assert sum(len(one.ids) for one in rows) >= 2


def test_times_are_exact():
    found, _ = decoded(
        pa.RecordBatch.from_pydict(
            {"value": [event([PREDICT], [PREDICT], time="2026-03-01T00:00:00.000001Z")]}
        )
    )
    assert isinstance(found[0], Event)
    assert found[0].time_us == int(START.timestamp()) * 1_000_000 + 1


def test_what_a_worker_logs_is_read(tmp_path):
    with make_project(tmp_path) as stack:
        fitted = prepare(stack)
        with stack.serving.workers() as workers:
            server = Server(stack, workers)
            stack.monitoring.configure(Monitor("delay", "delay", window_seconds=3_600))
            rows, truth = labelled(np.random.default_rng(1), 40)
            one = server.infer("delay", {"id": "one", "inputs": [tensor(rows[:1])]}).json
            assert one["id"] == "one"
            for start in range(1, 40, 13):
                request = {"id": f"many{start}", "inputs": [tensor(rows[start : start + 13])]}
                assert server.infer("delay", request).status == 200
        # A worker that has drained has written its log.
        found = stack.monitoring.run("delay")
        assert (found.events, found.unreadable) == (4, 0)
        ids = ["one", *(f"many{1 + i // 13 * 13}" for i in range(39))]
        places = [0, *(i % 13 for i in range(39))]
        stack.monitoring.record("delay", outcomes(ids, truth, row=places))
        start = START + (found_hour(stack) - START) // timedelta(hours=1) * timedelta(hours=1)
        report = stack.monitoring.report("delay", start, start + timedelta(hours=2))
        assert (report.rows, report.predictions, report.outcomes) == (40, 40, 40)
        assert report.columns[0].mean[1] == pytest.approx(rows[:, 0].mean())
        import polars as pl
        from sklearn.metrics import roc_auc_score

        frame = pl.DataFrame(rows, schema=["a", "b"]).to_pandas()
        wanted = roc_auc_score(truth, fitted.predict_proba(frame)[:, 1])
        assert report.quality.metrics["auc"] == pytest.approx(wanted)


def found_hour(stack):
    batch = stack.collection.read("predictions.delay", 0, 0, max_events=1)
    return decoded(batch)[0][0].time


def test_skew_is_what_history_says_otherwise(stack):
    prepare(stack)
    history = pa.table({
        "user": ["u", "v", "w"], "since": [START - DAY] * 3, "a": [1.0, 2.0, 3.0],
        "b": pa.array([0.5, None, 0.25]),
    })  # fmt: skip
    stack.storage.write("users", history)
    stack.features.register(
        FeatureView("spending", ("user",), "since", ("a", "b"), sql="SELECT * FROM users")
    )
    stack.features.materialize("spending")
    join = FeatureJoin(("spending",))
    stack.serving.deploy("delay", [Arm("delay", 1, features=join)])
    stack.monitoring.configure(
        Monitor("delay", "delay", Baseline(dataset="training"), max_skew=0.1)
    )
    values = []
    for i, (user, a, b) in enumerate([("u", 1.0, 0.5), ("v", 2.0, None), ("w", 3.5, 0.25)] * 4):
        tensors = [
            {"name": "a", "datatype": "FP64", "shape": [1], "data": [a]},
            {"name": "b", "datatype": "FP64", "shape": [1], "data": [b]},
        ]
        key = {"name": "user", "datatype": "BYTES", "shape": [1], "data": [user]}
        output = {"name": "predict", "datatype": "INT64", "shape": [1], "data": [1]}
        values.append(event([key], [output], tensors, id=f"{i}"))
    from madang.testing.monitoring import send

    send(stack, values)
    found = stack.monitoring.run("delay", until=LATER)
    assert [(one.kind, one.subject) for one in found.findings] == [("skew", "a")]
    a, b = stack.monitoring.report("delay", START, START + DAY).skew
    assert (a.feature, a.rows, a.differing) == ("a", 12, pytest.approx(1 / 3))
    assert a.examples[0] == ("3.5", "3.0")
    assert (b.feature, b.differing) == ("b", 0.0)
    lines = len(stack.ledger.lines(limit=1_000))
    stack.monitoring.report("delay", START, START + DAY)
    assert len(stack.ledger.lines(limit=1_000)) == lines  # who looks leaves no trace
    stack.storage.write("users", pa.table({"user": ["u"]}), mode="overwrite")
    send(stack, [event([key], [output], tensors, id="another")])
    assert stack.monitoring.run("delay", until=LATER).judged == (START,)
    report = stack.monitoring.report("delay", START, START + DAY)
    assert report.skew == ()
    assert report.notes[0].startswith("skew was not measured:")
