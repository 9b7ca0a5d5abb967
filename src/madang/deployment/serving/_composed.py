"""An arm that is more than one model: transformers, joined features and a graph, called as one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from madang.deployment.serving import _graph
from madang.deployment.serving._arms import exactly, graph_from
from madang.deployment.serving._join import Answer, Find, Join
from madang.deployment.serving._state import WantedArm
from madang.deployment.serving._transformers import Function, specs_of
from madang.deployment.serving.contract import ModelRef
from madang.development.experiments._tensors import Array, Arrays
from madang.development.experiments.contract import Signature
from madang.development.experiments.formats import LoadedModel

if TYPE_CHECKING:
    from madang.data.features import OnlineStore

Online = Callable[[], tuple["OnlineStore", Find]]


class Composed:
    """Answers as a model does; `after(graph(join(before(inputs))))`.

    Attributes:
        signature: What clients send and get.
        core: The graph alone.
        calls_functions: Whether it runs code of the project, which may take any time.
    """

    def __init__(
        self, core: _graph.Node, before: Function | None, join: Join | None, after: Function | None
    ) -> None:
        self.core = core
        self._before, self._join, self._after = before, join, after
        self._inner = join.inputs if join else core.signature.inputs
        self.signature = Signature(
            (before.tensors if before else ()) or self._inner,
            (after.tensors if after else ()) or core.signature.outputs,
        )
        self.calls_functions = bool(before or after or (join and join.computes))

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Predicts a batch of rows."""
        taken, features = self.prepare(inputs)
        outputs: Mapping[str, Array] = self.core.predict(taken)
        if self._after:
            outputs = self._after(outputs, self.signature.outputs)
        return Answer.of(outputs, features)

    @property
    def explained(self) -> Any:
        """The one model that it is around, or the graph."""
        return getattr(self.core, "model", self.core)

    def prepare(self, inputs: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
        """The core's inputs, and the features among them as they were read."""
        sent = dict(inputs)
        if self._before:
            sent = self._before(sent, self._inner)
        return self._join(sent) if self._join else (sent, {})


def compose(arm: WantedArm, model: Callable[[WantedArm], LoadedModel], online: Online) -> Composed:
    """The models, functions and features of an arm.

    Args:
        arm: What is wanted.
        model: Gives each of its models.
        online: Opens the online store; called if the arm has features.

    Raises:
        Exception: Whatever a part raises; see `build`, `Function` and `Join`.
    """
    core = _core(arm, model)
    join = None
    if arm.features:
        join = Join(arm.features, *online(), core.signature.inputs, core.columns)
    return Composed(
        core,
        Function(arm.before) if arm.before else None,
        join,
        Function(arm.after) if arm.after else None,
    )


def signature_of(
    arm: WantedArm, model: Callable[[WantedArm], LoadedModel], online: Online
) -> Signature:
    """What an arm takes and gives, with the checks of `compose`; runs no code of the project.

    Raises:
        InvalidInputError: Parts don't fit each other.
    """
    core = _core(arm, model)
    inputs = core.signature.inputs
    if arm.features:
        inputs = Join(arm.features, *online(), inputs, core.columns).inputs
    return Signature(
        (specs_of(arm.before) if arm.before else ()) or inputs,
        (specs_of(arm.after) if arm.after else ()) or core.signature.outputs,
    )


def _core(arm: WantedArm, model: Callable[[WantedArm], LoadedModel]) -> _graph.Node:
    by_name = {f"{part.model}@{part.version}": part for part in arm.models()}

    def find(ref: ModelRef) -> LoadedModel:
        return model(by_name[f"{ref.model}@{ref.version}"])

    graph = graph_from(arm.graph, exactly) if arm.graph else ModelRef(arm.model, arm.version)
    return _graph.build(graph, find)
