"""Decision trees as an ONNX `TreeEnsemble`.

The operator (https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html, opset 5 of
ai.onnx.ml) takes and gives 64 bits, so thresholds and leaves are what the library fitted. Its
older siblings give 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from madang.development.experiments._trees import Trees

ROWS, SCORES = "rows", "scores"
"""The names of the graph's input and output."""
_LESS_OR_EQUAL, _LESS = 0, 1  # the operator's node modes
_IR_VERSION = (
    10  # of onnx 1.16, the first with the operator; newer ones are not read by old runtimes
)


def to_onnx(trees: Trees) -> bytes:
    """The ONNX model of `rows`, shape (rows, columns), to `scores`, shape (rows, targets).

    Its numbers have the type of the leaves' values: FP64, or FP32.
    """
    trees = _with_inner_roots(trees)
    number = np.where(trees.leaf, np.cumsum(trees.leaf), np.cumsum(~trees.leaf)) - 1
    inner = ~trees.leaf
    yes, no = trees.yes[inner], trees.no[inner]
    mode = _LESS if trees.strict else _LESS_OR_EQUAL
    attributes = {
        "aggregate_function": 1,  # the sum
        "leaf_targetids": trees.target[trees.leaf],
        "leaf_weights": trees.value[trees.leaf],
        "n_targets": trees.targets,
        "nodes_falseleafs": trees.leaf[no],
        "nodes_falsenodeids": number[no],
        "nodes_featureids": trees.column[inner],
        "nodes_missing_value_tracks_true": trees.missing[inner],
        "nodes_modes": np.full(int(inner.sum()), mode, dtype=np.uint8),
        "nodes_splits": trees.split[inner],
        "nodes_trueleafs": trees.leaf[yes],
        "nodes_truenodeids": number[yes],
        "post_transform": 0,  # none
        "tree_roots": number[trees.root],
    }
    node = helper.make_node("TreeEnsemble", [ROWS], [SCORES], domain="ai.onnx.ml")
    node.attribute.extend(_attribute(name, value) for name, value in attributes.items())
    kind = TensorProto.FLOAT if trees.value.dtype == np.float32 else TensorProto.DOUBLE
    source = helper.make_tensor_value_info(ROWS, kind, [None, None])
    target = helper.make_tensor_value_info(SCORES, kind, [None, trees.targets])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
    graph = helper.make_graph([node], "trees", [source], [target])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _with_inner_roots(trees: Trees) -> Trees:
    """The same, with an inner node above each root that is a leaf: the operator needs one."""
    alone = np.flatnonzero(trees.leaf[trees.root])
    if not len(alone):
        return trees
    added = len(trees.leaf) + np.arange(len(alone))
    leaves = trees.root[alone]
    zeros = np.zeros(len(alone), dtype=trees.value.dtype)
    root = trees.root.copy()
    root[alone] = added
    extended = {
        "leaf": zeros.astype(np.bool_), "column": zeros.astype(np.int64), "split": zeros,
        "yes": leaves, "no": leaves, "missing": zeros.astype(np.bool_), "value": zeros,
        "target": zeros.astype(np.int64),
    }  # fmt: skip
    arrays = {k: np.concatenate([getattr(trees, k), v]) for k, v in extended.items()}
    return Trees(**arrays, root=root, targets=trees.targets, strict=trees.strict)


def _attribute(name: str, value: Any) -> AttributeProto:
    """Without `make_attribute`, which looks at each of some million numbers in Python."""
    if isinstance(value, int):
        return helper.make_attribute(name, value)
    if value.dtype in (np.float64, np.float32, np.uint8):
        return helper.make_attribute(name, numpy_helper.from_array(value, name))
    attribute = AttributeProto(name=name, type=AttributeProto.INTS)
    attribute.ints.extend(value.astype(np.int64).tolist())
    return attribute
