"""XGBoost's trees as arrays, from the JSON of a booster.

The JSON's schema: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html. XGBoost
compares, and adds, in 32 bits; so do these trees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from madang.development.experiments._sklearn_trees import NotCompilableError, TreePlan
from madang.development.experiments._steps import Step
from madang.development.experiments._tensors import Array
from madang.development.experiments._trees import Trees, constant, joined

_LINKS = {
    "binary:logistic": "sigmoid", "binary:logitraw": "identity", "count:poisson": "exp",
    "multi:softprob": "softmax", "rank:map": "identity", "rank:ndcg": "identity",
    "rank:pairwise": "identity", "reg:absoluteerror": "identity", "reg:gamma": "exp",
    "reg:logistic": "sigmoid", "reg:pseudohubererror": "identity", "reg:squarederror": "identity",
    "reg:squaredlogerror": "identity", "reg:tweedie": "exp",
}  # fmt: skip
"""Objective to what `predict` does to the sum; `reg:quantileerror` has several targets."""


def plan_of(booster: Any, facts: Mapping[str, Any]) -> TreePlan:
    """A booster's trees as arrays.

    Args:
        booster: A fitted `Booster`.
        facts: As the manifest has them: `classes`, `missing`, and how many `iterations` are used
            (0: all).

    Raises:
        NotCompilableError: It is of another kind than trees of numbers with one value a leaf.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    boosting, objective = learner["gradient_booster"], learner["objective"]["name"]
    if boosting["name"] != "gbtree":
        raise NotCompilableError(f"the booster {boosting['name']!r} has no compiled form")
    if objective not in _LINKS:
        raise NotCompilableError(f"the objective {objective!r} has no compiled form")
    if "missing" in facts:
        raise NotCompilableError("a number that stands for a missing value has no compiled form")
    model, parameters = boosting["model"], learner["learner_model_param"]
    if int(parameters["num_target"]) > 1:
        raise NotCompilableError("several targets have no compiled form")
    outputs, link = max(1, int(parameters["num_class"])), _LINKS[objective]
    end = model["iteration_indptr"][facts["iterations"] or -1]
    base = _margins(parameters["base_score"], link, outputs)
    trees = [constant(base[k], k, strict=True) for k in range(outputs)]
    pairs = zip(model["trees"][:end], model["tree_info"], strict=False)
    trees += [_tree(tree, target) for tree, target in pairs]
    whole = joined(trees, outputs)
    head = {"link": np.array(link), "single": np.array(1)}
    if "classes" in facts:
        head["classes"] = np.array(facts["classes"])
    borders = whole.column[~whole.leaf], whole.split[~whole.leaf].astype(np.float64)
    return TreePlan((Step("single"),), whole, head, borders)


def _margins(text: str, link: str, outputs: int) -> Array:
    """What the sum begins with; the base score is stored as `predict` would give it."""
    score = np.array(np.atleast_1d(json.loads(text)), dtype=np.float64)
    if link == "sigmoid":
        score = -np.log(1.0 / score - 1.0)
    elif link == "exp":
        score = np.log(score)
    return np.broadcast_to(score, outputs).astype(np.float32)


def _tree(tree: Mapping[str, Any], target: int) -> Trees:
    if any(tree["split_type"]) or int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise NotCompilableError("categories, and leaves of several values, have no compiled form")
    yes = np.array(tree["left_children"], dtype=np.int64)
    condition = np.array(tree["split_conditions"], dtype=np.float32)
    return Trees(
        leaf=yes < 0, column=np.array(tree["split_indices"], dtype=np.int64), split=condition,
        yes=yes, no=np.array(tree["right_children"], dtype=np.int64),
        missing=np.array(tree["default_left"], dtype=np.bool_), value=condition,
        target=np.full(len(yes), target), root=np.zeros(1, dtype=np.int64), targets=target + 1,
        strict=True,
    )  # fmt: skip
