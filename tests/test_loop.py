"""From topic to dataset: nothing lost and nothing doubled, wherever the process is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import madang
from madang.data.collection import events
from madang.errors import DataContractError, InvalidInputError, NotFoundError
from madang.loop import QUARANTINE, ingest

CONTRACT = """
dataset: trips
columns:
  - {name: id, type: int64, nullable: false}
  - {name: minutes, type: float64}
checks:
  - {kind: range, column: minutes, severity: quarantine, arguments: {min: 0, max: 60}}
"""


def with_contract(stack, text=CONTRACT, name="trips"):
    (stack.root / "contracts" / f"{name}.yaml").write_text(text.replace("trips", name))


def fill(stack, values, *, topic="trips", keys=None):
    stack.collection.append(topic, events(values, keys=keys))


def trip(number, minutes=5.0):
    return json.dumps({"id": number, "minutes": minutes}).encode()


def ids(stack, table="trips"):
    if table not in stack.storage.tables():
        return []
    found = stack.storage.read(table).read_all()
    if table.endswith(QUARANTINE):
        return sorted(json.loads(raw)["id"] for raw in found["value"].to_pylist())
    return sorted(found["id"].to_pylist())


@pytest.fixture
def trips(stack):
    """A stack with a topic of three partitions and a contract."""
    with_contract(stack)
    stack.collection.create_topic("trips", partitions=3)
    return stack


def test_valid_rows_and_quarantine(trips):
    fill(trips, [trip(1), trip(2, 99.0), trip(3), trip(4, -1.0)], keys=[b"a", b"b", b"c", b"d"])
    reports = []
    done = ingest(trips, "trips", on_batch=reports.append)
    assert (done.events, done.valid, done.quarantined) == (4, 2, 2)
    assert done.reasons == {"minutes: range": 2}
    assert done.versions == {"trips": [0], "trips_quarantine": [0]}
    assert sum(report.rows for report in reports) == 4
    assert ids(trips) == [1, 3]
    assert ids(trips, "trips_quarantine") == [2, 4]
    line = trips.ledger.lines(kind="dataset.write", subject="dataset:trips")[0]
    assert all(ref.startswith("topic:trips/") for ref in line.inputs)


def test_only_new_events_are_moved(trips):
    fill(trips, [trip(1)])
    ingest(trips, "trips")
    assert ingest(trips, "trips").events == 0
    assert len(trips.storage.versions("trips")) == 1  # no empty version
    fill(trips, [trip(2)])
    again = ingest(trips, "trips")
    assert (again.events, again.versions) == (1, {"trips": [1]})
    assert ids(trips) == [1, 2]


def test_partitions_and_batches(trips):
    fill(trips, [trip(n) for n in range(300)], keys=[b"%d" % n for n in range(300)])
    done = ingest(trips, "trips", batch_events=37)
    assert (done.events, done.valid) == (300, 300)
    assert len(done.versions["trips"]) > 3
    assert ids(trips) == list(range(300))
    assert sum(trips.collection.committed("trips", "ingest.trips").values()) == 300


def test_events_that_are_no_rows_go_to_the_quarantine(trips):
    fill(trips, [b"?", b'{"id": "one"}', b'{"id": 1, "other": 2}', trip(1), b"\xff"])
    done = ingest(trips, "trips")
    assert (done.valid, done.quarantined) == (1, 4)
    found = trips.storage.read("trips_quarantine").read_all()
    assert all(found["_reasons"].to_pylist())
    assert b"\xff" in [v if isinstance(v, bytes) else v.encode() for v in found["value"].to_pylist()]  # fmt: skip


def test_another_dataset_and_two_topics_into_one(trips):
    with_contract(trips, name="all")
    trips.collection.create_topic("more")
    fill(trips, [trip(1), trip(2)])
    fill(trips, [trip(3)], topic="more")
    assert ingest(trips, "trips", "all").valid == 2
    assert ingest(trips, "more", "all").valid == 1
    fill(trips, [trip(4)])
    assert ingest(trips, "trips", "all").valid == 1
    assert ids(trips, "all") == [1, 2, 3, 4]
    assert "trips" not in trips.storage.tables()


def test_a_check_that_blocks_writes_nothing(trips):
    with_contract(trips, CONTRACT.replace("severity: quarantine", "severity: block"))
    fill(trips, [trip(1), trip(2, 99.0)])
    with pytest.raises(DataContractError) as told:
        ingest(trips, "trips")
    assert "dataset 'trips'" in str(told.value)
    assert "range of minutes" in str(told.value)
    assert "nothing of this batch was written" in str(told.value)
    assert trips.storage.tables() == []
    assert trips.collection.committed("trips", "ingest.trips") == {}
    with_contract(trips)  # with a contract that lets them pass, the same events come again
    done = ingest(trips, "trips")
    assert (done.valid, done.quarantined) == (1, 1)


def test_what_is_missing_is_told(stack):
    stack.collection.create_topic("trips")
    with pytest.raises(NotFoundError, match=r"contracts/trips\.yaml"):
        ingest(stack, "trips")
    with_contract(stack)
    with pytest.raises(NotFoundError, match="nowhere"):
        ingest(stack, "nowhere", "trips")
    with pytest.raises(InvalidInputError):
        ingest(stack, "trips", "../trips")


# -- killed anywhere -------------------------------------------------------------------------------


STEPS = ("put", "write", "delete", "landed", "commit")
POINTS = [(what, when) for what in STEPS for when in ("before", "after")]


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_killed_at_every_point_nothing_is_lost_or_doubled(tmp_path, point):
    madang.init(tmp_path, name="killed")
    values = [trip(n, 99.0 if n % 3 == 0 else 1.0) for n in range(60)]
    with madang.open(tmp_path) as stack:
        with_contract(stack)
        stack.collection.create_topic("trips", partitions=2)
        fill(stack, values, keys=[b"%d" % n for n in range(60)])
    # Each try is killed at another passing, with other sizes of batches than the one before.
    for passings, size in ((0, 7), (1, 10), (2, 8)):
        program = Path(__file__).with_name("crash_ingest.py")
        done = subprocess.run(
            [sys.executable, program, tmp_path, *point, str(passings), str(size)],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        with madang.open(tmp_path) as stack:
            for table in ("trips", "trips" + QUARANTINE):
                assert len(ids(stack, table)) == len(set(ids(stack, table)))
    with madang.open(tmp_path) as stack:
        ingest(stack, "trips")
        assert ids(stack) == [n for n in range(60) if n % 3]
        assert ids(stack, "trips" + QUARANTINE) == [n for n in range(60) if n % 3 == 0]
        assert ingest(stack, "trips").events == 0
        assert stack.ledger.verify().ok


class Stop(Exception):
    """In place of a kill: cheap enough for many examples."""


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.sampled_from(["good", "bad", "broken"]), max_size=40),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    stops=st.lists(st.tuples(st.sampled_from(["write", "commit"]), st.integers(0, 4)), max_size=4),
)
def test_whatever_the_sizes_and_the_interruptions(rows, sizes, stops):
    minutes = {"good": 1.0, "bad": 99.0, "broken": "x"}
    with tempfile.TemporaryDirectory() as folder:
        madang.init(folder, name="sizes")
        with madang.open(folder) as stack:
            with_contract(stack)
            stack.collection.create_topic("trips", partitions=2)
            if rows:
                fill(
                    stack,
                    [trip(n, minutes[kind]) for n, kind in enumerate(rows)],
                    keys=[b"%d" % n for n in range(len(rows))],
                )
            for number, (what, after) in enumerate(stops):
                _interrupted(stack, what, after, sizes[number % len(sizes)])
            ingest(stack, "trips", batch_events=sizes[0])
            assert ids(stack) == [n for n, kind in enumerate(rows) if kind == "good"]
            assert ids(stack, "trips" + QUARANTINE) == [n for n, k in enumerate(rows) if k != "good"]  # fmt: skip


def _interrupted(stack, what, after, size):
    left = after
    with pytest.MonkeyPatch.context() as patch:

        def around(target, name):
            original = getattr(target, name)

            def wrapped(*args, **kwargs):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Stop
                return original(*args, **kwargs)

            patch.setattr(target, name, wrapped, raising=False)

        if what == "write":
            around(stack.storage, "write")
        else:
            consumer = stack.collection.consumer

            def joined(*args):
                member = consumer(*args)
                around(member, "commit")
                return member

            patch.setattr(stack.collection, "consumer", joined)
        try:
            ingest(stack, "trips", batch_events=size)
        except Stop:
            return


def test_null_and_missing_columns_end_in_the_dataset(trips):
    fill(trips, [b'{"id": 1}', b'{"id": 2, "minutes": null}'])
    assert ingest(trips, "trips").valid == 2
    table = trips.storage.read("trips").read_all()
    assert table.schema.field("minutes").type == pa.float64()
    assert table["minutes"].to_pylist() == [None, None]
