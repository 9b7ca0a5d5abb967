"""An MLflow server, by its REST API: `mlflow://host:port`, `mlflow+https://host:port`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import msgspec

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._base import check_names
from madang.development.experiments._rest_base import (
    check_keys,
    checked,
    require_active,
)
from madang.development.experiments._rest_client import Client
from madang.development.experiments._rest_logged import RestLinks, RestLogged
from madang.development.experiments._rest_registry import MLflowRegistry
from madang.development.experiments._rest_runs import RestHistories
from madang.development.experiments._runs import points_of, summary
from madang.development.experiments.contract import Experiments
from madang.development.experiments.mlflow_names import (
    MAX_ITEMS,
    MAX_METRICS,
    MAX_PARAM,
    MAX_PARAMS,
    MAX_TAG,
)
from madang.development.experiments.values import (
    Experiment,
    Keeps,
    Metric,
    Run,
    RunStatus,
)
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from madang.ledger import Line, current_actor, now_us

_ENDS = values.ENDS
_INT64 = range(-(1 << 63), 1 << 63)
_MOST_BYTES = 900_000
"""Of a batch's request, of which MLflow takes 1,000,000."""


class MLflowExperiments(RestLinks, RestLogged, RestHistories, Experiments):
    """Runs and models on an MLflow server, where MLflow's own clients see them.

    The server gives the ids. What is made carries the id of its intent in the tag `madang.intent`,
    so that a request whose answer was lost is looked up before it is sent again. A batch of up to
    1,000 metrics, 100 parameters and 100 tags is one request; a larger one is several, and lands as
    a whole unless this process dies between them: parameters first, so that one which has another
    value stops the rest. MLflow merges points that are equal, which makes logging safe to repeat.
    """

    keeps = Keeps(
        ids=False,
        time_us=1000,
        infinities=False,
        equal_points=False,
        names=False,
        numbers=False,
        links=False,
        model_points=False,
    )

    def __init__(self, context: Context, client: Client) -> None:
        super().__init__(context, client)
        self._registry = MLflowRegistry(self, context, client)

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        return cls(context, Client.from_url(url))

    @property
    def registry(self) -> MLflowRegistry:
        return self._registry

    def health(self) -> Health:
        return self._client.health()

    def close(self) -> None:
        self._client.close()

    # -- runs ---------------------------------------------------------------------------------

    def start_run(
        self,
        experiment: str | Experiment,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
        user: str | None = None,
        start_us: int | None = None,
    ) -> Run:
        if isinstance(experiment, str):
            check_names("an experiment", [experiment])
        texts = checked("a parameter", params, MAX_PARAM)
        labels = checked("a tag", tags, MAX_TAG)
        name = name or labels.pop(values.RUN_NAME, "")
        labels.pop(values.RUN_NAME, None)
        check_names("a run", [name] if name else [])
        if parent_id is not None:
            self._run_document(parent_id)
            labels[values.PARENT] = parent_id
        experiment_id, title = self._experiment_for_runs(experiment)
        parent = labels.get(values.PARENT)
        refs = [*([f"run:{parent}"] if parent else []), *inputs]
        said = {"experiment": title, "name": name}
        subject = f"experiment:{experiment_id}"
        with self._changing("run.start", subject, inputs=refs, data=said) as intent:
            name = intent.data["name"] = name or f"run-{intent.id[-6:]}"
            document = self._client.post(
                "/runs/create",
                messages.CreateRun(
                    experiment_id,
                    user_id=user or current_actor(),
                    run_name=name,
                    start_time=(now_us() if start_us is None else start_us) // 1000,
                    tags=messages.pair_list({**labels, values.INTENT: intent.id}),
                ),
                made=lambda: self._made_run(experiment_id, intent.id),
            )["run"]
            run_id = document["info"]["run_id"]
            intent.subject = f"run:{run_id}"
            intent.outputs = [intent.subject]
            if texts:
                self._send(run_id, texts, [], {})
                document = self._run_document(run_id)
        return values.run(document, title)

    def _made_run(self, experiment_id: str, intent_id: str) -> Mapping[str, Any] | None:
        answer = self._client.post(
            "/runs/search",
            messages.SearchRuns(
                experiment_ids=[experiment_id],
                filter=f"tags.`{values.INTENT}` = '{intent_id}'",
                run_view_type="ALL",
                max_results=1,
            ),
        )
        found = answer.get("runs", ())
        return {"run": found[0]} if found else None

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        texts = checked("a parameter", params, MAX_PARAM)
        labels = checked("a tag", tags, MAX_TAG)
        check_names("a run", [labels[values.RUN_NAME]] if values.RUN_NAME in labels else [])
        points = _kept_points(metrics)
        points = self._new_to_models(run_id, points)
        if not (texts or labels or points):
            require_active(self._run(run_id))
            return
        try:
            self._send(run_id, texts, points, labels)
        except (ConflictError, InvalidInputError, NotFoundError):
            self._explain(run_id, texts)
            raise

    def _new_to_models(self, run_id: str, points: Sequence[Metric]) -> list[Metric]:
        """The points, without the models that have them already: MLflow takes those once only.

        Raises:
            NotFoundError: There is no such logged model.
            InvalidInputError: The value is NaN, which MLflow would keep as 0 of a model.
            ConflictError: The model has another point of that metric, step and time.
        """
        known: dict[tuple[Any, ...], Metric] = {}
        for model_id in dict.fromkeys(point.model_id for point in points if point.model_id):
            for one in values.model_points(self._model_document(model_id)):
                if one.run_id == run_id:
                    known[_key_of_model(one.metric)] = one.metric
        found = []
        for point in points:
            if point.model_id is None:
                found.append(point)
                continue
            if point.value != point.value:
                raise InvalidInputError(
                    f"metric {point.key!r} of {point.model_id} is NaN, which MLflow keeps as 0 of a "
                    "logged model; log it of the run alone"
                )
            is_new = _key_of_model(point) not in known
            kept = known.setdefault(_key_of_model(point), point)
            if _said_of_model(kept) != _said_of_model(point):
                raise ConflictError(
                    f"{point.model_id} has a point of metric {point.key!r} at step {point.step} and "
                    "that time, with another value or dataset, and MLflow keeps one; give it "
                    "another time"
                )
            found.append(point if is_new else replace(point, model_id=None))
        return found

    def _explain(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Says in our words why the server refused a batch, where it is one of the known reasons."""
        run = self._run(run_id)
        require_active(run)
        for key, text in texts.items():
            if run.params.get(key, text) != text:
                raise ConflictError(
                    f"run {run_id} has the parameter {key} = {run.params[key]!r}, and a parameter "
                    f"never changes; {text!r} was not logged: start another run"
                )

    def _send(
        self,
        run_id: str,
        texts: Mapping[str, str],
        points: Sequence[Metric],
        labels: Mapping[str, str],
    ) -> None:
        """Sends a batch; safe to repeat."""
        if len(texts) > MAX_PARAMS:
            self._explain(run_id, texts)  # before the first of several requests
        of_models = any(point.model_id for point in points)
        for batch in _batches(texts, points, labels):
            self._client.post(
                "/runs/log-batch",
                {"run_id": run_id, **batch},
                made=(lambda: self._are_there(run_id, points)) if of_models else None,
            )

    def _are_there(self, run_id: str, points: Sequence[Metric]) -> Mapping[str, Any] | None:
        """Whether a batch came to its models, which are the last of it but for the tags."""
        missing = [one for one in self._new_to_models(run_id, points) if one.model_id]
        return None if missing else {}

    def end_run(
        self,
        run_id: str,
        status: RunStatus = RunStatus.FINISHED,
        *,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        status = RunStatus(status)
        if status not in _ENDS:
            raise InvalidInputError(f"a run ends as {', '.join(_ENDS)}, not as {status}")
        run = self._run(run_id)
        require_active(run)
        if run.status is status:
            self.log(run_id, metrics=metrics, tags=tags)
            return self._run(run_id)
        with self._changing("run.end", f"run:{run_id}") as intent:
            if metrics or tags:
                self.log(run_id, metrics=metrics, tags=tags)
            self._update(run_id, status=status, end_us=now_us())
            run = self._run(run_id)
            intent.data = summary(run)
        return run

    def update_run(
        self,
        run_id: str,
        *,
        name: str | None = None,
        status: RunStatus | None = None,
        end_us: int | None = None,
    ) -> Run:
        if name is not None:
            check_names("a run", [name])
        before = self._run(run_id)
        require_active(before)
        state = before.status if status is None else RunStatus(status)
        ended = before.end_us if end_us is None else end_us - end_us % 1000
        if status is not None and end_us is None:
            ended = (before.end_us or now_us()) if state in _ENDS else None
        if (name or before.name, state, ended) == (before.name, before.status, before.end_us):
            return before
        ends = state is not before.status and state in _ENDS
        said = {"name": name or before.name, "status": state.value}
        with self._changing(
            "run.end" if ends else "run.update", f"run:{run_id}", data=said
        ) as intent:
            self._update(run_id, name=name or "", status=state, end_us=ended)
            run = self._run(run_id)
            if ends:
                intent.data = summary(run)
        return run

    def _update(
        self, run_id: str, *, status: RunStatus, end_us: int | None, name: str = ""
    ) -> None:
        self._client.post(
            "/runs/update",
            messages.UpdateRun(
                run_id=run_id,
                run_name=name,
                status=status.value,
                end_time=None if end_us is None else end_us // 1000,
            ),
        )

    def delete_tag(self, run_id: str, key: str) -> None:
        run = self._run(run_id)
        require_active(run)
        if key not in run.tags:
            raise NotFoundError(f"run {run_id} has no tag {key!r}")
        with self._changing("run.untag", f"run:{run_id}", data={"tag": key}):
            self._client.post(
                "/runs/delete-tag",
                messages.Key(run_id=run_id, key=key),
                made=lambda: None if key in self._run(run_id).tags else {},
            )

    def delete_run(self, run_id: str) -> None:
        self._turn_run(run_id, "delete", "deleted")

    def restore_run(self, run_id: str) -> None:
        self._active(self._run_document(run_id)["info"]["experiment_id"])
        self._turn_run(run_id, "restore", "active")

    def _turn_run(self, run_id: str, word: str, stage: str) -> None:
        def turned() -> Mapping[str, Any] | None:
            is_there = self._run_document(run_id)["info"]["lifecycle_stage"] == stage
            return {} if is_there else None

        if turned() is not None:
            return
        with self._changing(f"run.{word}", f"run:{run_id}"):
            self._client.post(f"/runs/{word}", messages.OfRun(run_id=run_id), made=turned)

    def get_run(self, run_id: str) -> Run:
        return self._run(run_id)

    # -- after a crash ------------------------------------------------------------------------

    def settle(self) -> int:
        """Writes the outcome of what was left open, by what the server has; returns how many.

        Safe to repeat, and to run while others write. What was made is found by its intent's id;
        other changes are safe to repeat, and the outcome says so.
        """
        made = {
            "experiment.create": self._settled_experiment,
            "logged_model.create": self._settled_model,
            "model.register": self._registry.settled_version,
            "run.start": self._settled_run,
        }
        count = sum(self._settle(kind, found) for kind, found in made.items())
        others = [f"{owner}.{word}" for owner, words in _OTHERS.items() for word in words.split()]
        return count + sum(self._settle(kind, _may_be_done) for kind in others)

    def _settled_run(self, line: Line) -> tuple[str, list[str], str]:
        found = self._made_run(line.subject.partition(":")[2], str(line.data["id"]))
        return _settled(line, "run", found["run"]["info"]["run_id"] if found else None)

    def _settled_experiment(self, line: Line) -> tuple[str, list[str], str]:
        found = self._made(str(line.data["name"]), str(line.data["id"]))
        return _settled(line, "experiment", found["experiment_id"] if found else None)

    def _settled_model(self, line: Line) -> tuple[str, list[str], str]:
        found = self._made_model(str(line.data["experiment"]), str(line.data["id"]))
        return _settled(line, "logged_model", found["model"]["info"]["model_id"] if found else None)


_OTHERS = {
    "experiment": "delete rename restore tag untag",
    "logged_model": "delete finalize param tag untag",
    "model": "alias create delete rename tag untag update version.delete version.tag "
    "version.untag version.update",
    "run": "artifact artifact.delete delete end input output restore untag update",
}
"""What changes what is there already, by the words of its lines."""


def _may_be_done(line: Line) -> tuple[str, list[str], str]:
    return line.subject, [], "may be done in part; repeating it does the rest"


def _settled(line: Line, what: str, found: str | None) -> tuple[str, list[str], str]:
    if found is None:
        return line.subject, [], "nothing was made"
    return f"{what}:{found}", [f"{what}:{found}"], "made"


def _key_of_model(point: Metric) -> tuple[Any, ...]:
    """By what MLflow tells apart the points of a run's models."""
    return point.model_id, point.key, point.timestamp_us // 1000, point.step


def _said_of_model(point: Metric) -> tuple[Any, ...]:
    largest = sys.float_info.max
    value = max(-largest, min(point.value, largest))
    return value, point.dataset_name, point.dataset_digest


def _kept_points(metrics: Sequence[Metric] | Mapping[str, float]) -> list[Metric]:
    points = points_of(metrics)
    check_keys("a metric", list(dict.fromkeys(point.key for point in points)))
    for point in points:
        if point.step not in _INT64 or point.timestamp_us not in _INT64:
            raise InvalidInputError(
                f"metric {point.key!r} has step {point.step} and time {point.timestamp_us}; both "
                "are integers of 64 bits"
            )
    return points


def _batches(
    texts: Mapping[str, str], points: Sequence[Metric], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The requests of a batch, each within MLflow's limits: parameters, metrics, tags."""
    items = [
        *(("params", form) for form in messages.pairs(texts)),
        *(("metrics", messages.point(one)) for one in points),
        *(("tags", form) for form in messages.pairs(labels)),
    ]
    found: list[dict[str, Any]] = []
    count = size = 0
    for kind, form in items:
        cost = len(msgspec.json.encode(form)) + 1
        most = MAX_METRICS if kind == "metrics" else MAX_PARAMS
        if (
            not found
            or len(found[-1].get(kind, ())) == most
            or count == MAX_ITEMS
            or size + cost > _MOST_BYTES
        ):
            found.append({})
            count = size = 0
        found[-1].setdefault(kind, []).append(form)
        count, size = count + 1, size + cost
    return found
