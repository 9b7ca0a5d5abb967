"""What a serving engine promises: endpoints that speak the Open Inference Protocol V2."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, Union

from madang.development.experiments.contract import TensorSpec
from madang.engines import Engine


@dataclass(frozen=True)
class ModelRef:
    """A registered model version in a graph."""

    model: str
    version: int


@dataclass(frozen=True)
class Chain:
    """Models one after the other: what one gives, the next one takes.

    Attributes:
        steps: In order.
        maps: For each step after the first: its input's name to the output of the step before.
            An input that is not named takes the output of its own name, or the only one.
    """

    steps: tuple[Graph, ...]
    maps: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Ensemble:
    """Models that get the same inputs, and one answer made of theirs.

    Attributes:
        members: Two or more.
        combine: `mean` of the probabilities where all have them, else of the predictions; `vote`
            for the label that most members give (of equally many, the first in sorted order); or
            `stack`: what they predict, side by side, is the input of `final`. Of two classes, it
            has the second's probability (as scikit-learn's `StackingClassifier`).
        weights: One for each member, for `mean` and `vote`; empty: all the same.
        final: For `stack`.
    """

    members: tuple[Graph, ...]
    combine: Literal["mean", "vote", "stack"] = "mean"
    weights: tuple[float, ...] = ()
    final: Graph | None = None


Graph: TypeAlias = Union[ModelRef, Chain, Ensemble]  # noqa: UP007 - names a class further up
"""Models behind one arm; made from the leaves up, so that it can have no cycle."""


@dataclass(frozen=True)
class Transformer:
    """A Python function of the project, from named NumPy arrays to named arrays or an Arrow table.

    It gives as many rows as it gets, each from its own row: a batch holds rows of several requests.
    It must not change its arrays. What it imports must be installed where the workers run.

    Attributes:
        function: `FILE.py:FUNCTION`, the file relative to the project's folder. Its source is kept
            with the endpoint: later changes of the file count from the next deploy on.
        tensors: What the client sends (`before`) or gets (`after`), where that is not what the
            model takes or gives.
    """

    function: str
    tensors: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True)
class FeatureJoin:
    """Features that the server reads by entity: the client sends the entities' keys alone.

    Attributes:
        columns: `VIEW` for all of a view's features, or `VIEW:FEATURE`. They become the model's
            inputs by their names in a training set.
        request: Columns of the model that the client sends beside the keys.
        on_missing: What is done where nothing is known or it is older than the view's ttl:
            `null` as in a training set (NaN), or `error`. An input that has no NaN is refused
            in any case.
    """

    columns: tuple[str, ...]
    request: tuple[str, ...] = ()
    on_missing: Literal["null", "error"] = "null"


@dataclass(frozen=True)
class Arm:
    """What answers a share of an endpoint's requests.

    Attributes:
        model: A registered model; with a `graph`, a name for it.
        version: Its version, by which clients can ask for it; with a `graph`, a number for it.
        weight: Its share of the traffic; weights need not sum to 1.
        graph: Several models in place of one.
        before: Makes the inputs of what clients send.
        after: Makes the answer of the model's outputs.
        features: What the server reads by entity, after `before`.
    """

    model: str
    version: int
    weight: float = 1.0
    graph: Graph | None = None
    before: Transformer | None = None
    after: Transformer | None = None
    features: FeatureJoin | None = None


@dataclass(frozen=True)
class Split:
    """How a rollout assigns an endpoint's requests, in place of chance.

    A request gets its arm by a hash of its key: the same key always gets the same arm, as long as the
    weights stay; where one arm's weight grows, keys move to it and nowhere else. The prediction log
    says of each request which rollout and stage it belongs to.

    Attributes:
        rollout: The rollout's id.
        salt: Goes into the hash, so that another rollout divides keys anew.
        stage: Grows whenever the weights change.
        key: An input whose first value is the key where the request does not bring one itself
            (header `X-Madang-Key`, parameter `madang_key`); empty: the request's id; `id`: the
            request's id, whatever else it brings.
        shadows: Versions of arms that get a copy of each request after it is answered.
    """

    rollout: str
    salt: str
    stage: int = 0
    key: str = ""
    shadows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """A stable name that answers predictions.

    Attributes:
        name: The model name in the protocol: `POST /v2/models/{name}/infer`.
        arms: The versions behind it.
        revision: Grows with every change of the endpoint.
        log: Whether predictions are logged to the topic `predictions.{name}`.
        split: How requests are assigned while a rollout runs.
    """

    name: str
    arms: tuple[Arm, ...]
    revision: int
    log: bool = True
    split: Split | None = None


DeployGuard: TypeAlias = Callable[[str, Sequence[Arm]], None]
"""Takes an endpoint's name and the arms it is to have, none when it is to go."""


_ASKED = ContextVar("madang_deploy_asked", default=False)


@contextmanager
def asked_already() -> Iterator[None]:
    """Deploys in the block, by this thread, are parts of something that was asked as a whole."""
    token = _ASKED.set(True)
    try:
        yield
    finally:
        _ASKED.reset(token)


class Serving(Engine):
    """Endpoints.

    Every engine promises: `deploy` changes what is wanted durably and atomically; workers move to
    it without a dropped or mixed-up request, and go on serving while the control plane is down;
    a model whose bytes differ from its registered digest is not served. Each change stands in the
    ledger. Who may change an endpoint is asked of the guard before anything changes.
    """

    deploy_guard: DeployGuard | None = None
    """Asked before an endpoint changes; whatever it raises stops that."""

    def _ask(self, name: str, arms: Sequence[Arm]) -> None:
        if self.deploy_guard is not None and not _ASKED.get():
            self.deploy_guard(name, arms)

    @abstractmethod
    def deploy(
        self,
        name: str,
        arms: Sequence[Arm],
        *,
        log: bool = True,
        split: Split | None = None,
        timeout_seconds: float = 60,
    ) -> Endpoint:
        """Makes or changes an endpoint, and waits until every running worker serves it.

        With a `split` it is part of a rollout; a later deploy without one takes it out again.

        Raises:
            NotFoundError: A model version is not registered.
            PermissionDeniedError: The guard says no.
            InvalidInputError: No arm, a weight below 0, or all weights 0; parts of an arm that
                don't fit each other (which input of which, and what was found); a split whose key
                is no input, of more than 8 arms, or without a log.
            UnavailableError: Workers run, and one of them could not load a model in time (with its
                reason); the endpoint is back at what it was.
        """

    @abstractmethod
    def undeploy(self, name: str) -> None:
        """Removes an endpoint; repeating it is safe.

        Raises:
            PermissionDeniedError: The guard says no.
        """

    @abstractmethod
    def endpoints(self) -> list[Endpoint]:
        """All endpoints, by name."""

    @abstractmethod
    def get(self, name: str) -> Endpoint:
        """One endpoint.

        Raises:
            NotFoundError: There is no such endpoint.
        """

    @abstractmethod
    def url(self) -> str | None:
        """Where the workers listen (`http://127.0.0.1:PORT`); `None` when none runs."""

    @abstractmethod
    def predict(self, name: str, inputs: Any) -> Mapping[str, Any]:
        """Asks a running endpoint over HTTP; output name to numpy array, and `id`.

        Args:
            name: The endpoint.
            inputs: Input name to array-like, one array for a single-input model, or a table.

        Raises:
            UnavailableError: No worker runs.
            NotFoundError: There is no such endpoint.
            InvalidInputError: The inputs don't fit the signature.
        """
