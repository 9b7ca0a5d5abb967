"""scikit-learn's linear models as one matrix product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from madang.development.experiments._steps import Step, of_transformer
from madang.development.experiments._tensors import Array, Arrays
from madang.errors import InvalidInputError

_CLASSIFIERS = frozenset({"LogisticRegression", "LogisticRegressionCV"})
_REGRESSORS = frozenset(
    {
        "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lasso", "LassoCV",
        "LinearRegression", "LinearSVR", "Ridge", "RidgeCV", "SGDRegressor",
    }
)  # fmt: skip


class LinearHead:
    """`(x - shift) @ weights + bias`, and for classifiers the link."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._shift, self._weights, self._bias = (arrays[k] for k in ("shift", "weights", "bias"))
        self._classes = arrays.get("classes")
        self._link = str(arrays["link"])
        self._flat = bool(arrays["flat"])

    def __call__(self, rows: Array) -> Arrays:
        with np.errstate(invalid="ignore", over="ignore"):  # found by the next line
            score = (rows - self._shift) @ self._weights + self._bias
        # One pass over the few scores finds every bad value among the many inputs.
        if not np.isfinite(score).all():
            raise InvalidInputError(
                "the model can't take these inputs: a value is NaN, infinite or too large"
            )
        if self._classes is None:
            return {"predict": score[:, 0] if self._flat else score}
        proba = probabilities(score, self._link)
        return {"predict": self._classes[proba.argmax(axis=1)], "predict_proba": proba}


def probabilities(score: Array, link: str) -> Array:
    """Scores of shape (rows, outputs) as probabilities of shape (rows, classes)."""
    if link == "sigmoid":
        proba = np.empty((len(score), 2))
        # 1 / (1 + exp(-s)) without overflow
        proba[:, 1] = np.exp(-np.logaddexp(0.0, -score[:, 0]))
        proba[:, 0] = 1.0 - proba[:, 1]
        return proba
    if link == "softmax":
        exponents = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))
    each = np.exp(-np.logaddexp(0.0, -score))  # one against the rest
    return np.asarray(each / each.sum(axis=1, keepdims=True))


def is_linear(model: Any) -> bool:
    """Whether it is a linear model of scikit-learn's that a product can stand for."""
    name = type(model).__name__
    return type(model).__module__.startswith("sklearn.") and name in _CLASSIFIERS | _REGRESSORS


def heads(model: Any, scalers: Sequence[Any]) -> Iterator[dict[str, Array]]:
    """The arrays of each product that may stand for scalers and a linear model.

    Which link a classifier has depends on the solver and the version: comparing outputs tells.
    """
    shift, scale = _fused(scalers, np.shape(model.coef_)[-1])
    if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
        return
    arrays = {
        "shift": shift,
        "weights": np.atleast_2d(model.coef_).astype(np.float64).T * scale[:, None],
        "bias": np.atleast_1d(model.intercept_).astype(np.float64),
        "flat": np.array(np.ndim(model.coef_) == 1),
    }
    if not hasattr(model, "classes_"):
        yield arrays | {"link": np.array("identity")}
        return
    classes = np.asarray(model.classes_)
    arrays["classes"] = classes.astype(np.str_) if classes.dtype == object else classes
    for link in ("sigmoid", "softmax", "rest"):
        yield arrays | {"link": np.array(link)}


def _fused(scalers: Sequence[Any], columns: int) -> tuple[Array, Array]:
    """Several scalers as (shift, scale) of `(x - shift) * scale`."""
    shift, scale = np.zeros(columns), np.ones(columns)
    for scaler in scalers:
        for step in of_transformer(scaler) or ():
            shift, scale = _folded(step, shift, scale)
    return shift, scale


def _folded(step: Step, shift: Array, scale: Array) -> tuple[Array, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):  # the caller looks
        if step.name == "subtract":
            return shift + step.arrays[0] / scale, scale
        if step.name == "add":
            return shift - step.arrays[0] / scale, scale
        if step.name == "multiply":
            return shift, scale * step.arrays[0]
        return (shift, scale / step.arrays[0]) if step.name == "divide" else (shift, scale)


def is_affine(transformer: Any) -> bool:
    """Whether it only moves and stretches columns."""
    steps = of_transformer(transformer)
    return steps is not None and not {step.name for step in steps} & {"clip", "impute"}
