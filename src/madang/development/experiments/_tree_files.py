"""Whether trees in a library's own file stay within their arrays.

LightGBM and XGBoost follow a file's indices without a look: a file that was made by hand can lead
a prediction out of the library's memory, or round in circles, and only on some rows. So what is
stored is checked first; the registered digest vouches for it from then on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from madang.development.experiments._tensors import Array
from madang.errors import InvalidInputError

_TREE = re.compile(r"^Tree=\d+$", re.MULTILINE)


# -- LightGBM -------------------------------------------------------------------------------------


def check_lightgbm(text: str) -> None:
    """Checks a model in LightGBM's text, as `save_model` wrote it.

    Raises:
        InvalidInputError: A tree leads out of itself, or asks a column that the model hasn't.
    """
    head, *trees = _TREE.split(text.partition("\nend of trees")[0])
    columns = int(_fields(head).get("max_feature_idx", "-1")) + 1
    for number, tree in enumerate(trees):
        try:
            fits = _fits(_fields(tree), columns)
        except (ValueError, KeyError, IndexError) as error:
            raise InvalidInputError(f"tree {number} can't be understood: {error!r}") from error
        if not fits:
            raise _broken(number)


def _fits(tree: Mapping[str, str], columns: int) -> bool:
    leaves = int(tree["num_leaves"])
    if len(_numbers(tree, "leaf_value")) != leaves or not _linear_fits(tree, leaves, columns):
        return False
    if leaves == 1:
        return True
    inner = np.arange(leaves - 1)
    asked, splits = _whole(tree, "split_feature"), _numbers(tree, "threshold")
    kinds = _whole(tree, "decision_type")
    if not len(inner) == len(asked) == len(splits) == len(kinds) or not _within(asked, columns):
        return False
    for name in ("left_child", "right_child"):
        # A child is made after its parent, so no way leads back; leaves are -1, -2, …
        child = _whole(tree, name)
        after = (child > inner) & (child < leaves - 1)
        if len(child) != len(inner) or not (after | ((child < 0) & (child >= -leaves))).all():
            return False
    categories = (kinds & 1) == 1  # LightGBM's tree.h: kCategoricalMask
    return not categories.any() or _sets_fit(tree, splits[categories])


def _sets_fit(tree: Mapping[str, str], chosen: Array) -> bool:
    """Sets of categories: a split names one, and it lies between two boundaries of the words."""
    bounds, words = _whole(tree, "cat_boundaries"), _whole(tree, "cat_threshold")
    return bool(
        _within(chosen, int(tree["num_cat"]))
        and len(bounds) == int(tree["num_cat"]) + 1
        and _within(bounds, len(words) + 1)
        and (np.diff(bounds) >= 0).all()
    )


def _linear_fits(tree: Mapping[str, str], leaves: int, columns: int) -> bool:
    """Linear leaves: how many columns each one has, and which."""
    if tree.get("is_linear", "0").strip() == "0":
        return True
    counts = _whole(tree, "num_features")
    used, factors = _whole(tree, "leaf_features"), _numbers(tree, "leaf_coeff")
    return (
        len(counts) == leaves == len(_numbers(tree, "leaf_const"))
        and counts.min() >= 0
        and counts.sum() == len(used) == len(factors)
        and _within(used, columns)
    )


def _fields(block: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in block.splitlines())}


def _numbers(tree: Mapping[str, str], name: str) -> Array:
    return np.array(tree[name].split(), dtype=np.float64)


def _whole(tree: Mapping[str, str], name: str) -> Array:
    return np.array([int(text) for text in tree[name].split()], dtype=np.int64)


# -- XGBoost --------------------------------------------------------------------------------------


def check_xgboost(content: bytes | bytearray) -> None:
    """Checks a model in XGBoost's JSON, as `save_raw("json")` wrote it.

    Raises:
        InvalidInputError: As `check_lightgbm`.
    """
    learner = json.loads(content)["learner"]
    parameters = learner["learner_model_param"]
    columns, booster = int(parameters["num_feature"]), learner["gradient_booster"]
    targets = max(1, int(parameters["num_class"])) * max(1, int(parameters.get("num_target", 1)))
    for model in _forests(booster):
        if not _within(np.array(model["tree_info"], dtype=np.int64), targets):
            raise InvalidInputError(f"the model's trees add to more than its {targets} outputs")
        for number, tree in enumerate(model["trees"]):
            if not _is_whole(tree, columns):
                raise _broken(number)


def _forests(booster: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if booster["name"] == "gblinear":
        return
    yield (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]


def _is_whole(tree: Mapping[str, Any], columns: int) -> bool:
    children = np.array([tree["left_children"], tree["right_children"]], dtype=np.int64)
    count = children.shape[1]
    asked = np.array(tree["split_indices"], dtype=np.int64)
    each = ("split_conditions", "default_left", "base_weights")
    if len(asked) != count or any(len(tree[name]) < count for name in each):
        return False
    size = int(tree["tree_param"]["size_leaf_vector"])
    if size > 1:  # a leaf's other child is the number of its vector
        leaf = children[0] < 0
        if not _within(children[1, leaf], len(tree["leaf_weights"]) // size):
            return False
        children[1, leaf] = -1
    return _is_tree(children) and _within(asked[children[0] >= 0], columns) and _has_sets(tree)


def _is_tree(children: Array) -> bool:
    """Whether the ways from node 0 end, and none meets another; -1 is no child."""
    count = children.shape[1]
    seen = np.zeros(count, dtype=np.bool_)
    level = np.zeros(min(count, 1), dtype=np.int64)
    while len(level):
        if not _within(level, count) or seen[level].any() or len(np.unique(level)) != len(level):
            return False
        seen[level] = True
        below = children[:, level]
        if ((below < 0).sum(axis=0) == 1).any():
            return False
        level = below[below >= 0]
    return bool(count > 0)


def _has_sets(tree: Mapping[str, Any]) -> bool:
    """Categories: each set's part of the list lies within it."""
    starts, sizes, nodes = (
        np.array(tree.get(f"categories_{name}", ()), dtype=np.int64)
        for name in ("segments", "sizes", "nodes")
    )
    total = len(tree.get("categories", ()))
    return (
        len(starts) == len(sizes) == len(nodes)
        and _within(starts, total + 1)
        and _within(starts + sizes, total + 1)
        and _within(nodes, len(tree["left_children"]))
    )


def _within(numbers: Array, end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())


def _broken(number: int) -> InvalidInputError:
    return InvalidInputError(
        f"tree {number} of the model leads out of its own nodes or columns; the file was damaged or "
        "made by hand: save the model anew from its library"
    )
