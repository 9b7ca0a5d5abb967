"""What every serving engine must do.

Override the fixture `stack` with an open project whose serving engine is under test and serves (its
workers run). One project may serve all tests: each has endpoints of its own. The suite registers its
own models: version N of `sums` answers N times a row's sum.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from madang.data.features import FeatureView
from madang.deployment.serving import (
    Arm,
    Chain,
    Endpoint,
    Ensemble,
    FeatureJoin,
    ModelRef,
    Transformer,
)
from madang.deployment.serving.logged import array
from madang.errors import InvalidInputError, NotFoundError

ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def register(stack: Any, name: str, factor: float, **options: Any) -> int:
    """Registers a model that answers `factor` times the sum of a row's three values."""
    from sklearn.linear_model import LinearRegression

    rows = np.random.default_rng(0).normal(size=(50, 3))
    fitted = LinearRegression().fit(rows, rows.sum(axis=1) * factor)
    return int(stack.registry.register(name, fitted, example=rows[:4], **options).version)


def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Waits for a condition, or fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)


def logged(stack: Any, endpoint: str, count: int) -> list[dict[str, Any]]:
    """The events of an endpoint's prediction log, when there are `count`."""

    def read() -> list[dict[str, Any]]:
        batch = stack.collection.read(f"predictions.{endpoint}", 0, 0)
        return [msgspec.json.decode(value) for value in batch.column("value").to_pylist()]

    until(lambda: len(read()) >= count)
    return read()


