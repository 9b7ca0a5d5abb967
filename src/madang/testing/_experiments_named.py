"""The part of the experiments contract's suite on experiments and on what becomes of runs."""

from __future__ import annotations

from typing import Any

import pytest

from madang.development.experiments import (
    DEFAULT_EXPERIMENT,
    DEFAULT_EXPERIMENT_ID,
    Experiments,
    Lifecycle,
    RunStatus,
    View,
)
from madang.errors import AlreadyExistsError, ConflictError, InvalidInputError, NotFoundError
from madang.stack import Stack
from madang.testing._experiments_search import everything
from madang.testing._experiments_stored import done, tick

PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"


class NamedContract:
    """Needs fixtures `stack` and `experiments`: an empty `Experiments`, and its project."""

    # -- experiments --

    def test_an_experiment_by_id_and_name(self, experiments: Experiments) -> None:
        made = experiments.create_experiment("flights", tags={"team": "a"})
        assert (made.name, made.tags, made.lifecycle) == ("flights", {"team": "a"}, "active")
        assert 0 < made.created_us == made.updated_us
        assert experiments.get_experiment(made.id) == made
        assert experiments.find_experiment("flights") == made
        assert experiments.find_experiment("flight") is None
        assert experiments.start_run("flights").experiment_id == made.id

    def test_the_default_experiment_is_always_there(self, experiments: Experiments) -> None:
        found = experiments.get_experiment(DEFAULT_EXPERIMENT_ID)
        assert (found.id, found.name) == (DEFAULT_EXPERIMENT_ID, DEFAULT_EXPERIMENT)
        assert experiments.find_experiment(DEFAULT_EXPERIMENT) == found
        assert [e.id for e in experiments.search_experiments().items] == [DEFAULT_EXPERIMENT_ID]
        assert experiments.start_run(DEFAULT_EXPERIMENT).experiment_id == DEFAULT_EXPERIMENT_ID

    def test_the_default_experiments_name_is_taken(self, experiments: Experiments) -> None:
        other = experiments.create_experiment("other")
        with pytest.raises(AlreadyExistsError, match="there is an experiment 'Default' already"):
            experiments.rename_experiment(other.id, DEFAULT_EXPERIMENT)
        with pytest.raises(AlreadyExistsError, match="there is an experiment 'Default' already"):
            experiments.create_experiment(DEFAULT_EXPERIMENT)
        assert experiments.get_experiment(DEFAULT_EXPERIMENT_ID).name == DEFAULT_EXPERIMENT

    def test_a_renamed_default_experiment_frees_its_name(self, experiments: Experiments) -> None:
        experiments.rename_experiment(DEFAULT_EXPERIMENT_ID, "mine")
        made = experiments.create_experiment(DEFAULT_EXPERIMENT)
        assert made.id != DEFAULT_EXPERIMENT_ID
        assert experiments.get_experiment(DEFAULT_EXPERIMENT_ID).name == "mine"

    def test_names_are_taken_also_by_deleted_ones(self, experiments: Experiments) -> None:
        gone = experiments.create_experiment("gone")
        other = experiments.create_experiment("other")
        experiments.delete_experiment(gone.id)
        with pytest.raises(AlreadyExistsError, match="'gone' already, maybe a deleted one"):
            experiments.create_experiment("gone")
        with pytest.raises(AlreadyExistsError, match="there is an experiment 'gone' already"):
            experiments.rename_experiment(other.id, "gone")
        with pytest.raises(ConflictError, match="experiment 'gone' is deleted; restore it first"):
            experiments.start_run("gone")
        found = experiments.find_experiment("gone")
        assert found is not None
        assert found.lifecycle is Lifecycle.DELETED

    @pytest.mark.parametrize("name", ["", "a\nb", "\0", "x" * 251])
    def test_bad_experiment_names(self, experiments: Experiments, name: str) -> None:
        made = experiments.create_experiment("e")
        calls: list[Any] = [
            lambda: experiments.create_experiment(name),
            lambda: experiments.create_experiment("f", tags={name: "x"}),
            lambda: experiments.rename_experiment(made.id, name),
            lambda: experiments.set_experiment_tags(made.id, {"ok": "x", name: "x"}),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError, match="needs a name of 1 to 250"):
                call()
        assert experiments.get_experiment(made.id) == made
        assert experiments.find_experiment("f") is None

    def test_renaming_and_tagging(self, stack: Stack, experiments: Experiments) -> None:
        made = experiments.create_experiment("e", tags={"a": "1"})
        run = experiments.start_run(made)
        experiments.rename_experiment(made.id, "f")
        experiments.rename_experiment(made.id, "f")  # nothing more to do
        experiments.set_experiment_tags(made.id, {"a": "2", "b": "3"})
        experiments.delete_experiment_tag(made.id, "a")
        found = experiments.get_experiment(made.id)
        assert (found.name, found.tags) == ("f", {"b": "3"})
        assert found.updated_us >= found.created_us == made.created_us
        assert experiments.find_experiment("e") is None
        assert experiments.get_run(run.id).experiment == "f"
        with pytest.raises(NotFoundError, match=f"experiment {made.id} has no tag 'a'"):
            experiments.delete_experiment_tag(made.id, "a")

    def test_a_missing_experiment(self, experiments: Experiments) -> None:
        calls: list[Any] = [
            lambda: experiments.get_experiment("nope"),
            lambda: experiments.rename_experiment("nope", "x"),
            lambda: experiments.set_experiment_tags("nope", {"a": "b"}),
            lambda: experiments.delete_experiment_tag("nope", "a"),
            lambda: experiments.delete_experiment("nope"),
            lambda: experiments.restore_experiment("nope"),
            lambda: experiments.create_logged_model("nope"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError, match="has no experiment 'nope'"):
                call()

    def test_a_deleted_experiment_comes_back_with_its_runs(self, experiments: Experiments) -> None:
        stays = experiments.start_run("e", tags={"a": "b"})
        gone = experiments.start_run("e")
        experiments.delete_run(gone.id)
        for _ in range(2):
            experiments.delete_experiment(stays.experiment_id)
        assert experiments.search_runs([stays.experiment_id]).items == ()
        assert experiments.get_run(stays.id).lifecycle is Lifecycle.DELETED
        calls: list[Any] = [
            lambda: experiments.start_run("e"),
            lambda: experiments.rename_experiment(stays.experiment_id, "f"),
            lambda: experiments.set_experiment_tags(stays.experiment_id, {"a": "b"}),
            lambda: experiments.restore_run(stays.id),
            lambda: experiments.create_logged_model(stays.experiment_id),
        ]
        for call in calls:
            with pytest.raises(ConflictError, match="experiment 'e' is deleted; restore it first"):
                call()
        for _ in range(2):
            experiments.restore_experiment(stays.experiment_id)
        assert experiments.get_run(stays.id) == stays
        assert experiments.get_run(gone.id).lifecycle is Lifecycle.DELETED
        assert [run.id for run in experiments.runs("e")] == [stays.id]

    def test_searching_experiments(self, experiments: Experiments) -> None:
        assert experiments.find_experiment(DEFAULT_EXPERIMENT) is not None
        made = {}
        for name in ("alpha", "beta", "it's", "Alpha"):
            tick(experiments)
            made[name] = experiments.create_experiment(name, tags={"team": name[0]})
        experiments.delete_experiment(made["beta"].id)

        def names(filter: str = "", **options: Any) -> list[str]:
            return [e.name for e in experiments.search_experiments(filter, **options).items]

        assert names() == ["Alpha", "it's", "alpha", "Default"]  # the newest first
        assert names(view=View.DELETED) == ["beta"]
        assert len(names(view=View.ALL)) == 5
        assert names("name = 'it''s'") == ["it's"]
        assert names("attribute.name LIKE 'a%'") == ["alpha"]
        assert names("name ILIKE 'a%'", order_by=["name"]) == ["Alpha", "alpha"]
        assert names("tags.team = 'A'") == ["Alpha"]
        assert names("tags.team IS NULL") == ["Default"]
        assert names(f"experiment_id IN ('{made['alpha'].id}', '0')", order_by=["name DESC"]) == [
            "alpha",
            "Default",
        ]
        assert names(f"creation_time > {made['Alpha'].created_us // 1000}") == []
        assert names("last_update_time > 0 AND name != 'alpha'", order_by=["name"]) == [
            "Alpha",
            "Default",
            "it's",
        ]
        pages = everything(
            experiments.search_experiments, order_by=["name"], view=View.ALL, limit=2
        )
        assert [e.name for e in pages] == ["Alpha", "Default", "alpha", "beta", "it's"]
        with pytest.raises(InvalidInputError, match="Invalid entity type 'metrics'"):
            experiments.search_experiments("metrics.m = 1")
        with pytest.raises(InvalidInputError, match="Invalid attribute key 'colour'"):
            experiments.search_experiments(order_by=["colour"])

    def test_changes_of_experiments_stand_in_the_ledger(
        self, stack: Stack, experiments: Experiments
    ) -> None:
        made = experiments.create_experiment("e")
        experiments.rename_experiment(made.id, "f")
        experiments.set_experiment_tags(made.id, {"a": "b"})
        experiments.delete_experiment_tag(made.id, "a")
        for _ in range(2):  # what changes nothing writes nothing
            experiments.delete_experiment(made.id)
        for _ in range(2):
            experiments.restore_experiment(made.id)
        lines = done(stack.ledger.lines(subject=f"experiment:{made.id}", newest_first=False))
        words = ["create", "rename", "tag", "untag", "delete", "restore"]
        assert [line.kind for line in lines] == [f"experiment.{word}" for word in words]
        assert stack.ledger.verify().ok

    # -- runs --

    def test_a_run_is_changed(self, experiments: Experiments) -> None:
        unit = experiments.keeps.time_us
        run = experiments.start_run("e", name="first", user="ann", start_us=5 * unit)
        assert (run.start_us, run.user, run.experiment) == (5 * unit, "ann", "e")
        assert experiments.update_run(run.id, name="second").name == "second"
        ended = experiments.update_run(run.id, status=RunStatus.FAILED, end_us=7 * unit)
        assert (ended.status, ended.end_us, ended.name) == ("FAILED", 7 * unit, "second")
        again = experiments.update_run(run.id, status=RunStatus.KILLED)
        assert (again.status, again.end_us) == ("KILLED", 7 * unit)
        resumed = experiments.update_run(run.id, status=RunStatus.RUNNING)
        assert (resumed.status, resumed.end_us) == ("RUNNING", None)
        now = experiments.update_run(run.id, status=RunStatus.FINISHED)
        assert now.end_us is not None
        assert now.end_us > 7 * unit
        assert experiments.update_run(run.id) == now == experiments.get_run(run.id)
        with pytest.raises(InvalidInputError, match="a run needs a name"):
            experiments.update_run(run.id, name="")

    def test_tags_name_and_nest(self, experiments: Experiments) -> None:
        parent = experiments.start_run("e", tags={RUN_NAME: "parent"})
        child = experiments.start_run("e", tags={PARENT: parent.id})
        assert (parent.name, parent.tags) == ("parent", {})
        assert (child.parent_id, child.tags) == (parent.id, {PARENT: parent.id})
        assert experiments.start_run("e", name="b", tags={RUN_NAME: "a"}).name == "b"
        other = experiments.start_run("e", parent_id=child.id)
        assert other.tags == {PARENT: child.id}
        experiments.log(other.id, tags={PARENT: parent.id, RUN_NAME: "moved"})
        found = experiments.get_run(other.id)
        assert (found.parent_id, found.name) == (parent.id, "moved")
        assert {run.id for run in experiments.runs(parent_id=parent.id)} == {child.id, other.id}
        nested = experiments.search_runs(None, f"tags.{PARENT} = '{parent.id}'").items
        assert {run.id for run in nested} == {child.id, other.id}
        experiments.delete_tag(other.id, PARENT)
        assert experiments.get_run(other.id).parent_id is None
        for bad in ("", "a\nb"):
            with pytest.raises(InvalidInputError, match="a run needs a name"):
                experiments.log(other.id, tags={RUN_NAME: bad, "t": "x"})
        assert experiments.get_run(other.id).tags == {}

    def test_a_tag_is_deleted(self, experiments: Experiments) -> None:
        run = experiments.start_run("e", tags={"a": "1", "b": "2"})
        experiments.delete_tag(run.id, "a")
        assert experiments.get_run(run.id).tags == {"b": "2"}
        with pytest.raises(NotFoundError, match=f"run {run.id} has no tag 'a'"):
            experiments.delete_tag(run.id, "a")

    def test_a_deleted_run_is_kept_and_comes_back(
        self, stack: Stack, experiments: Experiments
    ) -> None:
        run = experiments.start_run("e", params={"p": 1})
        for _ in range(2):
            experiments.delete_run(run.id)
        assert experiments.runs("e") == []
        assert [r.id for r in experiments.search_runs(view=View.DELETED).items] == [run.id]
        assert experiments.search_runs(view=View.ACTIVE).items == ()
        calls: list[Any] = [
            lambda: experiments.log(run.id, params={"q": 1}),
            lambda: experiments.log(run.id, metrics={"m": 1.0}),
            lambda: experiments.update_run(run.id, name="x"),
            lambda: experiments.end_run(run.id),
            lambda: experiments.delete_tag(run.id, "a"),
            lambda: experiments.log_inputs(run.id),
            lambda: experiments.log_outputs(run.id, []),
        ]
        for call in calls:
            with pytest.raises(ConflictError, match=f"run {run.id} is deleted; restore it first"):
                call()
        for _ in range(2):
            experiments.restore_run(run.id)
        assert experiments.get_run(run.id) == run
        assert [r.id for r in experiments.search_runs(view=View.ALL).items] == [run.id]
        kinds = [line.kind for line in done(stack.ledger.lines(subject=f"run:{run.id}"))]
        assert kinds == ["run.restore", "run.delete", "run.start"]

    def test_runs_that_are_missing(self, experiments: Experiments) -> None:
        calls: list[Any] = [
            lambda: experiments.update_run("nope", name="x"),
            lambda: experiments.delete_tag("nope", "a"),
            lambda: experiments.delete_run("nope"),
            lambda: experiments.restore_run("nope"),
            lambda: experiments.metric_page("nope", "m"),
            lambda: experiments.metric_table("nope", "m"),
            lambda: experiments.metric_sample("nope", "m"),
            lambda: experiments.log_inputs("nope"),
            lambda: experiments.log_outputs("nope", []),
        ]
        for call in calls:
            with pytest.raises(NotFoundError, match="has no run 'nope'"):
                call()
