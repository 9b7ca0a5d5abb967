"""Loaded models behind endpoints: choosing an arm, and moving to what is wanted."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from madang.deployment.serving._assignment import Assigner
from madang.deployment.serving._composed import Composed, Online, compose
from madang.deployment.serving._join import Find
from madang.deployment.serving._metrics import Counters, Snapshot
from madang.deployment.serving._state import Files, WantedArm, WantedEndpoint
from madang.deployment.serving._tensors import DATATYPES, Array, encode
from madang.development.experiments._tensors import largest_difference
from madang.development.experiments.contract import Signature
from madang.errors import UnavailableError

if TYPE_CHECKING:
    from madang.data.features import OnlineStore
    from madang.development.experiments.formats import LoadedModel

# A call that takes longer than this moves to a thread, so that it doesn't stop the event loop.
SLOW_SECONDS = 0.005
# More than rounding of 16 bits: outputs for a row that differ by more depend on the other rows.
_MAX_DIFFERENCE = 0.01
MAX_EXAMPLE_ROWS = 100
"""So many rows of an input example are kept, to explain predictions against."""


class Model(Protocol):
    """What is served: `madang.development.experiments.formats.LoadedModel`."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Predicts a batch of rows."""
        ...


class Version:
    """One model version behind one endpoint.

    Attributes:
        label: The version's name in the protocol.
        example: Rows of what the models take, from their stored input example.
        seconds: A running mean of what a call of the model takes.
        in_thread: Its calls never run on the event loop.
        log_head: What the log says of it after a prediction's id: JSON members, each after a comma.
        log_tail: And at the end.
        busy: A call runs in a thread now.
        shadows: Versions that get copies of what this one answers in a rollout.
    """

    def __init__(self, endpoint: WantedEndpoint, arm: WantedArm, model: Model) -> None:
        self.endpoint = endpoint.name
        self.log = endpoint.log
        self.model_name = arm.model
        self.number = arm.version
        self.label = str(arm.version)
        self.example: dict[str, Array] = {}
        self.weight = arm.weight
        self.model = model
        self.inputs = {spec.name: spec for spec in model.signature.inputs}
        self.output_names = {spec.name: encode(spec.name) for spec in model.signature.outputs}
        # Rows of different requests can go through the model together if only their number differs.
        self.batchable = all(
            spec.shape[:1] == (-1,) and -1 not in spec.shape[1:]
            for spec in (*model.signature.inputs, *model.signature.outputs)
        )
        self.head = b'{"model_name":%b,"model_version":%b,"id":' % (
            encode(endpoint.name),
            encode(self.label),
        )
        self.seconds = 0.0
        # Functions of the project may take any time, and must not hold up other requests.
        self.in_thread = isinstance(model, Composed) and model.calls_functions
        self.log_head = b',"endpoint":%b,"model":%b,"version":%d' % (
            encode(endpoint.name),
            encode(arm.model),
            arm.version,
        )
        self.log_tail = _parts(arm)
        self.busy = False
        self.shadows: tuple[Version, ...] = ()
        self.counters = Counters()

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Calls the model and remembers how long it took."""
        start = time.perf_counter()
        outputs = self.model.predict(inputs)
        self.seconds += 0.2 * (time.perf_counter() - start - self.seconds)
        return outputs

    def warm_up(self, example: Mapping[str, Array]) -> None:
        """Predicts the stored example, so that no request pays for imports and first calls.

        Raises:
            TypeError: An output is of a type that the protocol doesn't have.
        """
        model = self.model.core if isinstance(self.model, Composed) else self.model
        together = model.predict(example)
        for name, array in together.items():
            if array.dtype.kind != "U" and array.dtype not in DATATYPES.values():
                raise TypeError(f"the model's output {name!r} is of type {array.dtype}")
        start = time.perf_counter()
        alone = model.predict({name: array[:1] for name, array in example.items()})
        self.seconds = time.perf_counter() - start
        rows = min(map(len, example.values()), default=0)
        # Else what one client gets would depend on what others send.
        self.batchable = self.batchable and all(
            found.shape[:1] == (rows,)
            and largest_difference(found[:1], alone[name]) <= _MAX_DIFFERENCE
            for name, found in together.items()
        )

    def metadata(self, labels: Iterable[str]) -> dict[str, Any]:
        """`$metadata_model_response` of the specification.

        A model that runs in its original form because its compiled form can't be used here has
        `fallback`, the reason.
        """
        signature = self.model.signature
        fallback = getattr(self.model, "fallback", "")
        return ({"fallback": fallback} if fallback else {}) | {
            "name": self.endpoint,
            "versions": list(labels),
            "platform": "madang",
            "inputs": [_spec(spec) for spec in signature.inputs],
            "outputs": [_spec(spec) for spec in signature.outputs],
        }


def _parts(arm: WantedArm) -> bytes:
    """A graph's models and the transformers of an arm, as members of a JSON object."""
    found = b""
    if arm.graph is not None:
        found += b',"models":' + encode([f"{m.model}@{m.version}" for m in arm.models()])
    functions = {f.function: f.digest for f in (arm.before, arm.after) if f}
    return found + (b',"transformers":' + encode(functions) if functions else b"")


