"""scikit-learn's fitted trees as arrays, with what comes before and after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from madang.development.experiments._steps import Step
from madang.development.experiments._tensors import Array
from madang.development.experiments._trees import Trees, constant, joined


class NotCompilableError(Exception):
    """Why a model has no compiled form; its text stands in the manifest."""


@dataclass(frozen=True)
class TreePlan:
    """Trees and how they are used.

    Attributes:
        steps: What happens to the rows first.
        trees: What gives the scores.
        head: What makes outputs of the scores; see `compiled.TreeHead`.
        borders: Columns of the given rows and the thresholds that are asked of them, both of
            shape (thresholds,); empty where steps before the trees move them.
    """

    steps: tuple[Step, ...]
    trees: Trees
    head: dict[str, Array]
    borders: tuple[Array, Array]


def plan_of(model: Any) -> TreePlan:
    """A fitted tree, forest or boosting of scikit-learn's as arrays.

    Raises:
        NotCompilableError: It is another kind, or uses what the arrays can't hold.
    """
    name = type(model).__name__
    make = _KINDS.get(name) if type(model).__module__.startswith("sklearn.") else None
    if make is None:
        raise NotCompilableError(f"{type(model).__module__}.{name} has no compiled form")
    return make(model)


# -- histogram gradient boosting ------------------------------------------------------------------

_HISTOGRAM_LINKS = {
    "absolute_error": "identity", "gamma": "exp", "poisson": "exp", "quantile": "identity",
    "squared_error": "identity",
}  # fmt: skip


def _histogram(model: Any) -> TreePlan:
    outputs = model.n_trees_per_iteration_
    coder = _Categories(model)
    base = np.ravel(model._baseline_prediction)
    # First of all trees, so that the sum is made in scikit-learn's order.
    trees = [constant(float(base[k]), k) for k in range(outputs)]
    for iteration in model._predictors:
        trees += [_histogram_tree(predictor, k, coder) for k, predictor in enumerate(iteration)]
    whole = joined(trees, outputs)
    if hasattr(model, "classes_"):
        if model.loss != "log_loss":
            raise NotCompilableError(f"the loss {model.loss!r} has no compiled form")
        head = _class_head(model, "sigmoid" if outputs == 1 else "softmax")
    elif model.loss in _HISTOGRAM_LINKS:
        head = {"link": np.array(_HISTOGRAM_LINKS[model.loss])}
    else:
        raise NotCompilableError(f"the loss {model.loss!r} has no compiled form")
    inner = ~whole.leaf & (whole.column < model.n_features_in_)
    borders = coder.order[whole.column[inner]], whole.split[inner]
    return TreePlan(coder.steps(), whole, head, borders)


def _histogram_tree(predictor: Any, target: int, coder: _Categories) -> Trees:
    nodes = predictor.nodes
    column, split = nodes["feature_idx"].astype(np.int64), nodes["num_threshold"].copy()
    missing = nodes["missing_go_to_left"].astype(np.bool_)
    for i in np.flatnonzero(nodes["is_categorical"] & ~nodes["is_leaf"].astype(np.bool_)):
        bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][i]]
        column[i] = coder.column_of(int(column[i]), bits, missing=bool(missing[i]))
        split[i] = 0.5  # the set's column holds 0 inside, 1 outside
    return Trees(
        leaf=nodes["is_leaf"].astype(np.bool_), column=column, split=split,
        yes=nodes["left"].astype(np.int64), no=nodes["right"].astype(np.int64), missing=missing,
        value=nodes["value"].astype(np.float64), target=np.full(len(nodes), target),
        root=np.zeros(1, dtype=np.int64), targets=target + 1,
    )  # fmt: skip


class _Categories:
    """The categorical columns of a histogram boosting: their codes, and the sets that trees ask."""

    def __init__(self, model: Any) -> None:
        columns = model.n_features_in_
        given = model.is_categorical_
        self._chosen = np.flatnonzero(given) if given is not None else np.empty(0, dtype=np.intp)
        rest = np.setdiff1d(np.arange(columns), self._chosen)
        self.order = np.concatenate([self._chosen, rest]).astype(np.int64)
        self._known = self._categories(model)
        self._width = columns
        self._sets: dict[tuple[int, bytes, bool], int] = {}

    def _categories(self, model: Any) -> list[Array]:
        if not len(self._chosen):
            return []
        encoder = model._preprocessor.named_transformers_["encoder"]
        known = []
        for values in encoder.categories_:
            if np.asarray(values).dtype.kind not in "biuf":
                raise NotCompilableError("categories that are texts have no compiled form")
            known.append(np.asarray(values, dtype=np.float64))
        return known

    def column_of(self, column: int, bits: Array, *, missing: bool) -> int:
        """The column that says whether a row's category is in the set."""
        key = (column, bits.tobytes(), missing)
        return int(self._width) + self._sets.setdefault(key, len(self._sets))

    def steps(self) -> tuple[Step, ...]:
        """Codes the categories, and appends a column for each set."""
        if not len(self._chosen):
            return ()
        values = [v[~np.isnan(v)] for v in self._known]
        ends = np.cumsum([len(v) for v in values])
        coded = Step("codes", (self._chosen, ends, np.concatenate(values)))
        if not self._sets:
            return (coded,)
        most = max(len(v) for v in values)
        outside = np.ones((len(self._sets), most + 1))
        for (_, bits, missing), i in self._sets.items():
            words = np.frombuffer(bits, dtype=np.uint32)
            inside = np.unpackbits(words.view(np.uint8), bitorder="little")[:most]
            outside[i, :-1] = 1 - inside
            outside[i, -1] = not missing
        columns = np.array([column for column, _, _ in self._sets])
        return coded, Step("sets", (columns, outside))