class ServingContract:
    @pytest.fixture
    def stack(self) -> Any:
        raise pytest.UsageError("override the fixture `stack`")

    @pytest.fixture
    def sums(self, stack) -> str:
        """Three versions of one model."""
        if "sums" not in stack.registry.models():
            for factor in (1.0, 2.0, 3.0):
                register(stack, "sums", factor)
        return "sums"

    @pytest.fixture
    def name(self, stack) -> Iterator[str]:
        """An endpoint's name of this test alone."""
        chosen = f"a-{secrets.token_hex(6)}"
        yield chosen
        stack.serving.undeploy(chosen)

    def test_a_deployed_version_answers_like_the_model(self, stack, sums, name):
        made = stack.serving.deploy(name, [Arm(sums, 2)])
        assert made == Endpoint(name, (Arm(sums, 2, 1.0),), 1)
        answer = stack.serving.predict(name, ROWS)
        expected = stack.registry.load(sums, 2).predict({"input": ROWS})["predict"]
        np.testing.assert_allclose(answer["predict"], expected)
        np.testing.assert_allclose(answer["predict"], [12.0, 30.0])
        assert len(answer["id"]) == 32
        assert stack.serving.predict(name, ROWS)["id"] != answer["id"]

    def test_inputs_may_be_a_mapping_or_a_list(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1)])
        for inputs in ({"input": ROWS}, ROWS.tolist(), {"input": ROWS.tolist()}):
            np.testing.assert_allclose(stack.serving.predict(name, inputs)["predict"], [6.0, 15.0])

    def test_a_table_is_asked_by_the_names_of_its_columns(self, stack, name):
        import pandas as pd
        from sklearn.linear_model import LinearRegression

        frame = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [1.0, 5.0, 3.0]})
        fitted = LinearRegression().fit(frame, frame["x"] - frame["y"])
        stack.registry.register("difference", fitted, example=frame)
        stack.serving.deploy(name, [Arm("difference", 1)])
        turned = pa.table({"y": [1.0], "other": ["?"], "x": [10.0]})
        np.testing.assert_allclose(stack.serving.predict(name, turned)["predict"], [9.0])

    def test_texts_go_in_and_out(self, stack, name):
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder
        from sklearn.tree import DecisionTreeClassifier

        table = pa.table({"sky": ["grey", "blue", "blau über", "grey"], "wind": [1.0, 2, 3, 4]})
        encode = make_pipeline(OneHotEncoder(), DecisionTreeClassifier())
        rows = table.to_pandas()
        fitted = encode.fit(rows, ["rain", "dry", "trocken ☀", "rain"])
        stack.registry.register("weather", fitted, example=table)
        stack.serving.deploy(name, [Arm("weather", 1)])
        answer = stack.serving.predict(name, table.slice(1, 2))
        assert answer["predict"].tolist() == ["dry", "trocken ☀"]

    def test_a_change_has_the_next_revision_and_a_line_in_the_ledger(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1)])
        stack.serving.deploy(name, [Arm(sums, 1, 3), Arm(sums, 2, 1)], log=False)
        assert stack.serving.get(name) == Endpoint(
            name, (Arm(sums, 1, 3), Arm(sums, 2, 1)), 2, False
        )
        stack.serving.undeploy(name)
        lines = stack.ledger.lines(
            kind="endpoint.*", subject=f"endpoint:{name}", newest_first=False
        )
        assert [(line.kind, line.inputs, line.outputs) for line in lines] == [
            ("endpoint.deploy", ("model:sums@1",), (f"endpoint:{name}@1",)),
            ("endpoint.deploy", ("model:sums@1", "model:sums@2"), (f"endpoint:{name}@2",)),
            ("endpoint.undeploy", (), ()),
        ]
        assert stack.serving.deploy(name, [Arm(sums, 1)]).revision == 4

    def test_endpoints_are_listed_by_name_and_gone_when_removed(self, stack, sums, name):
        others = [f"{name}-{end}" for end in ("c", "b")]
        for each in others:
            stack.serving.deploy(each, [Arm(sums, 1)])
        listed = [endpoint.name for endpoint in stack.serving.endpoints()]
        assert listed == sorted(listed)
        assert set(others) <= set(listed)
        stack.serving.undeploy(others[0])
        stack.serving.undeploy(others[0])
        stack.serving.undeploy("never")
        listed = [endpoint.name for endpoint in stack.serving.endpoints()]
        assert others[0] not in listed
        with pytest.raises(
            NotFoundError, match=f"no endpoint '{others[0]}'; endpoints: .*{name}-b"
        ):
            stack.serving.get(others[0])
        with pytest.raises(NotFoundError, match=f"there is no endpoint '{others[0]}'"):
            stack.serving.predict(others[0], ROWS)
        np.testing.assert_allclose(stack.serving.predict(others[1], ROWS)["predict"], [6.0, 15.0])
        stack.serving.undeploy(others[1])

    @pytest.mark.parametrize(
        ("arms", "message"),
        [
            ([], "at least one arm"),
            ([Arm("sums", 1, -1)], r"sums@1 has weight -1; a weight is 0 or more"),
            ([Arm("sums", 1, float("nan"))], "weight nan"),
            ([Arm("sums", 1, 0), Arm("sums", 2, 0)], "all weights of .* are 0; one must be above"),
            ([Arm("sums", 1), Arm("sums", 1)], "same version number"),
        ],
    )
    def test_impossible_arms_are_refused(self, stack, sums, name, arms, message):
        with pytest.raises(InvalidInputError, match=message):
            stack.serving.deploy(name, arms)
        assert name not in [endpoint.name for endpoint in stack.serving.endpoints()]

    def test_an_unregistered_version_is_refused(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1)])
        for arm in (Arm("none", 1), Arm(sums, 9)):
            with pytest.raises(NotFoundError, match=arm.model):
                stack.serving.deploy(name, [arm])
        assert stack.serving.get(name).revision == 1

    @pytest.mark.parametrize("wrong", ["", "a/b", "../a", "ä", "a" * 201, "-", "a\n"])
    def test_an_impossible_name_is_refused(self, stack, sums, wrong):
        with pytest.raises(InvalidInputError, match="an endpoint's name"):
            stack.serving.deploy(wrong, [Arm(sums, 1)])

    def test_inputs_that_do_not_fit_are_refused(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1)])
        for wrong in (ROWS[:, :2], ROWS[:0], {"other": ROWS}, [["a", "b", "c"]]):
            with pytest.raises(InvalidInputError):
                stack.serving.predict(name, wrong)
        with pytest.raises(InvalidInputError, match=r"(?i)nan"):
            stack.serving.predict(name, ROWS * np.nan)

    def test_weights_share_the_traffic(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1, 3), Arm(sums, 2, 1), Arm(sums, 3, 0)], log=False)
        row = ROWS[:1]
        found = [round(stack.serving.predict(name, row)["predict"][0]) for _ in range(400)]
        assert set(found) == {6, 12}
        # Of 400 with p = 1/4: outside of 60..140 by chance in less than one of 10^5 runs.
        assert 60 < found.count(12) < 140

    def test_predictions_are_logged(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 2)])
        answers = [stack.serving.predict(name, ROWS * i) for i in range(1, 4)]
        events = logged(stack, name, 3)
        assert [event["id"] for event in events] == [answer["id"] for answer in answers]
        event = events[2]
        assert (event["endpoint"], event["model"], event["version"]) == (name, sums, 2)
        assert event["time"].endswith("Z")
        assert event["latency_seconds"] > 0
        (given,), (made,) = event["inputs"], event["outputs"]
        assert (given["name"], given["datatype"], given["shape"]) == ("input", "FP64", [2, 3])
        np.testing.assert_array_equal(array(given), ROWS * 3)
        np.testing.assert_array_equal(array(made), answers[2]["predict"])

    def test_without_a_log_nothing_is_logged(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1)], log=False)
        stack.serving.predict(name, ROWS)
        with pytest.raises(NotFoundError):
            stack.collection.topic(f"predictions.{name}")
        stack.serving.deploy(name, [Arm(sums, 2)], log=True)
        stack.serving.predict(name, ROWS)
        assert [event["version"] for event in logged(stack, name, 1)] == [2]

    def test_a_roll_under_load_drops_and_mixes_nothing(self, stack, sums, name):
        """Each answer is one version's as a whole, and after `deploy` returned only the new one's."""
        stack.serving.deploy(name, [Arm(sums, 1)])
        stop, failures, answers = threading.Event(), [], []

        def ask() -> None:
            while not stop.is_set():
                try:
                    values = stack.serving.predict(name, ROWS)["predict"]
                    answers.append(tuple(np.round(values)))
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for version in (2, 3, 1, 2):
                wanted = len(answers) + 20
                until(lambda wanted=wanted: bool(failures) or len(answers) > wanted)  # type: ignore[misc]  # mypy can't infer a lambda's default
                stack.serving.deploy(name, [Arm(sums, version)])
                value = stack.serving.predict(name, ROWS)["predict"]
                np.testing.assert_allclose(value, [6.0 * version, 15.0 * version])
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert set(answers) == {(6.0, 15.0), (12.0, 30.0), (18.0, 45.0)}

    def test_what_is_wanted_is_there_for_another_process(self, stack, sums, name):
        import madang

        stack.serving.deploy(name, [Arm(sums, 2, 0.5)])
        with madang.open(stack.root) as other:
            assert other.serving.get(name) == stack.serving.get(name)
            assert other.serving.url() == stack.serving.url()
            np.testing.assert_allclose(other.serving.predict(name, ROWS)["predict"], [12.0, 30.0])

    def test_health_says_how_it_is(self, stack, sums, name):
        stack.serving.deploy(name, [Arm(sums, 1)])
        health = stack.serving.health()
        assert health.ok, health.detail
        assert health.detail

    def test_the_mean_of_two_models_is_one_answer(self, stack, sums, name):
        graph = Ensemble((ModelRef(sums, 1), ModelRef(sums, 2)), weights=(3.0, 1.0))
        made = stack.serving.deploy(name, [Arm("pair", 7, graph=graph)])
        assert stack.serving.get(name) == made
        assert made.arms[0].graph == graph
        np.testing.assert_allclose(stack.serving.predict(name, ROWS)["predict"], [7.5, 18.75])

    def test_a_chain_whose_parts_do_not_fit_is_refused(self, stack, sums, name):
        chain = Chain((ModelRef(sums, 1), ModelRef(sums, 2)))
        with pytest.raises(InvalidInputError, match=r"sums@2.* does not fit what sums@1 gives"):
            stack.serving.deploy(name, [Arm("twice", 1, graph=chain)])
        with pytest.raises(NotFoundError):
            stack.serving.get(name)

    def test_a_transformer_is_what_it_was_when_it_was_deployed(self, stack, sums, name):
        file = stack.root / "transformers" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("def before(inputs):\n    return {'input': inputs['input'] * 10}\n")
        before = Transformer(f"transformers/{name}.py:before")
        made = stack.serving.deploy(name, [Arm(sums, 1, before=before)])
        assert made.arms[0].before == before
        file.write_text("def before(inputs):\n    return {'input': inputs['input'] * 100}\n")
        np.testing.assert_allclose(stack.serving.predict(name, ROWS)["predict"], [60.0, 150.0])
        stack.serving.deploy(name, [Arm(sums, 1, before=before)])
        np.testing.assert_allclose(stack.serving.predict(name, ROWS)["predict"], [600.0, 1500.0])
        file.unlink()
        with pytest.raises(NotFoundError, match="there is no file"):
            stack.serving.deploy(name, [Arm(sums, 1, before=before)])

    def test_features_are_joined_by_entity(self, stack, name):
        from sklearn.linear_model import LinearRegression

        view = f"v{secrets.token_hex(4)}"
        since = pa.array([0, 0], pa.timestamp("us", tz="UTC"))
        table = pa.table({"shop": ["a", "b"], "since": since, "size": [1.5, 2.5], "staff": [3, 4]})
        features = FeatureView(
            view, ("shop",), "since", ("size", "staff"), sql=f"SELECT * FROM {view}"
        )
        stack.features.materialize(features, tables={view: table})
        rows = table.select(["size", "staff"])
        fitted = LinearRegression().fit(rows.to_pandas(), [10.0, 20.0])
        stack.registry.register(view, fitted, example=rows)
        join = FeatureJoin((view,))
        made = stack.serving.deploy(name, [Arm(view, 1, features=join)])
        assert made.arms[0].features == join
        answer = stack.serving.predict(name, {"shop": np.array(["b", "a"])})
        np.testing.assert_allclose(answer["predict"], [20.0, 10.0])
        (event,) = logged(stack, name, 1)
        used = {part["name"]: part["data"] for part in event["features"]}
        assert (used["size"], used["staff"]) == ([2.5, 1.5], [4.0, 3.0])
        with pytest.raises(InvalidInputError, match="takes staff, which no view gives"):
            stack.serving.deploy(name, [Arm(view, 1, features=FeatureJoin((f"{view}:size",)))])
