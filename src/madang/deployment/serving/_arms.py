"""Arms in JSON and YAML: the form that files, the HTTP API and the database have in common.

{"model": "delay", "version": 3, "weight": 0.9,
 "graph": GRAPH, "before": FUNCTION, "after": FUNCTION, "features": FEATURES}

GRAPH     "MODEL@VERSION"
          {"chain": [GRAPH, …], "maps": [{INPUT: OUTPUT}, …]}
          {"ensemble": [GRAPH, …], "combine": "mean", "weights": [2, 1], "final": GRAPH}
FUNCTION  "FILE.py:FUNCTION"
          {"function": …, "tensors": [{"name": …, "datatype": …, "shape": […]}, …]}
FEATURES  ["VIEW:FEATURE", "VIEW", …]
          {"columns": […], "request": […], "on_missing": "error"}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from madang.deployment.serving.contract import (
    Arm,
    Chain,
    Ensemble,
    FeatureJoin,
    Graph,
    ModelRef,
    Transformer,
)
from madang.development.experiments.contract import Registry, TensorSpec
from madang.errors import InvalidInputError

Resolve = Callable[[str, int | str | None], ModelRef]
"""A model and a version, alias or nothing (the newest) to a registered version."""

MAX_DEPTH = 16
"""How deep a graph may be nested."""

_T = TypeVar("_T")


class _Arm(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: int | str | None = None
    weight: float = 1.0
    graph: Any = None
    before: Any = None
    after: Any = None
    features: Any = None


class _Chain(msgspec.Struct, forbid_unknown_fields=True):
    chain: Annotated[list[Any], msgspec.Meta(min_length=1)]
    maps: list[dict[str, str]] = []


class _Ensemble(msgspec.Struct, forbid_unknown_fields=True):
    ensemble: list[Any]
    combine: Literal["mean", "vote", "stack"] = "mean"
    weights: list[float] = []
    final: Any = None


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: tuple[int, ...] = (-1,)


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    function: str
    tensors: list[_Tensor] = []


class _Features(msgspec.Struct, forbid_unknown_fields=True):
    columns: tuple[str, ...]
    request: tuple[str, ...] = ()
    on_missing: Literal["null", "error"] = "null"


def arm_from(data: Any, resolve: Resolve) -> Arm:
    """The arm that JSON or YAML describes.

    Raises:
        InvalidInputError: It is of another form; says where.
        NotFoundError: A model or version is not registered.
    """
    found = _converted(data, _Arm, "an arm")
    if found.graph is None:
        ref = resolve(found.model, found.version)
    elif isinstance(found.version, int):
        ref = ModelRef(found.model, found.version)
    else:
        raise InvalidInputError(
            f"the graph {found.model!r} needs a version: a number of your choice, by which clients "
            "can ask for it"
        )
    return Arm(
        ref.model,
        ref.version,
        found.weight,
        None if found.graph is None else graph_from(found.graph, resolve),
        _transformer(found.before),
        _transformer(found.after),
        _features(found.features),
    )


def graph_from(data: Any, resolve: Resolve, depth: int = 0) -> Graph:
    """A graph of its JSON form; raises as `arm_from`."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"a graph may be nested {MAX_DEPTH} deep")
    if isinstance(data, str):
        name, _, version = data.partition("@")
        number = re.fullmatch(r"[0-9]{1,9}", version)
        return resolve(name, int(version) if number else version or None)

    def each(parts: list[Any]) -> tuple[Graph, ...]:
        return tuple(graph_from(part, resolve, depth + 1) for part in parts)

    if isinstance(data, Mapping) and "chain" in data:
        chain = _converted(data, _Chain, "a chain")
        return Chain(each(chain.chain), tuple(chain.maps))
    if isinstance(data, Mapping) and "ensemble" in data:
        found = _converted(data, _Ensemble, "an ensemble")
        final = None if found.final is None else graph_from(found.final, resolve, depth + 1)
        return Ensemble(each(found.ensemble), found.combine, tuple(found.weights), final)
    raise InvalidInputError(
        f'a graph is "MODEL@VERSION", {{"chain": […]}} or {{"ensemble": […]}}; found: {data!r:.100}'
    )


def graph_to(graph: Graph) -> Any:
    """A graph's JSON form."""
    if isinstance(graph, ModelRef):
        return f"{graph.model}@{graph.version}"
    if isinstance(graph, Chain):
        return {"chain": [graph_to(s) for s in graph.steps], "maps": [dict(m) for m in graph.maps]}
    return {
        "ensemble": [graph_to(member) for member in graph.members],
        "combine": graph.combine,
        "weights": list(graph.weights),
        **({} if graph.final is None else {"final": graph_to(graph.final)}),
    }


def leaves(graph: Graph) -> Iterator[ModelRef]:
    """All models of a graph."""
    if isinstance(graph, ModelRef):
        yield graph
    elif isinstance(graph, Chain):
        for step in graph.steps:
            yield from leaves(step)
    else:
        for member in (*graph.members, *([graph.final] if graph.final else [])):
            yield from leaves(member)


def resolver(registry: Registry) -> Resolve:
    """Looks names, aliases and numbers up in a registry."""

    def resolve(name: str, version: int | str | None) -> ModelRef:
        found = registry.get(name, version)
        return ModelRef(found.name, found.version)

    return resolve


def exactly(name: str, version: int | str | None) -> ModelRef:
    """Resolves what names a version already."""
    if not isinstance(version, int):
        raise InvalidInputError(f"the model {name!r} needs a version number here: {version!r}")
    return ModelRef(name, version)


def _transformer(data: Any) -> Transformer | None:
    if data is None:
        return None
    found = _converted({"function": data} if isinstance(data, str) else data, _Function, "function")
    return Transformer(
        found.function, tuple(TensorSpec(t.name, t.datatype, t.shape) for t in found.tensors)
    )


def _features(data: Any) -> FeatureJoin | None:
    if data is None:
        return None
    found = _converted({"columns": data} if isinstance(data, list) else data, _Features, "features")
    return FeatureJoin(found.columns, found.request, found.on_missing)


def _converted(data: Any, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{what} can't be read: {error}; found: {data!r:.100}") from error
