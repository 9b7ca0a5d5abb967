"""Chains and ensembles of models as one model: checked when they are made, then called as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from madang.deployment.serving.contract import Chain, Ensemble, Graph, ModelRef
from madang.development.experiments._tensors import DATATYPES, Array, Arrays
from madang.development.experiments.contract import Signature, TensorSpec
from madang.development.experiments.formats import LoadedModel
from madang.errors import InvalidInputError

PROBA, PREDICT = "predict_proba", "predict"


class Node(Protocol):
    """A model, or several.

    Attributes:
        name: What errors call it.
        signature: What it takes and gives.
        columns: The names of its matrix input's columns, if they have any.
        classes: The labels that its probabilities are of, if it knows them.
    """

    name: str
    signature: Signature
    columns: tuple[str, ...]
    classes: tuple[Any, ...]

    def predict(self, inputs: Mapping[str, Any]) -> Arrays:
        """Predicts a batch of rows."""
        ...


def build(graph: Graph, model: Callable[[ModelRef], LoadedModel], path: str = "graph") -> Node:
    """A graph's models as one.

    Args:
        graph: The graph.
        model: Gives a version's model; while a graph is only checked, its manifest is enough.
        path: Where in the whole it is, for errors.

    Raises:
        InvalidInputError: Parts don't fit; says which input of which.
    """
    if isinstance(graph, ModelRef):
        return _Model(graph, model(graph))
    if isinstance(graph, Chain):
        steps = [build(s, model, f"{path}.chain[{i}]") for i, s in enumerate(graph.steps)]
        return _Chain(steps, graph.maps, path)
    members = [build(m, model, f"{path}.ensemble[{i}]") for i, m in enumerate(graph.members)]
    final = None if graph.final is None else build(graph.final, model, f"{path}.final")
    return _Ensemble(members, graph, final, path)


class _Model:
    def __init__(self, ref: ModelRef, model: LoadedModel) -> None:
        if not model.signature.inputs:
            raise InvalidInputError(
                f"{ref.model}@{ref.version} was stored without an input example, so its inputs "
                "have no names"
            )
        self.name = f"{ref.model}@{ref.version}"
        self.model = model
        self.signature = model.signature
        self.columns = model.manifest.columns
        self.classes = tuple(model.manifest.facts.get("classes", ()))
        self.predict = model.predict


class _Chain:
    def __init__(self, steps: Sequence[Node], maps: Sequence[Mapping[str, str]], path: str) -> None:
        if not steps or len(maps) > len(steps) - 1:
            raise InvalidInputError(
                f"{path}: a chain has steps, and at most one map for each step after the first; "
                f"found {len(steps)} steps and {len(maps)} maps"
            )
        self.name = path
        self._first, *rest = steps
        self._rest: list[tuple[Node, dict[str, str]]] = []
        last = self._first
        for i, step in enumerate(rest):
            given = maps[i] if i < len(maps) else {}
            self._rest.append((step, _fitted(last, step, given, f"{path}.chain[{i + 1}]")))
            last = step
        self.signature = Signature(self._first.signature.inputs, last.signature.outputs)
        self.columns, self.classes = self._first.columns, last.classes

    def predict(self, inputs: Mapping[str, Any]) -> Arrays:
        outputs = self._first.predict(inputs)
        for step, names in self._rest:
            outputs = step.predict(
                {spec.name: _as(outputs[names[spec.name]], spec) for spec in step.signature.inputs}
            )
        return outputs


def _fitted(before: Node, step: Node, given: Mapping[str, str], path: str) -> dict[str, str]:
    """Input to output, complete and checked."""
    inputs = {spec.name: spec for spec in step.signature.inputs}
    outputs = {spec.name: spec for spec in before.signature.outputs}
    unknown = sorted(set(given) - set(inputs))
    if unknown:
        raise InvalidInputError(
            f"{path} ({step.name}) has no input {unknown[0]!r}; it takes {_listed(inputs.values())}"
        )
    only = next(iter(outputs)) if len(outputs) == 1 == len(inputs) else ""
    names = {}
    for name, spec in inputs.items():
        source = given.get(name) or (name if name in outputs else only)
        found = outputs.get(source)
        if found is None or not _fits(found, spec):
            what = (
                f"{source!r} is {_listed([found])}" if found else f"no {source or name!r} is there"
            )
            raise InvalidInputError(
                f"{path} ({step.name}): input {_listed([spec])} does not fit what {before.name} "
                f"gives: {what}; it gives {_listed(outputs.values())}; say which one is meant in maps"
            )
        names[name] = source
    return names


def _fits(output: TensorSpec, taken: TensorSpec) -> bool:
    given, wanted = (np.dtype(DATATYPES[spec.datatype]).kind for spec in (output, taken))
    order = "biuf"  # a number fits where at least as much can be said
    kinds = given == wanted or (
        given in order and wanted in order and (order.index(given) < order.index(wanted))
    )
    if output.shape == (-1,) and taken.shape == (-1, 1):
        return kinds
    sizes = len(output.shape) == len(taken.shape) and all(
        -1 in pair or pair[0] == pair[1]
        for pair in zip(output.shape[1:], taken.shape[1:], strict=True)
    )
    return kinds and sizes


def _as(array: Array, spec: TensorSpec) -> Array:
    return array[:, None] if array.ndim == 1 and len(spec.shape) == 2 else array


class _Ensemble:
    def __init__(
        self, members: Sequence[Node], graph: Ensemble, final: Node | None, path: str
    ) -> None:
        if len(members) < 2:
            raise InvalidInputError(f"{path}: an ensemble has at least two members")
        self.name = path
        self._members, self._final = members, final
        self._weights = _weights(graph, path)
        self.columns = _common_columns(members, path)
        self._proba = all(_output(member, PROBA) for member in members)
        self.classes: tuple[Any, ...] = ()
        if (final is None) == (graph.combine == "stack"):
            raise InvalidInputError(f"{path}: final belongs to combine: stack, which needs it")
        if final is not None:
            outputs = self._check_stack(final)
            self._combine: Callable[[Sequence[Arrays]], Arrays] = self._stack
        elif graph.combine == "vote":
            outputs, self._combine = self._check_vote(), self._vote
        else:
            outputs, self._combine = self._check_mean(), self._mean
        self.signature = Signature(_union(members, path), outputs)

    def predict(self, inputs: Mapping[str, Any]) -> Arrays:
        return self._combine(
            [
                member.predict({spec.name: inputs[spec.name] for spec in member.signature.inputs})
                for member in self._members
            ]
        )

    # -- the mean -----------------------------------------------------------------------------

    def _check_mean(self) -> tuple[TensorSpec, ...]:
        predicted = [self._needed(member, PREDICT) for member in self._members]
        if not self._proba:
            for member, spec in zip(self._members, predicted, strict=True):
                if spec.datatype == "BYTES" or member.classes or spec.shape != predicted[0].shape:
                    raise InvalidInputError(
                        f"{self.name}: {member.name} gives {_listed([spec])}, of which there is no "
                        "mean with the others' predictions; combine labels by vote"
                    )
            return (TensorSpec(PREDICT, "FP64", predicted[0].shape),)
        first = self._members[0]
        for member in self._members:
            if not member.classes or member.classes != first.classes:
                raise InvalidInputError(
                    f"{self.name}: {member.name} has the classes {list(member.classes)} and "
                    f"{first.name} {list(first.classes)}; probabilities of other classes have no "
                    "mean"
                )
        self.classes = first.classes
        self._labels = np.array(self.classes).astype(DATATYPES[predicted[0].datatype])
        return predicted[0], TensorSpec(PROBA, "FP64", (-1, len(self.classes)))

    def _mean(self, found: Sequence[Arrays]) -> Arrays:
        name = PROBA if self._proba else PREDICT
        mean = np.zeros(found[0][name].shape)
        for outputs, weight in zip(found, self._weights, strict=True):
            mean += weight * outputs[name]
        if not self._proba:
            return {PREDICT: mean}
        return {PREDICT: self._labels[mean.argmax(axis=1)], PROBA: mean}

    # -- votes --------------------------------------------------------------------------------

    def _check_vote(self) -> tuple[TensorSpec, ...]:
        first = self._needed(self._members[0], PREDICT)
        for member in self._members:
            spec = self._needed(member, PREDICT)
            if spec != first or len(spec.shape) != 1:
                raise InvalidInputError(
                    f"{self.name}: {member.name} gives {_listed([spec])} and "
                    f"{self._members[0].name} {_listed([first])}; a vote needs equal labels"
                )
        return (first,)

    def _vote(self, found: Sequence[Arrays]) -> Arrays:
        votes = np.stack([outputs[PREDICT] for outputs in found])
        labels, codes = np.unique(votes, return_inverse=True)
        codes = codes.reshape(votes.shape)
        counts = np.zeros((votes.shape[1], len(labels)))
        rows = np.arange(votes.shape[1])
        for member, weight in zip(codes, self._weights, strict=True):
            counts[rows, member] += weight
        return {PREDICT: labels[counts.argmax(axis=1)]}

    # -- stacking -----------------------------------------------------------------------------

    def _check_stack(self, final: Node) -> tuple[TensorSpec, ...]:
        specs = [self._stacked(member) for member in self._members]
        for member, spec in zip(self._members, specs, strict=True):
            if spec.datatype == "BYTES" or -1 in spec.shape[1:] or len(spec.shape) > 2:
                raise InvalidInputError(
                    f"{self.name}: {member.name} gives {_listed([spec])}, which can't be stacked"
                )
        width = sum(_width(spec) for spec in specs)
        taken = final.signature.inputs
        if len(taken) != 1 or len(taken[0].shape) != 2 or taken[0].shape[1] not in {-1, width}:
            raise InvalidInputError(
                f"{final.name} takes {_listed(taken)}, and the {len(specs)} members of {self.name} "
                f"give {width} columns: {', '.join(_listed([spec]) for spec in specs)}"
            )
        self.classes = final.classes
        return final.signature.outputs

    def _stacked(self, member: Node) -> TensorSpec:
        return _output(member, PROBA) or self._needed(member, PREDICT)

    def _stack(self, found: Sequence[Arrays]) -> Arrays:
        parts = []
        for outputs in found:
            array = outputs[PROBA if PROBA in outputs else PREDICT]
            wide = array.reshape(len(array), -1)
            parts.append(wide[:, 1:] if PROBA in outputs and wide.shape[1] == 2 else wide)
        assert self._final is not None  # only then this is called
        name = self._final.signature.inputs[0].name
        return self._final.predict({name: np.hstack(parts).astype(np.float64)})

    def _needed(self, member: Node, name: str) -> TensorSpec:
        found = _output(member, name)
        if found is None:
            raise InvalidInputError(
                f"{self.name}: {member.name} has no output {name!r}; it gives "
                f"{_listed(member.signature.outputs)}"
            )
        return found


def _width(spec: TensorSpec) -> int:
    if len(spec.shape) == 1:
        return 1
    return 1 if spec.name == PROBA and spec.shape[1] == 2 else spec.shape[1]


def _output(node: Node, name: str) -> TensorSpec | None:
    return next((spec for spec in node.signature.outputs if spec.name == name), None)


def _weights(graph: Ensemble, path: str) -> list[float]:
    weights = graph.weights or (1.0,) * len(graph.members)
    total = sum(weights)
    if len(weights) != len(graph.members) or min(weights) < 0 or not 0 < total < float("inf"):
        raise InvalidInputError(
            f"{path}: give one weight of 0 or more for each of {len(graph.members)} members, not "
            f"all 0; found {list(graph.weights)}"
        )
    if graph.weights and graph.combine == "stack":
        raise InvalidInputError(f"{path}: a stack has no weights; its final model weighs")
    return [weight / total for weight in weights]


def _union(members: Sequence[Node], path: str) -> tuple[TensorSpec, ...]:
    specs: dict[str, tuple[TensorSpec, str]] = {}
    for member in members:
        for spec in member.signature.inputs:
            other, owner = specs.setdefault(spec.name, (spec, member.name))
            if other != spec:
                raise InvalidInputError(
                    f"{path}: {member.name} takes {_listed([spec])}, and {owner} takes "
                    f"{_listed([other])}; members get the same inputs"
                )
    return tuple(spec for spec, _ in specs.values())


def _common_columns(members: Sequence[Node], path: str) -> tuple[str, ...]:
    """The members' column names; those without names take them as they come."""
    named = [member for member in members if member.columns]
    for member in named:
        if member.columns != named[0].columns and len(member.signature.inputs) == 1:
            raise InvalidInputError(
                f"{path}: {member.name} has the columns {', '.join(member.columns)}, and "
                f"{named[0].name} {', '.join(named[0].columns)}; members get the same inputs"
            )
    return named[0].columns if named else ()


def _listed(specs: Any) -> str:
    return ", ".join(f"{s.name} ({s.datatype} {list(s.shape)})" for s in specs)
