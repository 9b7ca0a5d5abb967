"""Makes a model's compiled form, and verifies it; see `compiled.py`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments import _parity
from madang.development.experiments._linear import heads, is_affine, is_linear
from madang.development.experiments._sklearn_trees import NotCompilableError, TreePlan, plan_of
from madang.development.experiments._steps import Step, of_transformer, to_arrays
from madang.development.experiments._tensors import MATRIX, Array, Arrays
from madang.development.experiments.compiled import BOUND, Form
from madang.development.experiments.formats import Predictor
from madang.errors import InvalidInputError, MissingDependencyError

_XGBOOST_BOUND = 1e-6  # it computes in 32 bits
_MOST_NODES = 2_000_000  # some 200 MB of ONNX

Borders = tuple[Array, Array]
"""Columns and the thresholds that are asked of them."""


def compile_sklearn(
    model: Any, folder: Path, inputs: Arrays, parity: Arrays | None
) -> dict[str, Any]:
    """Writes the compiled form of an estimator or a pipeline if it has one that is verified.

    Args:
        model: A fitted estimator or pipeline.
        folder: Where the files go.
        inputs: The example.
        parity: Further rows on which the outputs must be equal.

    Returns:
        What the manifest says of it: `kind`, `bound`, `rows`, `max_difference`, `requirements`;
        or `not`: why there is none.
    """
    from madang.development.experiments._skops import SklearnPredictor

    original = SklearnPredictor(model, tuple(getattr(model, "feature_names_in_", ())))
    return _verified(_forms(model, inputs), original, BOUND, folder, (inputs, parity))


def compile_xgboost(
    original: Predictor,
    booster: Any,
    facts: Mapping[str, Any],
    folder: Path,
    rows: tuple[Arrays, Arrays | None],
) -> dict[str, Any]:
    """The same for a booster of XGBoost's; `rows` are the example and further ones."""
    from madang.development.experiments._xgboost_trees import plan_of

    def forms() -> Iterator[tuple[Form, Borders | None]]:
        plan = plan_of(booster, facts)
        yield Form.of(to_arrays(plan.steps) | plan.head, _graph(plan)), plan.borders

    return _verified(forms(), original, _XGBOOST_BOUND, folder, rows)


def _verified(
    forms: Iterator[tuple[Form, Borders | None]],
    original: Predictor,
    bound: float,
    folder: Path,
    rows: tuple[Arrays, Arrays | None],
) -> dict[str, Any]:
    """Writes the first form whose outputs are equal."""
    reason = "it has no compiled form"
    try:
        for form, borders in forms:
            try:
                found = _parity.compare(form, original, _groups(*rows, form.kind, borders))
            except _parity.DifferentError as error:
                reason = str(error)
                continue
            if found.max_difference <= bound:
                form.write(folder)
                return {"kind": form.kind, "bound": bound, "rows": found.rows,
                        "max_difference": found.max_difference,
                        "requirements": _requirements(form)}  # fmt: skip
            reason = f"its outputs differ by {found.max_difference:.3g} (allowed: {bound:g})"
    except (NotCompilableError, MissingDependencyError, InvalidInputError) as error:
        reason = str(error)
    return {"not": reason}


def _requirements(form: Form) -> dict[str, str]:
    if form.graph is None:
        return {}
    return {"onnxruntime": importlib.metadata.version("onnxruntime")}


def _forms(model: Any, inputs: Arrays) -> Iterator[tuple[Form, Borders | None]]:
    """The forms that may be equal to the model, and where its outputs jump."""
    if set(inputs) != {MATRIX} or inputs[MATRIX].ndim != 2 or inputs[MATRIX].dtype != np.float64:
        raise NotCompilableError("a model of columns of several types has no compiled form")
    *first, last = [step for _, step in model.steps] if hasattr(model, "steps") else [model]
    first = [step for step in first if step not in (None, "passthrough")]
    if is_linear(last):
        fused = _trailing(first)
        steps = _steps(first[: len(first) - fused])
        for arrays in heads(last, first[len(first) - fused :]):
            yield Form.of(arrays | to_arrays(steps)), None
        return
    plan = plan_of(last)
    before = _steps(first)
    arrays = to_arrays([*before, *plan.steps]) | plan.head
    yield Form.of(arrays, _graph(plan)), None if before else plan.borders


def _steps(transformers: Sequence[Any]) -> list[Step]:
    found: list[Step] = []
    for transformer in transformers:
        steps = of_transformer(transformer)
        if steps is None:
            raise NotCompilableError(f"{type(transformer).__name__} has no compiled form")
        found += steps
    return found


def _trailing(transformers: Sequence[Any]) -> int:
    """How many transformers at the end only move and stretch columns."""
    count = 0
    while count < len(transformers) and is_affine(transformers[-1 - count]):
        count += 1
    return count


def _graph(plan: TreePlan) -> bytes:
    nodes = len(plan.trees.leaf)
    if nodes > _MOST_NODES:
        raise NotCompilableError(f"its {nodes} nodes are more than the {_MOST_NODES} of the limit")
    for module in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError("a compiled form of trees", module, "onnx")
    from madang.development.experiments._tree_graph import to_onnx

    return to_onnx(plan.trees)


def _groups(
    inputs: Arrays, parity: Arrays | None, kind: str, borders: Borders | None
) -> Iterator[Arrays]:
    """Rows on which the form and the original must agree, those that are alike together."""
    rows = _parity.around(inputs[MATRIX])
    groups = [rows, *_parity.with_missing(rows)]
    if parity is not None:
        groups.append(parity[MATRIX])
    if kind == "trees":
        groups += _parity.extremes(rows)
        if borders is not None:
            groups += _parity.at_borders(rows, *borders)
    for group in groups:
        yield {MATRIX: group}
