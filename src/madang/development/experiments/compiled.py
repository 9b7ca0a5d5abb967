"""Linear models as one matrix product in NumPy, made and verified at registration.

scikit-learn's checks cost some 400 µs a call whatever the number of rows; the product costs some 5.
The compiled form is a `compiled.npz` beside the model's own file. It is written only if its outputs
equal the original's on the example and on random rows around it, and the manifest says how far
they differed. It takes what the original takes: values that are not finite are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments._tensors import MATRIX, Array, Arrays, largest_difference
from madang.errors import InvalidInputError

FILE = "compiled.npz"
BOUND = 1e-9
"""Allowed `|a - b| / max(1, |b|)` between the compiled form's and the original's outputs."""
_RANDOM_ROWS = 1000

_CLASSIFIERS = frozenset({"LogisticRegression", "LogisticRegressionCV"})
_REGRESSORS = frozenset(
    {
        "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lasso", "LassoCV",
        "LinearRegression", "LinearSVR", "Ridge", "RidgeCV", "SGDRegressor",
    }
)  # fmt: skip


class CompiledLinear:
    """Predicts with `(x - shift) @ weights + bias`; the library's object is loaded only if asked."""

    def __init__(self, folder: Path, original: Callable[[], Any]) -> None:
        with np.load(folder / FILE, allow_pickle=False) as stored:
            self._score = _Linear({key: stored[key] for key in stored.files})
        self._original = original
        self._native: Any = None

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._score(inputs[MATRIX])

    @property
    def native(self) -> Any:
        """The scikit-learn estimator."""
        if self._native is None:
            self._native = self._original().native
        return self._native


class _Linear:
    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
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
        proba = _probabilities(score, self._link)
        return {"predict": self._classes[proba.argmax(axis=1)], "predict_proba": proba}


def _probabilities(score: Array, link: str) -> Array:
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


def compile_linear(model: Any, folder: Path, inputs: Arrays) -> dict[str, Any]:
    """Writes the compiled form of `model` if it has one that is verified.

    Returns:
        What the manifest says of it (kind, bound, rows, max_difference); empty if there is none.
    """
    if set(inputs) != {MATRIX} or inputs[MATRIX].ndim != 2:
        return {}
    from madang.development.experiments._skops import SklearnPredictor

    original = SklearnPredictor(model, tuple(getattr(model, "feature_names_in_", ())))
    rows = _rows_around(inputs[MATRIX])
    expected = original({MATRIX: rows})
    for link in ("sigmoid", "softmax", "rest"):
        arrays = _arrays(model, link)
        if arrays is None:
            return {}
        difference = _difference(_Linear(arrays), rows, expected)
        if difference <= BOUND:
            np.savez(folder / FILE, allow_pickle=False, **arrays)
            return {
                "kind": "linear",
                "bound": BOUND,
                "rows": len(rows),
                "max_difference": difference,
            }
    return {}


def _difference(linear: _Linear, rows: Array, expected: Arrays) -> float:
    found = linear(rows)
    if set(found) != set(expected):
        return float("inf")
    return max(largest_difference(found[key], expected[key]) for key in expected)


def _rows_around(example: Array) -> Array:
    """The example, and random rows as far from it as ten times its spread. Seeded: repeatable."""
    random = np.random.default_rng(0)
    spread = np.maximum(example.std(axis=0), np.abs(example).mean(axis=0) * 0.1) + 1e-3
    reach = 10.0 ** random.uniform(-2, 1, (_RANDOM_ROWS, 1))
    picked = example[random.integers(0, len(example), _RANDOM_ROWS)]
    return np.vstack([example, picked + random.standard_normal(picked.shape) * spread * reach])


def _arrays(model: Any, link: str) -> dict[str, Array] | None:
    """The product's arrays; `None` when the model is no chain of scalers and a linear model."""
    *scalers, last = [step for _, step in model.steps] if hasattr(model, "steps") else [model]
    steps = [_affine(step) for step in scalers]
    name = type(last).__name__
    if not type(last).__module__.startswith("sklearn.") or any(step is None for step in steps):
        return None
    if name not in _CLASSIFIERS | _REGRESSORS:
        return None
    weights = np.atleast_2d(last.coef_).astype(np.float64).T
    bias = np.atleast_1d(last.intercept_).astype(np.float64)
    shift, scale = np.zeros(len(weights)), np.ones(len(weights))
    for step in steps:
        if step is None:
            return None
        # ((x - shift) * scale - s) * k  =  (x - (shift + s / scale)) * (scale * k)
        shift, scale = shift + step[0] / scale, scale * step[1]
    if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
        return None
    arrays = {
        "shift": shift,
        "weights": weights * scale[:, None],
        "bias": bias,
        "link": np.array(link),
        "flat": np.array(np.ndim(last.coef_) == 1),
    }
    if name in _CLASSIFIERS:
        if np.asarray(last.classes_).dtype == object:
            return arrays | {"classes": np.asarray(last.classes_).astype(np.str_)}
        arrays["classes"] = last.classes_
    return arrays


def _affine(step: Any) -> tuple[Array, Array] | None:
    """A scaler as (shift, factor) of `(x - shift) * factor`; `None` for anything else."""
    if not type(step).__module__.startswith("sklearn."):
        return None
    name = type(step).__name__
    if name == "StandardScaler":
        size = step.n_features_in_
        shift = step.mean_ if step.with_mean else np.zeros(size)
        return shift, 1.0 / step.scale_ if step.with_std else np.ones(size)
    if name == "MinMaxScaler" and not step.clip and (step.scale_ != 0).all():
        return -step.min_ / step.scale_, step.scale_
    if name == "MaxAbsScaler":
        return np.zeros(step.n_features_in_), 1.0 / step.scale_
    if name == "RobustScaler":
        size = step.n_features_in_
        shift = step.center_ if step.with_centering else np.zeros(size)
        return shift, 1.0 / step.scale_ if step.with_scaling else np.ones(size)
    return None
