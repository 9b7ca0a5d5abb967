"""What a serving engine promises: endpoints that speak the Open Inference Protocol V2."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madang.engines import Engine


@dataclass(frozen=True)
class Arm:
    """A model version behind an endpoint, and its share of the traffic (weights need not sum to 1)."""

    model: str
    version: int
    weight: float = 1.0


@dataclass(frozen=True)
class Endpoint:
    """A stable name that answers predictions.

    Attributes:
        name: The model name in the protocol: `POST /v2/models/{name}/infer`.
        arms: The versions behind it.
        revision: Grows with every change of the endpoint.
        log: Whether predictions are logged to the topic `predictions.{name}`.
    """

    name: str
    arms: tuple[Arm, ...]
    revision: int
    log: bool = True


class Serving(Engine):
    """Endpoints.

    Every engine promises: `deploy` changes what is wanted durably and atomically; workers move to
    it without a dropped or mixed-up request, and go on serving while the control plane is down;
    a model whose bytes differ from its registered digest is not served. Each change stands in the
    ledger.
    """

    @abstractmethod
    def deploy(
        self, name: str, arms: Sequence[Arm], *, log: bool = True, timeout_seconds: float = 60
    ) -> Endpoint:
        """Makes or changes an endpoint, and waits until every running worker serves it.

        Raises:
            NotFoundError: A model version is not registered.
            InvalidInputError: No arm, a weight below 0, or all weights 0.
            UnavailableError: Workers run, and one of them could not load a model in time (with its
                reason); the endpoint is back at what it was.
        """

    @abstractmethod
    def undeploy(self, name: str) -> None:
        """Removes an endpoint; repeating it is safe."""

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