def _spec(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


class ServedEndpoint:
    """An endpoint's loaded versions and their shares of the traffic."""

    def __init__(self, wanted: WantedEndpoint, versions: list[Version]) -> None:
        self.wanted = wanted
        self.versions = {version.label: version for version in versions}
        self._arms = [version for version in versions if version.weight > 0]
        total = sum(version.weight for version in self._arms)
        self._edges = list(accumulate(version.weight / total for version in self._arms))
        self.main = max(self._arms, key=lambda version: version.weight)
        self.assigner = Assigner(wanted.split, versions) if wanted.split else None

    def choose(self, request_id: str | None) -> Version:
        """The version that answers: the same for the same id, by chance without one."""
        if len(self._arms) == 1:
            return self._arms[0]
        if request_id is None:
            share = random()  # noqa: S311 - no secret depends on it
        else:
            digest = blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            share = int.from_bytes(digest) / 2**64
        return self._arms[min(bisect_right(self._edges, share), len(self._arms) - 1)]


class Models:
    """Loads model folders; a model that several endpoints serve is loaded once. For one thread."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._loaded: dict[str, LoadedModel] = {}
        self.online: Online = _no_online

    def endpoint(self, wanted: WantedEndpoint) -> ServedEndpoint:
        """Loads all arms of an endpoint.

        Raises:
            Exception: Whatever the model's format raises; nothing of the endpoint is changed.
        """
        return ServedEndpoint(wanted, [self._version(wanted, arm) for arm in wanted.arms])

    def load(self, wanted: WantedEndpoint) -> None:
        """Loads the models of an endpoint and calls none, so that it may be done before a fork."""
        for arm in wanted.arms:
            for part in arm.models():
                self._model(part)

    def _model(self, arm: WantedArm) -> LoadedModel:
        from madang.development.experiments import formats

        if arm.digest not in self._loaded:
            folder = self._files.models / arm.digest
            self._loaded[arm.digest] = formats.load(folder, digest=arm.digest)
        return self._loaded[arm.digest]

    def _version(self, wanted: WantedEndpoint, arm: WantedArm) -> Version:
        parts = arm.models()
        if arm.is_plain:
            version = Version(wanted, arm, self._model(arm))
        else:
            version = Version(wanted, arm, compose(arm, self._model, self.online))
        # As functions of the project are: see `Version`.
        version.in_thread |= any(self._model(p).manifest.format == "python" for p in parts)
        version.example = self._example(parts, version)
        version.warm_up({name: array[:8] for name, array in version.example.items()})
        return version

    def _example(self, parts: list[WantedArm], version: Version) -> dict[str, Array]:
        """The inputs of the models' stored examples that the arm's models take from outside."""
        from madang.development.experiments import formats

        model = version.model.core if isinstance(version.model, Composed) else version.model
        found: dict[str, Array] = {}
        for part in parts:
            for name, array in formats.example_inputs(self._files.models / part.digest).items():
                found.setdefault(name, np.ascontiguousarray(array[:MAX_EXAMPLE_ROWS]))
        chosen = {spec.name: found[spec.name] for spec in model.signature.inputs}
        rows = min(map(len, chosen.values()))
        return {name: array[:rows] for name, array in chosen.items()}

    def keep_only(self, digests: set[str]) -> bool:
        """Forgets the other models; says whether there were any."""
        others = self._loaded.keys() - digests
        for digest in others:
            del self._loaded[digest]
        return bool(others)


def _no_online() -> tuple[OnlineStore, Find]:
    raise UnavailableError("features are joined in workers alone")


def read_error(error: BaseException, folder: Path) -> str:
    """Why a model could not be loaded, in one line without this machine's paths."""
    text = " ".join(str(error).split()).replace(str(folder) + "/", "")
    return f"{type(error).__name__}: {text}"[:500]


def count_into(snapshot: Snapshot, endpoints: Iterable[ServedEndpoint]) -> None:
    """Makes each version count where the metrics are read; a version that returns goes on."""
    for endpoint in endpoints:
        for version in endpoint.versions.values():
            version.counters = snapshot.of(version.endpoint, version.label)
