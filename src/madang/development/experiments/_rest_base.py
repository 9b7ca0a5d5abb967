"""What the parts of the engine for an MLflow server share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from madang.development.experiments import (
    _rest_values as values,
    mlflow_messages as messages,
    mlflow_names as names,
)
from madang.development.experiments._base import check_names
from madang.development.experiments._rest_client import Client
from madang.development.experiments.values import Experiment, Lifecycle, LoggedModel, Run
from madang.engines import Context
from madang.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from madang.ledger import Intent, Line

MAX_EXPERIMENT_TAG, MAX_REGISTRY_TAG = 20_000, 100_000
"""Characters that MLflow keeps of a tag (mlflow.utils.validation)."""

_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}", re.ASCII)
"""Ids that MLflow's server looks up (mlflow.utils.validation); others are of nothing there."""


class RestPart:
    """A part of the engine: a client, and the project's ledger."""

    def __init__(self, context: Context, client: Client) -> None:
        self._context = context
        self._client = client
        self._ledger = context.ledger
        self._unknown: list[int] = []  # intents whose outcome this process could not learn

    @property
    def unknown(self) -> list[int]:
        """The intents whose outcome this process could not learn, of all parts of the engine."""
        return self._unknown

    # -- asking -------------------------------------------------------------------------------

    def _all(
        self, ask: Callable[[str], Mapping[str, Any]], name: str
    ) -> Iterator[Mapping[str, Any]]:
        """What all pages of a list of the server hold; `ask` gets the page's token."""
        token = ""
        while True:
            answer = ask(token)
            yield from answer.get(name, ())
            token = answer.get("next_page_token", "")
            if not token:
                return

    def _run_document(self, run_id: str) -> Mapping[str, Any]:
        if not _ID.fullmatch(run_id):
            raise self._no("run", run_id)
        try:
            found = self._client.get("/runs/get", messages.OfRun(run_id=run_id))
        except NotFoundError as error:
            raise self._no("run", run_id) from error
        document: Mapping[str, Any] = found["run"]
        return document

    def _experiment(self, experiment_id: str) -> Experiment:
        return values.experiment(self._experiment_document(experiment_id))

    def _experiment_document(self, experiment_id: str) -> Mapping[str, Any]:
        if not experiment_id.isdecimal() or len(experiment_id) > 18:
            raise self._no("experiment", experiment_id)
        try:
            answer = self._client.get("/experiments/get", messages.Experiment(experiment_id))
        except NotFoundError as error:
            raise self._no("experiment", experiment_id) from error
        document: Mapping[str, Any] = answer["experiment"]
        return document

    def _run(self, run_id: str) -> Run:
        document = self._run_document(run_id)
        return values.run(document, self._experiment(document["info"]["experiment_id"]).name)

    def _model_document(self, model_id: str, *, deleted: bool = False) -> Mapping[str, Any]:
        if not _ID.fullmatch(model_id):
            raise self._no("logged model", model_id)
        try:
            answer = self._client.get(
                f"/logged-models/{model_id}", messages.GetLoggedModel(allow_deleted=deleted)
            )
        except NotFoundError as error:
            raise self._no("logged model", model_id) from error
        document: Mapping[str, Any] = answer["model"]
        return document

    def _model(self, model_id: str) -> LoggedModel:
        return values.logged_model(self._model_document(model_id))

    def _no(self, what: str, name: str) -> NotFoundError:
        return NotFoundError(f"the MLflow server at {self._client.where} has no {what} {name!r}")

    # -- on the record ------------------------------------------------------------------------

    @contextmanager
    def _changing(
        self,
        kind: str,
        subject: str,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> Iterator[Intent]:
        """A change on the server, between an intent and its outcome.

        When no answer came, the intent stays open: `settle` looks at what the server has.
        """
        said = dict(data or {})
        with self._ledger.intent(kind, subject, inputs=inputs, data=said) as intent:
            intent.outputs, intent.data = list(outputs), said
            try:
                yield intent
            except UnavailableError:
                intent.is_open = True
                self._unknown.append(intent.seq)
                raise

    def _settle(self, kind: str, found: Callable[[Line], tuple[str, list[str], str]]) -> int:
        """Closes what was left open; `found` gives the subject, the outputs and the outcome."""
        unknown = [line for line in map(self._ledger.get, self._unknown) if line.kind == kind]
        lines = [*self._ledger.open_intents(kind), *unknown]
        for line in lines:
            subject, outputs, outcome = found(line)
            self._ledger.close_intent(
                line.seq,
                kind,
                subject,
                phase="settled",
                inputs=line.inputs,
                outputs=outputs,
                data={"outcome": outcome},
            )
        gone = {line.seq for line in unknown}
        self._unknown[:] = [seq for seq in self._unknown if seq not in gone]
        return len(lines)


def parts(found: Mapping[str, str], most: int) -> Iterator[dict[str, str]]:
    """At most so many of them at a time."""
    items = list(found.items())
    for at in range(0, len(items), most):
        yield dict(items[at : at + most])


def checked(what: str, found: Mapping[str, Any] | None, longest: int) -> dict[str, str]:
    """Parameters or tags as texts that MLflow keeps whole.

    Raises:
        InvalidInputError: A name is not usable, is one of this engine's own, or a text is longer
            than what MLflow keeps (it would cut it).
    """
    texts = {key: str(value) for key, value in (found or {}).items()}
    check_keys(what, texts)
    return checked_length(what, texts, longest)


def checked_length(what: str, texts: Mapping[str, str], longest: int) -> dict[str, str]:
    """Texts that MLflow keeps whole.

    Raises:
        InvalidInputError: One is longer than what MLflow keeps (it would cut it).
    """
    for key, text in texts.items():
        if len(text) > longest:
            raise InvalidInputError(
                f"{what} has at most {longest:,} characters in MLflow, {key!r} has {len(text):,}"
            )
    return dict(texts)


def check_keys(what: str, keys: Mapping[str, Any] | Sequence[str]) -> None:
    """Raises `InvalidInputError` for a name that MLflow would not keep."""
    check_names(what, keys)
    names.check(what, keys)
    for key in keys:
        if values.is_hidden(key):
            raise InvalidInputError(f"{what} can't be named {key!r}: that is kept by the engine")


def require_active(run: Run) -> None:
    """Raises `ConflictError` for a deleted run."""
    if run.lifecycle is Lifecycle.DELETED:
        raise ConflictError(f"run {run.id} is deleted; restore it first")


def quoted(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="")
