"""SHAP values: what each input column adds to a prediction, against a background sample.

`explain` chooses the way by what the model is:

    linear   scikit-learn's linear models behind scalers: coefficient × (x − mean of the background),
             exact for independent columns (Lundberg and Lee, 2017, "A Unified Approach to
             Interpreting Model Predictions", corollary 1, https://arxiv.org/abs/1705.07874)
    tree     LightGBM's and XGBoost's own `pred_contrib`, and `shap.TreeExplainer` for scikit-learn's
             trees (extra `explain`): path-dependent TreeSHAP (Lundberg et al., 2020,
             https://doi.org/10.1038/s42256-019-0138-9), whose background is the training data that
             the trees remember
    sampling everything else: see `_shapley.py`

In each, `base + sum of the columns' values = prediction`, on the scale that the answer names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from madang.development.experiments._shapley import sampled
from madang.development.experiments._tensors import MATRIX, Array, Arrays, checked, to_inputs
from madang.development.experiments.contract import Signature
from madang.development.experiments.formats import LoadedModel
from madang.errors import InvalidInputError, MissingDependencyError

_TREES = frozenset(
    {
        "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreesClassifier",
        "ExtraTreesRegressor", "GradientBoostingClassifier", "GradientBoostingRegressor",
        "HistGradientBoostingClassifier", "HistGradientBoostingRegressor",
        "RandomForestClassifier", "RandomForestRegressor",
    }
)  # fmt: skip
_TOLERANCE = 1e-3
"""How near to the model's outputs a sum must be to be on their scale; XGBoost computes in 32 bits."""


