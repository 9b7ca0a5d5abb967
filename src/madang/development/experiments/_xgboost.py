"""XGBoost boosters and estimators, stored as XGBoost's own UBJSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import MATRIX, Array, Arrays, from_example
from madang.development.experiments.formats import Format, Predictor
from madang.errors import IntegrityError, InvalidInputError

_FILE = "model.ubj"
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
        return XGBoostPredictor(model, _facts(model))

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
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


class XGBoostPredictor:
    """Predicts with a booster; in-place prediction is safe for many threads."""

    def __init__(self, native: Any, facts: Mapping[str, Any]) -> None:
        self.native = native
        self._booster = _booster(native)
        self._classes = np.array(facts["classes"]) if "classes" in facts else None
        self._iterations = (0, int(facts["iterations"]))
        config = json.loads(self._booster.save_config())
        self._linear = config["learner"]["gradient_booster"]["name"] == "gblinear"

    def __call__(self, inputs: Arrays) -> Arrays:
        values = self._scores(inputs[MATRIX])
        if self._classes is None:
            return {"predict": values}
        proba = values if values.ndim == 2 else np.column_stack([1 - values, values])
        return {"predict": self._classes[proba.argmax(axis=1)], "predict_proba": proba}

    def _scores(self, rows: Array) -> Array:
        options = {"iteration_range": self._iterations, "validate_features": False}
        if self._linear:  # it has no prediction in place
            return np.asarray(self._booster.predict(xgboost.DMatrix(rows), **options))
        return np.asarray(self._booster.inplace_predict(rows, **options))


def loaded(file: Path, facts: Mapping[str, Any]) -> Any:
    """What was stored, to run in one thread: a `Booster` or an estimator of XGBoost's.

    Raises:
        IntegrityError: The file is no model of XGBoost's JSON or UBJSON.
    """
    known = facts.get("estimator") in _ESTIMATORS
    model = getattr(xgboost, facts["estimator"])(n_jobs=1) if known else xgboost.Booster()
    try:
        model.load_model(file)
    except (xgboost.core.XGBoostError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"XGBoost can't use {file.name}: {error}") from error
    _booster(model).set_param({"nthread": 1})
    return model


def _booster(model: Any) -> Any:
    return model.get_booster() if hasattr(model, "get_booster") else model


def _facts(model: Any) -> dict[str, Any]:
    """The classes, and how many iterations predict uses (0: all): early stopping has a best one."""
    best = getattr(model, "best_iteration", None) if _stopped_early(model) else None
    facts: dict[str, Any] = {"iterations": 0 if best is None else best + 1}
    if type(model).__name__ in _ESTIMATORS:
        facts["estimator"] = type(model).__name__
    if hasattr(model, "classes_"):
        facts["classes"] = np.asarray(model.classes_).tolist()
    return facts


def _stopped_early(model: Any) -> bool:
    return _booster(model).attr("best_iteration") is not None
