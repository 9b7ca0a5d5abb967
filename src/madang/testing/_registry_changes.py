"""The part of the registry contract's suite on what can be changed, searched and refused."""

from __future__ import annotations

from typing import Any

import pytest

from madang.deployment.serving import Arm
from madang.development.experiments import STAGES, AliasMove, ModelVersion, Registry
from madang.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from madang.stack import Stack
from madang.testing._experiments_search import everything
from madang.testing._experiments_stored import done, need, tick

UPLOADED = "s3://elsewhere/model"


def uploaded(registry: Registry, name: str = "m", **options: Any) -> ModelVersion:
    """A version whose files are elsewhere, which costs the least."""
    return registry.add_version(name, options.pop("source", UPLOADED), **options)


class RegistryChangesContract:
    """Needs fixtures `stack` and `registry`: an empty `Registry`, and its project."""

    # -- models --

    def test_a_models_life(self, stack: Stack, registry: Registry) -> None:
        made = registry.create_model("m", description="first", tags={"a": "1"})
        assert registry.get_model("m") == made
        assert (made.description, made.tags, made.aliases) == ("first", {"a": "1"}, {})
        with pytest.raises(AlreadyExistsError, match="there is a model 'm' already"):
            registry.create_model("m")
        with pytest.raises(NotFoundError, match="there is no model 'm'; registered are: m"):
            registry.get("m")  # it has no version yet
        assert registry.versions("m") == []
        registry.set_model_tags("m", {"a": "2", "b": "3"})
        for _ in range(2):
            registry.delete_model_tag("m", "a")
        assert registry.describe_model("m", "second").description == "second"
        uploaded(registry)
        registry.set_alias("m", "champion", 1)
        found = registry.get_model("m")
        assert (found.tags, found.aliases) == ({"b": "3"}, {"champion": 1})
        assert found.updated_us >= found.created_us == made.created_us
        registry.delete_model("m")
        assert registry.models() == []
        kinds = [line.kind for line in done(stack.ledger.lines(kind="model.*", newest_first=False))]
        words = ["create", "tag", "untag", "update", "register", "alias", "delete"]
        assert kinds == [f"model.{word}" for word in words]
        assert stack.ledger.verify().ok

    def test_a_deleted_models_numbers_are_not_used_again(
        self, stack: Stack, registry: Registry
    ) -> None:
        for _ in range(2):
            uploaded(registry, tags={"old": "x"})
        registry.set_alias("m", "champion", 2)
        registry.set_model_tags("m", {"old": "x"})
        registry.delete_model("m")
        for call in (registry.get, registry.get_model, registry.versions, registry.delete_model):
            with pytest.raises(NotFoundError, match="there is no model 'm'; registered are: none"):
                call("m")
        with pytest.raises(NotFoundError):
            registry.get("m", "champion")
        assert registry.search_versions().items == ()
        number = uploaded(registry).version
        found = registry.get_model("m")
        assert (found.tags, found.aliases, found.description) == ({}, {}, "")
        assert [version.version for version in registry.versions("m")] == [number]
        need(stack.experiments.keeps.numbers, "the numbers of versions of a deleted model")
        assert number == 3

    def test_a_renamed_model_keeps_everything(self, stack: Stack, registry: Registry) -> None:
        registry.create_model("m", description="d", tags={"a": "1"})
        first = uploaded(registry, tags={"v": "1"})
        uploaded(registry)
        registry.delete_version("m", 2)
        registry.set_alias("m", "champion", 1)
        renamed = registry.rename_model("m", "n")
        assert (renamed.description, renamed.tags) == ("d", {"a": "1"})
        assert renamed.aliases == {"champion": 1}
        found = registry.get("n", "champion")
        assert (found.version, found.tags, found.source) == (1, {"v": "1"}, first.source)
        assert registry.models() == ["n"]
        assert uploaded(registry, "n").version == 3
        assert registry.rename_model("n", "n").name == "n"
        line = done(stack.ledger.lines(kind="model.rename"))[0]
        assert line.inputs == ("model:m", "model:m@1")
        assert line.outputs == ("model:n", "model:n@1")
        need(stack.experiments.keeps.numbers, "the numbers of versions of a renamed model")
        assert uploaded(registry, "m").version == 3  # m@1 and m@2 were others

    def test_the_name_of_a_deleted_model_is_not_used_again(
        self, stack: Stack, registry: Registry
    ) -> None:
        need(stack.experiments.keeps.numbers, "the names of deleted models")
        for name in ("m", "gone"):
            uploaded(registry, name)
        registry.delete_model("gone")
        with pytest.raises(AlreadyExistsError, match="the name 'gone' is taken, or was"):
            registry.rename_model("m", "gone")

    def test_names_that_a_model_can_not_get(self, registry: Registry) -> None:
        for name in ("m", "n"):
            uploaded(registry, name)
        registry.create_model("empty")
        registry.delete_model("empty")
        with pytest.raises(AlreadyExistsError, match="the name 'n' is taken, or was"):
            registry.rename_model("m", "n")
        for bad in ("", "a/b", "..", "x" * 201):
            with pytest.raises(InvalidInputError, match="a model's name has letters"):
                registry.rename_model("m", bad)
            with pytest.raises(InvalidInputError, match="a model's name has letters"):
                registry.create_model(bad)
        with pytest.raises(NotFoundError, match="there is no model 'x'; registered are: m, n"):
            registry.rename_model("x", "y")
        assert registry.models() == ["m", "n"]
        assert registry.rename_model("m", "empty").name == "empty"  # that never had a version

    # -- versions --

    def test_a_versions_changes(self, stack: Stack, registry: Registry) -> None:
        run = stack.experiments.start_run("e")
        logged = stack.experiments.create_logged_model(run.experiment_id, run_id=run.id)
        made = uploaded(
            registry, run_id=run.id, run_link="http://x", model_id=logged.id,
            inputs=["dataset:d@1"], tags={"a": "1"}, description="first",
        )  # fmt: skip
        assert made == registry.get("m", 1)
        assert made.inputs == (f"run:{run.id}", f"logged_model:{logged.id}", "dataset:d@1")
        assert (made.format, made.location, made.digest) == ("object", "", "")
        assert (made.run_id, made.run_link, made.model_id) == (run.id, "http://x", logged.id)
        registry.set_version_tags("m", 1, {"a": "2", "b": "3"})
        for _ in range(2):
            registry.delete_version_tag("m", 1, "a")
        assert registry.describe_version("m", 1, "second").description == "second"
        found = registry.get("m", 1)
        assert (found.tags, found.source, found.user) == ({"b": "3"}, UPLOADED, made.user)
        assert found.updated_us >= found.created_us == made.created_us
        lines = done(stack.ledger.lines(subject="model:m@1", newest_first=False))
        words = ["register", "version.tag", "version.untag", "version.update"]
        assert [line.kind for line in lines] == [f"model.{word}" for word in words]

    def test_a_deleted_versions_number_is_not_used_again(self, registry: Registry) -> None:
        for _ in range(3):
            uploaded(registry)
        registry.set_alias("m", "champion", 3)
        registry.set_alias("m", "other", 1)
        registry.delete_version("m", 3)
        assert registry.get_model("m").aliases == {"other": 1}
        assert registry.get("m").version == 2
        assert [version.version for version in registry.versions("m")] == [1, 2]
        with pytest.raises(NotFoundError, match="no version 3; its versions are: 1, 2"):
            registry.delete_version("m", 3)
        assert uploaded(registry).version == 4

    def test_what_is_missing_is_not_changed(self, registry: Registry) -> None:
        uploaded(registry)
        of_version: list[Any] = [
            lambda: registry.describe_version("m", 9, "x"),
            lambda: registry.set_version_tags("m", 9, {"a": "b"}),
            lambda: registry.delete_version_tag("m", 9, "a"),
            lambda: registry.delete_version("m", 9),
            lambda: registry.describe("m", 9),
            lambda: registry.get("m", 2**70),
            lambda: registry.get("m", -1),
            lambda: uploaded(registry, source="models:/m/9"),
        ]
        for call in of_version:
            with pytest.raises(
                NotFoundError, match=r"model 'm' has no version -?\d+; its versions"
            ):
                call()
        of_model: list[Any] = [
            lambda: registry.describe_model("x", "x"),
            lambda: registry.set_model_tags("x", {"a": "b"}),
            lambda: registry.delete_model_tag("x", "a"),
            lambda: registry.delete_model("x"),
            lambda: registry.describe_version("x", 1, "x"),
            lambda: registry.describe("x"),
            lambda: uploaded(registry, source="models:/x@champion"),
        ]
        for call in of_model:
            with pytest.raises(NotFoundError, match="there is no model 'x'; registered are: m"):
                call()
        with pytest.raises(NotFoundError, match="model 'm' has no alias '9999"):
            registry.get("m", "9" * 5_000)
        with pytest.raises(NotFoundError, match="has no run 'nope'"):
            uploaded(registry, run_id="nope")
        with pytest.raises(NotFoundError, match="has no logged model 'm-x'"):
            uploaded(registry, model_id="m-x")
        with pytest.raises(InvalidInputError, match="a tag needs a name"):
            registry.set_version_tags("m", 1, {"": "x"})
        with pytest.raises(InvalidInputError, match="a tag needs a name"):
            registry.create_model("y", tags={"a\n": "x"})
        assert registry.models() == ["m"]

    @pytest.mark.parametrize(
        "source",
        [
            "runs:/../../etc", "mlflow-artifacts:/other/x", "models:/m-1/../../x",
            "mlflow-artifacts:/runs", "runs:/%2e%2e/x", "models:/m",
        ],
    )  # fmt: skip
    def test_sources_that_lead_out_of_the_storage(self, registry: Registry, source: str) -> None:
        with pytest.raises(InvalidInputError, match=r"is no place of a run's|names no version"):
            uploaded(registry, source=source)
        assert registry.models() == []

    def test_a_version_of_a_version(self, registry: Registry) -> None:
        uploaded(registry)
        registry.set_alias("m", "champion", 1)
        for source in ("models:/m/1", "models:/m@champion"):
            copy = uploaded(registry, "copy", source=source)
            assert copy.inputs == ("model:m@1",)
            assert copy.aliases == ()
        assert [version.version for version in registry.versions("copy")] == [1, 2]

    # -- searches --

    def test_searching_models(self, registry: Registry) -> None:
        for name, tags in (("tree", {"team": "a"}), ("Tree", {"team": "b"}), ("linear", {})):
            registry.create_model(name, tags=tags)
        uploaded(registry, "tree", tags={"team": "z"})
        uploaded(registry, "gone")
        registry.delete_model("gone")

        def names(filter: str = "", **options: Any) -> list[str]:
            return [model.name for model in registry.search_models(filter, **options).items]

        assert names() == ["Tree", "linear", "tree"]
        assert names("name = 'tree'") == ["tree"]
        assert names("name ILIKE 'TR%'") == ["Tree", "tree"]
        assert names("name LIKE 't%'") == ["tree"]
        assert names("name != 'tree' AND tags.team = 'b'") == ["Tree"]
        assert names("tags.team = 'z'") == []  # its version's, not its own
        assert names("tags.team IS NULL") == ["linear"]
        assert names("tag.`mlflow.prompt.is_prompt` != 'true'") == ["Tree", "linear", "tree"]
        assert names("name = ''' OR 1=1 --'") == []
        assert names(order_by=["name DESC"]) == ["tree", "linear", "Tree"]
        assert names(order_by=["last_updated_timestamp ASC", "name"], limit=50)[-1:] != ["gone"]
        pages = everything(registry.search_models, limit=1)
        assert [model.name for model in pages] == ["Tree", "linear", "tree"]
        for bad in ("version = 1", "params.a = 'b'", "name", "name = tree", "x" * 2_000_000):
            with pytest.raises(InvalidInputError):
                names(bad)
        for limit in (0, 50_001):
            with pytest.raises(InvalidInputError, match="a page has 1 to 50000 results"):
                registry.search_models(limit=limit)

    def test_searching_versions(self, stack: Stack, registry: Registry) -> None:
        run = stack.experiments.start_run("e")
        uploaded(registry, "a", run_id=run.id, tags={"t": "1"})
        tick(stack.experiments)
        uploaded(registry, "a", source="s3://other/model", tags={"t": "2"})
        uploaded(registry, "b")
        tick(stack.experiments)
        uploaded(registry, "b")
        registry.delete_version("b", 1)
        registry.set_model_tags("b", {"t": "1"})

        def refs(filter: str = "", **options: Any) -> list[str]:
            found = registry.search_versions(filter, **options).items
            return [f"{version.name}{version.version}" for version in found]

        assert refs() == ["b2", "a2", "a1"]  # the last changed first
        tick(stack.experiments)
        registry.describe_version("a", 1, "changed")
        assert refs() == ["a1", "b2", "a2"]
        assert refs("name = 'a'") == ["a1", "a2"]
        assert refs(f"run_id = '{run.id}'") == ["a1"]
        assert refs(f"run_id IN ('x', '{run.id}')") == ["a1"]
        assert refs("run_id != 'x'") == ["a1"]
        assert refs("source_path LIKE 's3://o%'") == ["a2"]
        assert refs("version_number >= 2 AND name != 'b'") == ["a2"]
        assert refs("tags.t = '1'") == ["a1"]  # the tag of a version, not of its model
        assert refs("tags.t IS NULL") == ["b2"]
        assert refs("source_path = ''' OR 1=1 --'") == []
        assert refs(order_by=["name ASC", "version_number DESC"]) == ["a2", "a1", "b2"]
        assert refs(order_by=["version_number", "name DESC"]) == ["a1", "b2", "a2"]
        pages = everything(registry.search_versions, order_by=["name DESC"], limit=1)
        assert [version.ref for version in pages] == ["model:b@2", "model:a@1", "model:a@2"]
        for bad in ("version_number = 'x'", "metrics.a = 1", "source = 'x'"):
            with pytest.raises(InvalidInputError):
                refs(bad)
        for limit in (0, 200_001):
            with pytest.raises(InvalidInputError, match="a page has 1 to 200000 results"):
                registry.search_versions(limit=limit)

    # -- aliases and endpoints --

    def test_stages_are_aliases(self, registry: Registry) -> None:
        assert uploaded(registry).stage == "None"
        for stage, alias in STAGES.items():
            registry.set_alias("m", alias, 1)
            assert registry.get("m", alias).stage == stage
            registry.delete_alias("m", alias)
        assert registry.get("m").stage == "None"

    def test_the_guard_is_asked(self, registry: Registry) -> None:
        asked: list[AliasMove] = []
        for _ in range(2):
            uploaded(registry)
        registry.alias_guard = asked.append
        registry.set_alias("m", "champion", 1)
        registry.set_alias("m", "champion", 1)  # no move
        registry.set_alias("m", "champion", 2)
        registry.delete_alias("m", "champion")
        registry.delete_alias("m", "champion")
        assert [(move.alias, move.version, move.previous) for move in asked] == [
            ("champion", 1, None), ("champion", 2, 1), ("champion", None, 2),
        ]  # fmt: skip
        assert {move.model for move in asked} == {"m"}
        assert all(move.actor for move in asked)

    def test_what_the_guard_refuses_stays(self, stack: Stack, registry: Registry) -> None:
        for _ in range(2):
            uploaded(registry)
        registry.set_alias("m", "champion", 1)
        lines = len(done(stack.ledger.lines()))

        def refuse(move: AliasMove) -> None:
            raise PermissionDeniedError(f"{move.alias} may not move")

        registry.alias_guard = refuse
        calls: list[Any] = [
            lambda: registry.set_alias("m", "champion", 2),
            lambda: registry.delete_alias("m", "champion"),
            lambda: registry.delete_version("m", 1),
            lambda: registry.delete_model("m"),
        ]
        for call in calls:
            with pytest.raises(PermissionDeniedError, match="champion may not move"):
                call()
        assert registry.get("m", "champion").version == 1
        assert len(done(stack.ledger.lines())) == lines
        registry.delete_version("m", 2)  # no alias points to it

    def test_an_alias_that_moves_while_the_guard_is_asked(self, registry: Registry) -> None:
        for _ in range(3):
            uploaded(registry)
        registry.set_alias("m", "champion", 1)
        seen: list[int | None] = []

        def meanwhile(move: AliasMove) -> None:
            seen.append(move.previous)
            if len(seen) == 1:  # somebody else is faster
                registry.alias_guard = None
                registry.set_alias("m", "champion", 2)
                registry.alias_guard = meanwhile

        registry.alias_guard = meanwhile
        registry.set_alias("m", "champion", 3)
        assert seen == [1, 2]  # asked again, of what is true now
        assert registry.get("m", "champion").version == 3

    def test_a_served_version_stays(self, stack: Stack, registry: Registry) -> None:
        first, _ = self.add(registry), uploaded(registry)  # type: ignore[attr-defined]  # the suite's
        stack.serving.deploy("live", [Arm("m", first.version)])
        calls: list[tuple[str, Any]] = [
            ("deleted", lambda: registry.delete_version("m", 1)),
            ("deleted", lambda: registry.delete_model("m")),
            ("renamed", lambda: registry.rename_model("m", "n")),
        ]
        for what, call in calls:
            message = f"model 'm' can't be {what}: the endpoint 'live' serves its version 1"
            with pytest.raises(ConflictError, match=message):
                call()
        registry.delete_version("m", 2)
        assert registry.describe("m").endpoints == ("live",)
        stack.serving.undeploy("live")
        assert registry.describe("m").endpoints == ()
        registry.delete_model("m")
        assert registry.models() == []

    def test_a_version_tells_what_it_was_made_from(self, stack: Stack, registry: Registry) -> None:
        run = stack.experiments.start_run("e", inputs=["dataset:a@1", "view:v@h", "code:abc"])
        version = self.add(  # type: ignore[attr-defined]  # the suite's
            registry, run_id=run.id, inputs=["dataset:b@2", "dataset:a@1"]
        )
        found = registry.describe("m")
        assert found.version == version
        assert found.run == stack.experiments.get_run(run.id)
        assert found.datasets == ("dataset:b@2", "dataset:a@1")
        assert found.feature_views == ("view:v@h",)
        assert "code:abc" in found.code
        assert "scikit-learn" in found.requirements
        assert found.endpoints == ()
        lone = registry.describe("lone", uploaded(registry, "lone").version)
        assert (lone.run, lone.datasets, lone.requirements) == (None, (), {})