class Explainable(Protocol):
    """A model of any kind: what `formats.load` returns, or several models behind one signature."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    def predict(self, inputs: Mapping[str, Any]) -> Arrays:
        """Predicts a batch of rows."""
        ...


@dataclass(frozen=True)
class Explanation:
    """SHAP values of some rows.

    Attributes:
        method: `linear`, `tree` or `sampling`.
        scale: What base and values add up to: `output` (the model's own prediction),
            `probability`, `log_odds` (natural logarithm, of the second of two classes), or
            `raw_score` (what a link or softmax makes the output of).
        columns: The input columns.
        outputs: What is explained: classes as text (of two, the second alone), or output names.
        base: What is predicted when nothing is known, shape (outputs,).
        values: What each column adds, shape (rows, columns, outputs).
        prediction: The model's prediction on the scale, shape (rows, outputs).
        standard_error: Of each value, shape as `values`; `None` when they are no estimates.
        background_rows: How many rows of background were used; 0: the trees' own.
    """

    method: str
    scale: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    base: Array
    values: Array
    prediction: Array
    standard_error: Array | None = None
    background_rows: int = 0


def explain(
    model: Explainable,
    rows: Any,
    *,
    background: Any = None,
    permutations: int = 64,
    seed: int = 0,
) -> Explanation:
    """The SHAP values of each row. Safe for many threads; the same seed gives the same values.

    Args:
        model: A loaded model, or anything with its `signature` and `predict`.
        rows: As for prediction: input name to array, a table, or an array of shape (rows, columns).
        background: Rows to compare with, in the same form, such as the model's input example.
            Needed except by trees; of more than 100 rows, sampling takes 100 evenly.
        permutations: How many orders of the columns sampling draws for each row, at least; it
            takes each with its reverse and each background row as often.
        seed: Of sampling.

    Raises:
        InvalidInputError: The inputs don't fit the signature; a background is needed and missing;
            the model has no output of numbers; or the seed is below 0.
        MissingDependencyError: It is a tree of scikit-learn's, and the extra `explain` is missing.
    """
    if seed < 0:
        raise InvalidInputError(f"a seed is 0 or more, found {seed}")
    inputs = _inputs(model, rows)
    names = columns_of(model)
    exact = _exact(model, inputs, background)
    if exact is None:
        known = _background(model, background)
        return _estimated(model, inputs, names, known, permutations=permutations, seed=seed)
    method, values, base, used = exact
    total = base + values.sum(axis=1)
    scale = _scale(model, inputs, total)
    labels = _labels(model, values.shape[2])
    return Explanation(method, scale, names, labels, base, values, total, None, used)


def columns_of(model: Explainable) -> tuple[str, ...]:
    """The columns that are explained: a matrix has one for each of its columns.

    Raises:
        InvalidInputError: An input has other shapes than (rows,) and (rows, columns).
    """
    named = model.manifest.columns if isinstance(model, LoadedModel) else ()
    names: list[str] = []
    for spec in model.signature.inputs:
        if len(spec.shape) == 1:
            names.append(spec.name)
        elif len(spec.shape) == 2 and spec.shape[1] > 0:
            own = spec.name == MATRIX and len(named) == spec.shape[1]
            names += named if own else [f"{spec.name}[{i}]" for i in range(spec.shape[1])]
        else:
            raise InvalidInputError(
                f"input {spec.name!r} has shape {list(spec.shape)}; only columns and matrices "
                "are explained"
            )
    return tuple(names)


def _inputs(model: Explainable, rows: Any) -> Arrays:
    columns = model.manifest.columns if isinstance(model, LoadedModel) else ()
    named = to_inputs(rows, model.signature, columns)
    return checked(named, model.signature.inputs)


def _background(model: Explainable, background: Any) -> Arrays:
    if background is None:
        raise InvalidInputError(
            "this model is explained against a background: give background=…, such as the "
            "version's input example"
        )
    return _inputs(model, background)


# -- exact ------------------------------------------------------------------------------------

Exact = tuple[str, Array, Array, int]


def _exact(model: Explainable, inputs: Arrays, background: Any) -> Exact | None:
    """Method, values, base and the background's rows; `None` when there is no exact way."""
    if not isinstance(model, LoadedModel) or set(inputs) != {MATRIX} or inputs[MATRIX].ndim != 2:
        return None
    rows = inputs[MATRIX]
    if model.product is not None:
        return _product(model.product, rows, _background(model, background)[MATRIX])
    form = model.manifest.format
    if form == "lightgbm":
        return _lightgbm(model.native, rows)
    if form == "xgboost":
        return _xgboost(model.native, model.manifest.facts, rows)
    if form != "skops":
        return None
    native = model.native
    *before, last = [step for _, step in native.steps] if hasattr(native, "steps") else [native]
    from madang.development.experiments._linear import is_affine, is_linear
    from madang.development.experiments._steps import of_transformer

    if is_linear(last) and all(is_affine(step) for step in before):
        return _linear(last, before, rows, _background(model, background)[MATRIX])
    # Only steps that keep each column for itself: else the trees' columns are not the inputs'.
    if _has_trees(last) and all(of_transformer(step) is not None for step in before):
        return _sklearn_trees(last, before, rows)
    return None


def _has_trees(model: Any) -> bool:
    """Whether `shap.TreeExplainer` knows it: not of several targets, nor with all of its options."""
    name = type(model).__name__
    if not type(model).__module__.startswith("sklearn.") or name not in _TREES:
        return False
    if name == "GradientBoostingClassifier" and len(model.classes_) > 2:
        return False
    if getattr(model, "init", None) is not None:  # another model that the trees begin from
        return False
    if getattr(model, "is_categorical_", None) is not None:
        return False
    return getattr(model, "n_outputs_", 1) == 1


def _linear(last: Any, before: list[Any], rows: Array, background: Array) -> Exact | None:
    from madang.development.experiments._linear import heads

    arrays = next(heads(last, before), None)
    return None if arrays is None else _product(arrays, rows, background)


def _product(arrays: Mapping[str, Array], rows: Array, background: Array) -> Exact:
    weights, mean = arrays["weights"], background.mean(axis=0)
    if not (np.isfinite(rows).all() and np.isfinite(mean).all()):
        raise InvalidInputError("the model can't take these inputs: a value is NaN or infinite")
    values = (rows - mean)[:, :, None] * weights[None]
    base = (mean - arrays["shift"]) @ weights + arrays["bias"]
    return "linear", values, np.asarray(base), len(background)


def _lightgbm(native: Any, rows: Array) -> Exact | None:
    from lightgbm.basic import LightGBMError

    booster = getattr(native, "booster_", native)
    if "average_output" in booster.model_to_string(num_iteration=1):
        return None  # a forest, whose contributions add up to the sum, and not to the mean
    try:
        found = np.asarray(booster.predict(rows, pred_contrib=True, num_threads=1))
    except LightGBMError as error:
        if "linear trees" not in str(error):
            raise
        return None  # it has no contributions for them
    return _split(found.reshape(len(rows), -1, rows.shape[1] + 1))


def _xgboost(native: Any, facts: Mapping[str, Any], rows: Array) -> Exact | None:
    import xgboost

    booster = native.get_booster() if hasattr(native, "get_booster") else native
    missing, names = facts.get("missing", np.nan), booster.feature_names
    matrix = xgboost.DMatrix(rows, missing=missing, feature_names=names, nthread=1)
    found = booster.predict(
        matrix,
        pred_contribs=True,
        validate_features=False,
        iteration_range=(0, int(facts["iterations"])),
    )
    return _split(np.asarray(found, np.float64).reshape(len(rows), -1, rows.shape[1] + 1))


def _split(found: Array) -> Exact:
    """Contributions of shape (rows, outputs, columns + 1), the base last, as values and base."""
    values = found[:, :, :-1].transpose(0, 2, 1)
    return "tree", values, found[0, :, -1], 0


def _sklearn_trees(last: Any, before: list[Any], rows: Array) -> Exact | None:
    try:
        import shap
    except ModuleNotFoundError as error:
        if error.name != "shap":
            raise
        raise MissingDependencyError(
            "explaining scikit-learn's trees", "shap", "explain"
        ) from error
    for step in before:
        rows = np.asarray(step.transform(rows))
    explainer = shap.TreeExplainer(last, feature_perturbation="tree_path_dependent")
    values = np.asarray(explainer.shap_values(rows, check_additivity=False), np.float64)
    base = np.atleast_1d(np.asarray(explainer.expected_value, np.float64))
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] == 2 and hasattr(last, "classes_"):
        values, base = values[:, :, 1:], base[1:]
    return "tree", values, base, 0


