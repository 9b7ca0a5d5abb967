"""Experiments of an MLflow server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._base import check_names
from madang.development.experiments._filter import Entity
from madang.development.experiments._languages import EXPERIMENTS, EXPERIMENTS_TAIL
from madang.development.experiments._memory_search import MemorySearch
from madang.development.experiments._rest_base import (
    MAX_EXPERIMENT_TAG,
    RestPart,
    checked,
)
from madang.development.experiments.contract import NamedExperiments
from madang.development.experiments.values import Experiment, Lifecycle, Page, View
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError

VIEWS = {View.ACTIVE: "ACTIVE_ONLY", View.DELETED: "DELETED_ONLY", View.ALL: "ALL"}


class _Search(MemorySearch[Experiment]):
    language = EXPERIMENTS
    tail = EXPERIMENTS_TAIL

    def attribute(self, item: Experiment, key: str) -> str | float | None:
        found: Mapping[str, str | float | None] = {
            "created": item.created_us,
            "creation_time": item.created_us // 1000,
            "experiment_id": item.id,
            "last_update_time": item.updated_us // 1000,
            "name": item.name,
        }
        return found[key]

    def values(self, item: Experiment, entity: Entity, key: str) -> Sequence[str | float]:
        return [item.tags[key]] if key in item.tags else []


class RestNamed(RestPart, NamedExperiments):
    """MLflow's own experiments; its server gives their ids."""

    def create_experiment(self, name: str, *, tags: Mapping[str, str] | None = None) -> Experiment:
        check_names("an experiment", [name])
        labels = checked("a tag", tags, MAX_EXPERIMENT_TAG)
        if self.find_experiment(name):
            raise self._taken(name)
        return self._experiment(self._create(name, labels))

    def _create(self, name: str, labels: Mapping[str, str]) -> str:
        said = {"name": name, "tags": dict(labels)}
        with self._changing("experiment.create", f"experiment:{name}", data=said) as intent:
            tags = messages.pair_list({**labels, values.INTENT: intent.id})
            try:
                answer = self._client.post(
                    "/experiments/create",
                    messages.CreateExperiment(name, tags=tags),
                    made=lambda: self._made(name, intent.id),
                )
            except AlreadyExistsError as error:
                raise self._taken(name) from error
            intent.subject = f"experiment:{answer['experiment_id']}"
            intent.outputs = [intent.subject]
        return str(answer["experiment_id"])

    def _made(self, name: str, intent_id: str) -> Mapping[str, str] | None:
        found = self._named(name)
        if found is None:
            return None
        tags = values.pairs_of(found.get("tags", ()))
        is_ours = tags.get(values.INTENT) == intent_id
        return {"experiment_id": found["experiment_id"]} if is_ours else None

    def _taken(self, name: str) -> AlreadyExistsError:
        return AlreadyExistsError(
            f"there is an experiment {name!r} already, maybe a deleted one; choose another name, "
            "restore it, or purge what is deleted (mlflow gc)"
        )

    def _experiment_for_runs(self, experiment: str | Experiment) -> tuple[str, str]:
        """The id and name of an experiment that takes runs; one by name is made if need be.

        Raises:
            NotFoundError: There is no such experiment.
            ConflictError: It is deleted.
        """
        if isinstance(experiment, Experiment):
            found: Experiment | None = self._experiment(experiment.id)
        else:
            found = self.find_experiment(experiment)
        if found is None:
            try:
                return self._create(str(experiment), {}), str(experiment)
            except AlreadyExistsError:  # somebody was faster
                found = self.find_experiment(str(experiment))
                if found is None:
                    raise
        _require_active(found)
        return found.id, found.name

    def get_experiment(self, experiment_id: str) -> Experiment:
        return self._experiment(experiment_id)

    def find_experiment(self, name: str) -> Experiment | None:
        found = self._named(name)
        return None if found is None else values.experiment(found)

    def _named(self, name: str) -> Mapping[str, Any] | None:
        try:
            answer = self._client.get("/experiments/get-by-name", messages.ExperimentByName(name))
        except NotFoundError:
            return None
        found: Mapping[str, Any] = answer["experiment"]
        return found

    def search_experiments(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[Experiment]:
        search = _Search(filter, order_by, limit, page_token, scope=[view])
        return search.page(self._experiments(view))

    def _experiments(self, view: View) -> list[Experiment]:
        found = self._all(
            lambda token: self._client.post(
                "/experiments/search",
                messages.SearchExperiments(
                    max_results=10_000, view_type=VIEWS[View(view)], page_token=token
                ),
            ),
            "experiments",
        )
        return [values.experiment(one) for one in found]

    # -- changes ------------------------------------------------------------------------------

    def rename_experiment(self, experiment_id: str, name: str) -> None:
        check_names("an experiment", [name])
        found = self._active(experiment_id)
        if found.name == name:
            return
        taken = AlreadyExistsError(f"there is an experiment {name!r} already")
        if self.find_experiment(name):
            raise taken
        said = {"name": name, "previous": found.name}
        with self._changing("experiment.rename", f"experiment:{experiment_id}", data=said):
            self._post("update", messages.UpdateExperiment(experiment_id, name))

    def set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        labels = checked("a tag", tags, MAX_EXPERIMENT_TAG)
        self._active(experiment_id)
        said = {"tags": labels}
        with self._changing("experiment.tag", f"experiment:{experiment_id}", data=said):
            for key, value in labels.items():
                self._post("set-experiment-tag", messages.ExperimentTag(experiment_id, key, value))

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        if key not in self._active(experiment_id).tags:
            raise NotFoundError(f"experiment {experiment_id} has no tag {key!r}")
        with self._changing("experiment.untag", f"experiment:{experiment_id}", data={"tag": key}):
            self._delete_tag(experiment_id, key)

    def delete_experiment(self, experiment_id: str) -> None:
        if self._experiment(experiment_id).lifecycle is Lifecycle.DELETED:
            return
        before = ",".join(self._deleted_runs(experiment_id))
        with self._changing("experiment.delete", f"experiment:{experiment_id}"):
            notes = values.split(before, values.DELETED_RUNS, MAX_EXPERIMENT_TAG)
            for key, value in notes.items():
                self._post("set-experiment-tag", messages.ExperimentTag(experiment_id, key, value))
            self._turn(experiment_id, Lifecycle.DELETED, "delete")

    def restore_experiment(self, experiment_id: str) -> None:
        document = self._experiment_document(experiment_id)
        if values.experiment(document).lifecycle is Lifecycle.ACTIVE:
            return
        notes = values.pairs_of(document.get("tags", ()))
        before = values.joined(notes, values.DELETED_RUNS)
        with self._changing("experiment.restore", f"experiment:{experiment_id}"):
            self._turn(experiment_id, Lifecycle.ACTIVE, "restore")
            for run_id in before.split(",") if before else ():
                self._client.post("/runs/delete", messages.OfRun(run_id=run_id))
            for key in values.split(before, values.DELETED_RUNS, MAX_EXPERIMENT_TAG):
                self._delete_tag(experiment_id, key)

    @abstractmethod
    def _deleted_runs(self, experiment_id: str) -> list[str]:
        """The ids of the deleted runs of an experiment."""

    def _turn(self, experiment_id: str, lifecycle: Lifecycle, word: str) -> None:
        self._client.post(
            f"/experiments/{word}",
            messages.Experiment(experiment_id),
            made=lambda: {} if self._experiment(experiment_id).lifecycle is lifecycle else None,
        )

    def _delete_tag(self, experiment_id: str, key: str) -> None:
        def gone() -> dict[str, str] | None:
            tags = self._experiment_document(experiment_id).get("tags", ())
            return None if key in values.pairs_of(tags) else {}

        message = messages.ExperimentTag(experiment_id, key)
        self._client.post("/experiments/delete-experiment-tag", message, made=gone)

    def _post(self, path: str, message: object) -> None:
        self._client.post(f"/experiments/{path}", message)

    def _active(self, experiment_id: str) -> Experiment:
        found = self._experiment(experiment_id)
        _require_active(found)
        return found


def _require_active(found: Experiment) -> None:
    if found.lifecycle is Lifecycle.DELETED:
        raise ConflictError(f"experiment {found.name!r} is deleted; restore it first")