# -- trees of 32-bit inputs -----------------------------------------------------------------------


def _gradient(model: Any) -> TreePlan:
    stages = model.estimators_
    outputs = stages.shape[1]
    if model.init_ != "zero" and not type(model.init_).__module__.startswith("sklearn.dummy"):
        raise NotCompilableError("an init estimator of one's own has no compiled form")
    base = np.ravel(model._raw_predict_init(np.zeros((1, model.n_features_in_))))
    trees = [constant(float(base[k]), k) for k in range(outputs)]
    trees += [
        _plain_tree(stages[i, k].tree_, k, model.learning_rate * stages[i, k].tree_.value[:, 0, 0])
        for i in range(len(stages))
        for k in range(outputs)
    ]
    whole = joined(trees, outputs)
    if not hasattr(model, "classes_"):
        head = {"link": np.array("identity")}
    else:
        head = _class_head(model, "sigmoid" if outputs == 1 else "softmax")
        # Its `predict` gives the second class where both are as likely.
        head |= {"ties": np.array(1), "factor": np.array(2.0 if model.loss == "exponential" else 1)}
    # Unlike the trees alone, it takes no NaN.
    return TreePlan((Step("float32"), Step("finite")), whole, head, _borders(whole))


def _forest(model: Any) -> TreePlan:
    members = model.estimators_ if hasattr(model, "estimators_") else [model]
    steps = (Step("float32"), _finite_step(model))
    values = [member.tree_.value for member in members]  # (nodes, outputs, classes)
    if values[0].shape[1:] == (1, 1) and not hasattr(model, "classes_"):
        whole = joined([_plain_tree(m.tree_, 0, m.tree_.value[:, 0, 0]) for m in members], 1)
        head = {"link": np.array("identity"), "divisor": np.array(len(members))}
        return TreePlan(steps, whole, head, _borders(whole))
    if hasattr(model, "classes_") and values[0].shape[1] != 1:
        raise NotCompilableError("a classifier of several targets has no compiled form")
    # A leaf adds to one target alone: each tree gives its leaf's number, and a table has the rest.
    starts = np.cumsum([0, *(len(v) for v in values[:-1])])
    whole = joined(
        [
            _plain_tree(member.tree_, i, start + np.arange(member.tree_.node_count))
            for i, (member, start) in enumerate(zip(members, starts, strict=True))
        ],
        len(members),
    )
    table = np.concatenate([v.reshape(len(v), -1) for v in values])
    head = {"link": np.array("identity"), "divisor": np.array(len(members)), "leaves": table}
    if hasattr(model, "classes_"):
        head |= _class_head(model, "votes")
    return TreePlan(steps, whole, head, _borders(whole))


def _finite_step(model: Any) -> Step:
    """Forests and trees take NaN, as each of their trees says."""
    first = model.estimators_[0] if hasattr(model, "estimators_") else model
    takes = first._support_missing_values(np.zeros((1, model.n_features_in_)))
    return Step("no_infinity" if takes else "finite")


def _plain_tree(tree: Any, target: int, value: Array) -> Trees:
    state = tree.__getstate__()["nodes"]
    leaf = tree.children_left < 0
    return Trees(
        leaf=leaf, column=tree.feature.astype(np.int64), split=tree.threshold.astype(np.float64),
        yes=tree.children_left.astype(np.int64), no=tree.children_right.astype(np.int64),
        missing=state["missing_go_to_left"].astype(np.bool_), value=value.astype(np.float64),
        target=np.full(len(leaf), target), root=np.zeros(1, dtype=np.int64), targets=target + 1,
    )  # fmt: skip


def _borders(trees: Trees) -> tuple[Array, Array]:
    return trees.column[~trees.leaf], trees.split[~trees.leaf]


def _class_head(model: Any, link: str) -> dict[str, Array]:
    classes = np.asarray(model.classes_)
    return {
        "classes": classes.astype(np.str_) if classes.dtype == object else classes,
        "link": np.array(link),
    }


_KINDS: dict[str, Callable[[Any], TreePlan]] = {
    "DecisionTreeClassifier": _forest,
    "DecisionTreeRegressor": _forest,
    "ExtraTreeClassifier": _forest,
    "ExtraTreeRegressor": _forest,
    "ExtraTreesClassifier": _forest,
    "ExtraTreesRegressor": _forest,
    "GradientBoostingClassifier": _gradient,
    "GradientBoostingRegressor": _gradient,
    "HistGradientBoostingClassifier": _histogram,
    "HistGradientBoostingRegressor": _histogram,
    "RandomForestClassifier": _forest,
    "RandomForestRegressor": _forest,
}
