"""CatBoost models, stored in CatBoost's own binary format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import catboost
import numpy as np

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import MATRIX, Arrays, from_example
from madang.development.experiments.formats import Format, Predictor
from madang.errors import IntegrityError, InvalidInputError

_FILE = "model.cbm"
_ESTIMATORS = ("CatBoostClassifier", "CatBoostRanker", "CatBoostRegressor")


class CatBoostFormat(Format):
    """`CatBoostClassifier`, `CatBoostRegressor`, `CatBoostRanker`, `CatBoost`."""

    packages = ("catboost",)

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        names = tuple(str(name) for name in model.feature_names_)
        named = any(name != str(i) for i, name in enumerate(names))
        inputs, columns = from_example(example, names if named else ())
        if MATRIX in inputs and model.get_cat_feature_indices():
            raise InvalidInputError(
                "the model takes categories, which are integers or texts and no matrix of floats; "
                "hand in a table with at least one text column for them"
            )
        return inputs, columns

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        return CatBoostPredictor(model)

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        model.save_model(str(folder / _FILE), format="cbm")
        name = type(model).__name__
        return {"estimator": name} if name in _ESTIMATORS else {}

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        return CatBoostPredictor(loaded(folder / _FILE, manifest.facts))


class CatBoostPredictor:
    """Predicts in one thread; applying a model is safe for many."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self._proba = isinstance(native, catboost.CatBoostClassifier)

    def __call__(self, inputs: Arrays) -> Arrays:
        try:
            return self._predict(self._rows(inputs))
        except catboost.CatBoostError as error:
            raise InvalidInputError(f"the model can't take these inputs: {error}") from error

    def _predict(self, rows: Any) -> Arrays:
        values = np.asarray(self.native.predict(rows, thread_count=1))
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]  # labels of more than two classes
        if values.dtype == object:
            values = values.astype(np.str_)
        if not self._proba:
            return {"predict": values}
        return {"predict": values, "predict_proba": self.native.predict_proba(rows, thread_count=1)}

    def _rows(self, inputs: Arrays) -> Any:
        if MATRIX in inputs and len(inputs) == 1:
            return inputs[MATRIX]
        import pandas as pd  # CatBoost itself needs it

        return pd.DataFrame(
            {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in inputs.items()}
        )


def loaded(file: Path, facts: Mapping[str, Any]) -> Any:
    """What was stored: an estimator of CatBoost's, or its base class.

    Raises:
        IntegrityError: The file is no model of CatBoost's binary format.
    """
    name = facts.get("estimator")
    model = getattr(catboost, name if name in _ESTIMATORS else "CatBoost")()
    try:
        model.load_model(str(file), format="cbm")
    except catboost.CatBoostError as error:
        raise IntegrityError(f"CatBoost can't use {file.name}: {error}") from error
    return model
