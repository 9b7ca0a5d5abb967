"""XGBoost boosters and estimators, stored as XGBoost's own UBJSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from madang.development.experiments._linear import probabilities
from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import MATRIX, Array, Arrays, from_example
from madang.development.experiments._tree_files import check_xgboost
from madang.development.experiments.formats import Format, Predictor
from madang.errors import IntegrityError, InvalidInputError

_FILE = "model.ubj"
_SOFTMAX = "multi:softmax"
_ESTIMATORS = (
    "XGBClassifier", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker", "XGBRegressor",
)  # fmt: skip


class XGBoostFormat(Format):
    """`Booster`, `XGBClassifier`, `XGBRegressor`, `XGBRanker` and their random forests."""

    packages = ("xgboost", "xgboost-cpu")
    bound = 1e-6  # XGBoost computes in 32 bits

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        inputs, columns = from_example(example, tuple(_booster(model).feature_names or ()))
        if set(inputs) != {MATRIX}:
            raise InvalidInputError("XGBoost takes numbers; encode text columns as integer codes")
        return inputs, columns

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        known = type(model).__name__ in _ESTIMATORS
        return _Original(model) if known else XGBoostPredictor(model, _facts(model))

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        check_xgboost(_booster(model).save_raw("json"))
        model.save_model(folder / _FILE)
        return _facts(model)

    def compile(
        self, model: Any, folder: Path, inputs: Arrays, parity: Arrays | None
    ) -> dict[str, Any]:
        from madang.development.experiments._compile import compile_xgboost

        facts = _facts(model)
        original = XGBoostPredictor(model, facts)
        return compile_xgboost(original, _booster(model), facts, folder, (inputs, parity))

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        return XGBoostPredictor(loaded(folder / _FILE, manifest.facts), manifest.facts)


class _Original:
    """Predicts with an estimator's own methods."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def __call__(self, inputs: Arrays) -> Arrays:
        rows = inputs[MATRIX]
        predicted = np.asarray(self.native.predict(rows, validate_features=False))
        if not hasattr(self.native, "classes_"):
            return {"predict": predicted}
        proba = self.native.predict_proba(rows, validate_features=False)
        return {"predict": predicted, "predict_proba": np.asarray(proba)}


class XGBoostPredictor:
    """Predicts with a booster; in-place prediction is safe for many threads."""

    def __init__(self, native: Any, facts: Mapping[str, Any]) -> None:
        self.native = native
        self._booster = _booster(native)
        self._classes = np.array(facts["classes"]) if "classes" in facts else None
        self._iterations = (0, int(facts["iterations"]))
        self._missing = float(facts.get("missing", np.nan))
        learner = json.loads(self._booster.save_config())["learner"]
        self._linear = learner["gradient_booster"]["name"] == "gblinear"
        # It gives labels where others give probabilities.
        self._labels = self._classes is not None and learner["objective"]["name"] == _SOFTMAX

    def __call__(self, inputs: Arrays) -> Arrays:
        values = self._scores(inputs[MATRIX])
        if self._classes is None:
            return {"predict": values}
        proba = values if values.ndim == 2 else np.column_stack([1 - values, values])
        return {"predict": self._classes[proba.argmax(axis=1)], "predict_proba": proba}

    def _scores(self, rows: Array) -> Array:
        options = {"iteration_range": self._iterations, "validate_features": False}
        if self._linear:  # it has no prediction in place
            matrix = xgboost.DMatrix(rows, missing=self._missing)
            found = self._booster.predict(matrix, output_margin=self._labels, **options)
        else:
            kind = "margin" if self._labels else "value"
            found = self._booster.inplace_predict(
                rows, predict_type=kind, missing=self._missing, **options
            )
        values = np.asarray(found)
        return probabilities(values, "softmax") if self._labels else values


def loaded(file: Path, facts: Mapping[str, Any]) -> Any:
    """What was stored, to run in one thread: a `Booster` or an estimator of XGBoost's.

    Raises:
        IntegrityError: The file is no model of XGBoost's JSON or UBJSON.
    """
    if facts.get("estimator") in _ESTIMATORS:
        missing = facts.get("missing", np.nan)
        model = getattr(xgboost, facts["estimator"])(n_jobs=1, missing=missing)
    else:
        model = xgboost.Booster()
    try:
        model.load_model(file)
    except (xgboost.core.XGBoostError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"XGBoost can't use {file.name}: {error}") from error
    _booster(model).set_param({"nthread": 1})
    return model


def _booster(model: Any) -> Any:
    return model.get_booster() if hasattr(model, "get_booster") else model


def _facts(model: Any) -> dict[str, Any]:
    """What the file doesn't hold.

    The classes; how many iterations predict uses (0: all), for early stopping has a best one; and
    the number that stands for a missing value, where that is not NaN.
    """
    best = getattr(model, "best_iteration", None) if _stopped_early(model) else None
    facts: dict[str, Any] = {"iterations": 0 if best is None else best + 1}
    if type(model).__name__ in _ESTIMATORS:
        facts["estimator"] = type(model).__name__
    missing = getattr(model, "missing", np.nan)
    if missing is not None and not np.isnan(missing):
        facts["missing"] = float(missing)
    if hasattr(model, "classes_"):
        facts["classes"] = np.asarray(model.classes_).tolist()
    return facts


def _stopped_early(model: Any) -> bool:
    return _booster(model).attr("best_iteration") is not None