# -- scales -----------------------------------------------------------------------------------


def _scale(model: Explainable, inputs: Arrays, total: Array) -> str:
    """On which scale sums are, found by comparing them with what the model predicts."""
    outputs = model.predict(inputs)
    proba = outputs.get("predict_proba")
    if proba is None:
        predicted = outputs["predict"]
        wide = predicted.reshape(len(predicted), -1)
        return "output" if _near(total, wide) else "raw_score"
    if total.shape[1] == 1 and proba.shape[1] == 2:
        if _near(total, proba[:, 1:]):
            return "probability"
        odds = 1 / (1 + np.exp(-np.clip(total, -700, 700)))
        return "log_odds" if _near(odds, proba[:, 1:]) else "raw_score"
    return "probability" if _near(total, proba) else "raw_score"


def _near(found: Array, expected: Array) -> bool:
    return found.shape == expected.shape and bool(
        np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
    )


def _labels(model: Explainable, count: int) -> tuple[str, ...]:
    facts: Mapping[str, Any] = model.manifest.facts if isinstance(model, LoadedModel) else {}
    classes = list(facts.get("classes", ()))
    if count == 1 and len(classes) == 2:
        return (str(classes[1]),)
    if len(classes) == count:
        return tuple(map(str, classes))
    return ("predict",) if count == 1 else tuple(f"predict[{i}]" for i in range(count))


# -- estimated --------------------------------------------------------------------------------


def _estimated(
    model: Explainable,
    inputs: Arrays,
    names: tuple[str, ...],
    background: Arrays,
    *,
    permutations: int,
    seed: int,
) -> Explanation:
    output, binary = _explained(model)

    def predict(some: Arrays) -> Array:
        found = np.asarray(model.predict(some)[output], np.float64)
        wide = found.reshape(len(found), -1)
        return wide[:, 1:] if binary else wide

    found = sampled(predict, inputs, background, permutations=permutations, seed=seed)
    count = len(found.base)
    if output == "predict_proba":
        scale, labels = "probability", _labels(model, count)
        if not isinstance(model, LoadedModel):
            labels = tuple(f"predict_proba[{i + binary}]" for i in range(count))
    else:
        scale = "output"
        labels = (output,) if count == 1 else tuple(f"{output}[{i}]" for i in range(count))
    return Explanation(
        "sampling", scale, names, labels, found.base, found.values,
        found.base + found.values.sum(axis=1), found.standard_error, found.background_rows,
    )  # fmt: skip


def _explained(model: Explainable) -> tuple[str, bool]:
    """The output that is explained, and whether it has the probabilities of two classes."""
    outputs = {spec.name: spec for spec in model.signature.outputs}
    proba = outputs.get("predict_proba")
    if proba is not None:
        return proba.name, len(proba.shape) == 2 and proba.shape[-1] == 2
    for spec in outputs.values():
        if spec.datatype != "BYTES" and len(spec.shape) <= 2:
            return spec.name, False
    raise InvalidInputError(
        f"no output of numbers can be explained; outputs: {', '.join(outputs) or 'none'}"
    )
