"""The part of the experiments contract's suite on histories, and on what runs used and made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from madang.development.experiments import (
    DatasetFilter,
    DatasetInput,
    Experiments,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelOrder,
    ModelOutput,
)
from madang.errors import ConflictError, InvalidInputError, NotFoundError
from madang.stack import Stack
from madang.testing._experiments_search import everything
from madang.testing._experiments_stored import done, need, tick


class ModelsContract:
    """Needs fixtures `stack` and `experiments`: an empty `Experiments`, and its project."""

    # -- histories --

    @staticmethod
    def log_points(experiments: Experiments, points: list[tuple[float, int, int]]) -> str:
        """Logs values at steps and times, one batch each ten, and gives the run's id."""
        run = experiments.start_run("e")
        for start in range(0, len(points), 10):
            part = [Metric("m", *point) for point in points[start : start + 10]]
            experiments.log(run.id, metrics=[*part, Metric("other", 7.0, 1, 1_000)])
        return run.id

    @pytest.fixture
    def unordered(self, experiments: Experiments) -> list[tuple[float, int, int]]:
        """Values, steps and times with ties, in no order."""
        random = np.random.default_rng(3)
        steps, times = random.integers(-3, 5, 47), random.integers(1, 4, 47)
        times *= experiments.keeps.time_us
        return [(float(i), int(steps[i]), int(times[i])) for i in range(47)]

    def test_histories_agree(
        self, experiments: Experiments, unordered: list[tuple[float, int, int]]
    ) -> None:
        run_id = self.log_points(experiments, unordered)
        expected = sorted(unordered, key=lambda point: point[1:])  # stable: ties as logged
        history = experiments.metric_history(run_id, "m")
        assert [(p.value, p.step, p.timestamp_us) for p in history] == expected
        assert everything(self.paged(experiments, run_id), limit=4) == history
        table = experiments.metric_table(run_id, "m")
        assert table.schema == pa.schema(
            [("step", pa.int64()), ("time", pa.timestamp("us", "UTC")), ("value", pa.float64())]
        )
        found = zip(
            table["value"].to_pylist(), table["step"].to_pylist(),
            table["time"].cast(pa.int64()).to_pylist(), strict=True,
        )  # fmt: skip
        assert list(found) == expected

    @staticmethod
    def paged(experiments: Experiments, run_id: str) -> Any:
        return lambda **options: experiments.metric_page(run_id, "m", **options)

    def test_pages_of_points_hold_while_points_come(self, experiments: Experiments) -> None:
        run_id = self.log_points(experiments, [(0.0, step, 1_000) for step in range(6)])
        first = experiments.metric_page(run_id, "m", limit=3)
        experiments.log(run_id, metrics=[Metric("m", 1.0, 0, 1_000), Metric("m", 2.0, 9, 1_000)])
        rest = experiments.metric_page(run_id, "m", limit=9, page_token=first.next_token)
        assert [p.step for p in first.items] == [0, 1, 2]
        assert [p.step for p in rest.items] == [3, 4, 5, 9]
        assert rest.next_token is None

    def test_bad_pages_of_points(self, experiments: Experiments) -> None:
        run_id = self.log_points(experiments, [(0.0, step, 1_000) for step in range(3)])
        token = experiments.metric_page(run_id, "m", limit=1).next_token
        for limit in (0, -1, 200_001):
            with pytest.raises(InvalidInputError, match="a page has 1 to 200000 points"):
                experiments.metric_page(run_id, "m", limit=limit)
        for key, bad in (("other", token), ("m", "x"), ("m", "\0")):
            with pytest.raises(InvalidInputError, match="the page token is none"):
                experiments.metric_page(run_id, key, page_token=bad)

    def test_a_metric_without_points(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        assert experiments.metric_page(run.id, "m").items == ()
        assert experiments.metric_table(run.id, "m").num_rows == 0
        assert experiments.metric_sample(run.id, "m").num_rows == 0

    def test_numbers_at_their_limits(self, experiments: Experiments) -> None:
        top = 2**63 - 1
        late = top - top % experiments.keeps.time_us
        values = [math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0]
        if not experiments.keeps.infinities:
            values = [value for value in values if not math.isinf(value)]
        run = experiments.start_run("e")
        points = [Metric("m", value, n, late) for n, value in enumerate(values)]
        ends = [Metric("m", 1.0, -top, 1_000), Metric("m", 2.0, top)]
        experiments.log(run.id, metrics=[*points, *ends])
        table = experiments.metric_table(run.id, "m")
        expected = [1.0, *values, 2.0]
        np.testing.assert_array_equal(table["value"].to_numpy(), expected)
        assert table["step"].to_pylist() == [-top, *range(len(values)), top]
        assert table["time"].cast(pa.int64())[1].as_py() == late
        history = experiments.metric_history(run.id, "m")
        np.testing.assert_array_equal([point.value for point in history], expected)
        bad: list[list[Metric]] = [
            [Metric("m", 1.0, 2**63)],
            [Metric("m", 1.0, 0, 2**63)],
            [Metric("m", 10**400)],
        ]
        for batch in bad:
            with pytest.raises(InvalidInputError):
                experiments.log(run.id, metrics=[Metric("n", 1.0), *batch])
        assert experiments.metric_history(run.id, "n") == []

    def test_a_sample_keeps_ends_and_peaks(self, experiments: Experiments) -> None:
        values = [math.sin(step / 50) for step in range(2_000)]
        values[777], values[778], values[1_300] = 50.0, -50.0, math.nan
        run = experiments.start_run("e")
        experiments.log(run.id, metrics=[Metric("m", v, n, 1_000) for n, v in enumerate(values)])
        sample = experiments.metric_sample(run.id, "m", points=100)
        steps = sample["step"].to_pylist()
        assert 50 < len(steps) <= 100
        assert steps == sorted(set(steps))
        assert {0, 777, 778, 1_999} <= set(steps)
        assert 1_300 not in steps
        np.testing.assert_array_equal(sample["value"].to_numpy(), np.array(values)[steps])
        part = experiments.metric_sample(run.id, "m", points=10, first_step=100, last_step=109)
        assert part["step"].to_pylist() == list(range(100, 110))
        part = experiments.metric_sample(run.id, "m", points=4, first_step=100)
        assert part["step"].to_pylist()[:: part.num_rows - 1] == [100, 1_999]
        assert experiments.metric_sample(run.id, "m", last_step=-1).num_rows == 0
        assert experiments.metric_sample(run.id, "m", first_step=9, last_step=3).num_rows == 0
        with pytest.raises(InvalidInputError, match="a sample has 4 points or more, asked for 3"):
            experiments.metric_sample(run.id, "m", points=3)

    # -- inputs and outputs --

    def test_datasets_of_a_run(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        first = DatasetInput("a", "1", "local", '{"uri": "x"}', "{}", None, {"t": "1"})
        second, third = DatasetInput("b", "1"), DatasetInput("a", "2")
        experiments.log_inputs(run.id, datasets=[first])
        experiments.log_inputs(run.id, datasets=[first, second])
        experiments.log_inputs(run.id, datasets=[third])
        experiments.log_inputs(run.id)
        found = experiments.get_run(run.id).datasets
        assert sorted(found, key=lambda d: (d.digest, d.name)) == [first, second, third]
        with pytest.raises(InvalidInputError, match="a dataset needs a name"):
            experiments.log_inputs(
                run.id, datasets=[DatasetInput("new", "1"), DatasetInput("", "1")]
            )
        assert len(experiments.get_run(run.id).datasets) == 3

    def test_a_dataset_that_is_said_anew(self, experiments: Experiments) -> None:
        need(experiments.keeps.links, "what is said of a dataset anew")
        run = experiments.start_run("e")
        first, second = DatasetInput("a", "1", "local", tags={"t": "1"}), DatasetInput("b", "1")
        experiments.log_inputs(run.id, datasets=[first, second])
        changed = DatasetInput("a", "1", "s3", tags={"mlflow.data.context": "test"})
        experiments.log_inputs(run.id, datasets=[changed])
        assert experiments.get_run(run.id).datasets == (changed, second)

    def test_a_model_that_was_made_anew(self, experiments: Experiments) -> None:
        need(experiments.keeps.links, "the step at which a run made a model anew")
        run = experiments.start_run("e")
        a, b = (experiments.create_logged_model(run.experiment_id).id for _ in range(2))
        experiments.log_outputs(run.id, [ModelOutput(b, 3), ModelOutput(a)])
        experiments.log_outputs(run.id, [ModelOutput(b, 5)])
        assert experiments.get_run(run.id).model_outputs == (ModelOutput(b, 5), ModelOutput(a))

    def test_models_of_a_run(self, stack: Stack, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        a, b, c = (experiments.create_logged_model(run.experiment_id).id for _ in range(3))
        experiments.log_inputs(run.id, models=[a])
        experiments.log_outputs(run.id, [ModelOutput(b, 3), ModelOutput(a)])
        experiments.log_outputs(run.id, [ModelOutput(b, 3), ModelOutput(c, 1)])
        found = experiments.get_run(run.id)
        assert found.model_inputs == (a,)
        assert set(found.model_outputs) == {ModelOutput(b, 3), ModelOutput(a), ModelOutput(c, 1)}
        for call in (
            lambda: experiments.log_inputs(
                run.id, datasets=[DatasetInput("d", "1")], models=[a, "m-x"]
            ),
            lambda: experiments.log_outputs(run.id, [ModelOutput(a, 9), ModelOutput("m-x")]),
        ):
            with pytest.raises(NotFoundError, match="has no logged model 'm-x'"):
                call()
        assert experiments.get_run(run.id) == found
        lines = done(stack.ledger.lines(subject=f"run:{run.id}", newest_first=False))[1:]
        assert [line.kind for line in lines] == ["run.input", "run.output", "run.output"]
        assert lines[0].inputs == (f"logged_model:{a}",)
        assert lines[1].outputs == (f"logged_model:{b}", f"logged_model:{a}")

    # -- logged models --

    def test_a_logged_models_life(self, stack: Stack, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        made = experiments.create_logged_model(
            run.experiment_id, name="tree", run_id=run.id, params={"p": "1"}, tags={"t": "2"},
            type="Agent",
        )  # fmt: skip
        assert (made.status, made.run_id, made.name, made.type) == (
            "PENDING", run.id, "tree", "Agent",
        )  # fmt: skip
        with pytest.raises(InvalidInputError, match="is finalized as READY or FAILED, not PENDING"):
            experiments.finalize_logged_model(made.id, LoggedModelStatus.PENDING)
        ready = experiments.finalize_logged_model(made.id, LoggedModelStatus.READY)
        assert ready.status is LoggedModelStatus.READY
        experiments.log_model_params(made.id, {"p": "1", "q": "3"})
        with pytest.raises(ConflictError, match="has the parameter p = '1', and a parameter never"):
            experiments.log_model_params(made.id, {"new": "1", "p": "2"})
        tagged = experiments.set_logged_model_tags(made.id, {"t": "4", "u": "5"})
        experiments.delete_logged_model_tag(made.id, "t")
        found = experiments.get_logged_model(made.id)
        assert (found.params, found.tags) == ({"p": "1", "q": "3"}, {"u": "5"})
        assert tagged.tags == {"t": "4", "u": "5"}
        assert found.updated_us >= found.created_us == made.created_us
        with pytest.raises(NotFoundError, match="has no tag 't'"):
            experiments.delete_logged_model_tag(made.id, "t")
        experiments.log_artifact(made.id, "data/model.bin", b"x")
        assert experiments.artifacts(made.id) == ["data/model.bin"]
        experiments.delete_logged_model(made.id)
        assert experiments.get_logged_model(made.id, deleted=True).lifecycle is Lifecycle.DELETED
        assert experiments.search_logged_models([run.experiment_id]).items == ()
        lines = done(stack.ledger.lines(subject=f"logged_model:{made.id}", newest_first=False))
        words = ["create", "finalize", "param", "tag", "untag", "delete"]
        kinds = [line.kind for line in lines if line.kind.startswith("logged_model.")]
        assert kinds == [f"logged_model.{word}" for word in words]

    def test_a_logged_model_that_is_missing_or_deleted(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        gone = experiments.create_logged_model(run.experiment_id).id
        experiments.delete_logged_model(gone)
        for one in ("m-nope", gone):
            calls: list[Any] = [
                lambda one=one: experiments.get_logged_model(one),
                lambda one=one: experiments.finalize_logged_model(one, LoggedModelStatus.READY),
                lambda one=one: experiments.log_model_params(one, {"a": "b"}),
                lambda one=one: experiments.set_logged_model_tags(one, {"a": "b"}),
                lambda one=one: experiments.delete_logged_model_tag(one, "a"),
                lambda one=one: experiments.delete_logged_model(one),
                lambda one=one: experiments.log_artifact(one, "a", b""),
                lambda one=one: experiments.log(run.id, metrics=[Metric("m", 1.0, model_id=one)]),
            ]
            for call in calls:
                with pytest.raises(NotFoundError, match=f"has no logged model '{one}'"):
                    call()
        assert experiments.get_run(run.id).metrics == {}
        with pytest.raises(NotFoundError, match="has no run 'nope'"):
            experiments.create_logged_model(run.experiment_id, run_id="nope")

    @pytest.fixture
    def measured(self, experiments: Experiments) -> dict[str, LoggedModel]:
        """Models `a`, `b` and `c`; `a` and `b` were measured on datasets, `a` also anew."""
        run = experiments.start_run("e")
        made = {}
        for name in "abc":
            tick(experiments)
            made[name] = experiments.create_logged_model(
                run.experiment_id, name=name, params={"depth": name}, tags={"team": name.upper()},
                type="Agent" if name == "c" else "", run_id=run.id if name == "a" else None,
            )  # fmt: skip
        unit = experiments.keeps.time_us
        last = math.nan if experiments.keeps.model_points else 0.8

        def point(name: str, value: float, time: int, dataset: str, digest: str = "1") -> Metric:
            return Metric("acc", value, 0, time * unit, made[name].id, dataset or None, digest)

        experiments.log(
            run.id,
            metrics=[
                point("a", 0.9, 1, "train"),
                point("a", 0.5, 2, "test"),
                point("a", 0.7, 3, "test", "2"),
                point("b", 0.6, 1, "train"),
                point("b", last, 2, "test"),
            ],
        )
        experiments.finalize_logged_model(made["c"].id, LoggedModelStatus.READY)
        return made

    def test_searching_logged_models(
        self, experiments: Experiments, measured: dict[str, LoggedModel]
    ) -> None:
        experiment_id = measured["a"].experiment_id

        def names(filter: str = "", **options: Any) -> str:
            found = experiments.search_logged_models([experiment_id], filter, **options)
            return "".join(model.name for model in found.items)

        assert names() == "cba"
        assert experiments.search_logged_models([]).items == ()
        assert experiments.search_logged_models(["nothing"]).items == ()
        table = {
            "name = 'a'": "a", "params.depth != 'a'": "cb", "tags.team ILIKE 'b'": "b",
            "model_type = 'Agent'": "c", "status = 'READY'": "c", "tags.x IS NULL": "cba",
            f"source_run_id = '{measured['a'].run_id}'": "a", "creation_timestamp > 0": "cba",
            f"model_id IN ('{measured['b'].id}')": "b", "last_updated_timestamp < 5": "",
            "metrics.acc > 0.8": "a", "metrics.acc < 0.65": "ba", "metrics.acc != 0.6": "ba",
        }  # fmt: skip
        for filter, expected in table.items():
            assert names(filter) == expected, filter
        test, train = DatasetFilter("test"), DatasetFilter("train", "1")
        assert names("metrics.acc > 0.8", datasets=[test]) == ""
        assert names("metrics.acc > 0.8", datasets=[test, train]) == "a"
        assert names("metrics.acc = 0.7", datasets=[DatasetFilter("test", "1")]) == ""
        assert names(datasets=[test]) == "ba"
        assert names(datasets=[DatasetFilter("test", "2")]) == "a"
        assert names(datasets=[DatasetFilter("' OR 1=1 --")]) == ""
        assert names(order_by=[ModelOrder("name")]) == "abc"
        assert names(order_by=[ModelOrder("metrics.acc")]) == "abc"  # 0.7, NaN or 0.8, none
        kept = experiments.keeps.model_points
        assert names(order_by=[ModelOrder("metrics.acc", False)]) == ("abc" if kept else "bac")
        assert names(order_by=[ModelOrder("metrics.acc", True, train)]) == "bac"
        pages = everything(
            lambda **page: experiments.search_logged_models(
                [experiment_id], order_by=[ModelOrder("metrics.acc", True, train)], **page
            ),
            limit=1,
        )
        assert "".join(model.name for model in pages) == "bac"
        for bad in ("colour", "metrics.", "params.depth", "metrics.a`b", "name; DROP TABLE run"):
            with pytest.raises(InvalidInputError):
                names(order_by=[ModelOrder(bad)])
        with pytest.raises(InvalidInputError, match="Invalid entity type 'datasets'"):
            names("datasets.name = 'a'")

    def test_a_logged_models_metrics(
        self, experiments: Experiments, measured: dict[str, LoggedModel]
    ) -> None:
        a = measured["a"]
        found = experiments.get_logged_model(a.id).metrics
        assert {(m.metric.dataset_name, m.metric.dataset_digest): m.metric.value for m in found} == {
            ("train", "1"): 0.9, ("test", "1"): 0.5, ("test", "2"): 0.7,
        }  # fmt: skip
        assert experiments.create_logged_model(a.experiment_id).metrics == ()
        assert a.run_id is not None
        unit = experiments.keeps.time_us
        newer = Metric("acc", 0.1, 5, 9 * unit, a.id, "train", "1")
        older = Metric("acc", 0.2, 1, unit, a.id, "test", "2")
        experiments.log(a.run_id, metrics=[newer, older])
        found = experiments.get_logged_model(a.id).metrics
        assert sorted(m.metric.value for m in found) == [0.1, 0.5, 0.7]
        assert {m.run_id for m in found} == {a.run_id}
