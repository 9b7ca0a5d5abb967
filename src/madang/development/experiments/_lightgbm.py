"""LightGBM boosters and estimators, stored as LightGBM's own text.

Prediction calls LightGBM's C API (https://lightgbm.readthedocs.io/en/stable/C-API.html) in the
library that the package ships: the Python package imports scikit-learn and pandas, 150 MB, and
spends 60 of its 70 µs on a row before it gets there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import (
    MATRIX,
    Array,
    Arrays,
    columns_of,
    from_example,
    is_table,
)
from madang.development.experiments._tree_files import check_lightgbm
from madang.development.experiments.formats import Format, Predictor
from madang.errors import IntegrityError, InvalidInputError, MissingDependencyError

_FILE = "model.txt"
_FLOAT64 = 1  # C_API_DTYPE_FLOAT64
_NORMAL = 0  # C_API_PREDICT_NORMAL
_ONE_THREAD = b"num_threads=1"
_ESTIMATORS = ("LGBMClassifier", "LGBMRanker", "LGBMRegressor")


class LightGBMFormat(Format):
    """`Booster`, `LGBMClassifier`, `LGBMRegressor`, `LGBMRanker`."""

    packages = ("lightgbm",)

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        if _booster(model).pandas_categorical:
            raise InvalidInputError(
                "the model was fitted on pandas categories, whose codes depend on the table; fit "
                "it on integer codes (categorical_feature=…) so that a request means the same"
            )
        names = tuple(_booster(model).feature_name())
        named = _is_named(names)
        inputs, columns = from_example(example, _as_given(names, example) if named else ())
        if set(inputs) != {MATRIX}:
            raise InvalidInputError("LightGBM takes numbers; encode text columns as integer codes")
        return inputs, columns

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        return _Original(model)

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        # Without num_iteration the best iteration is the last one stored, as predict uses it.
        _booster(model).save_model(folder / _FILE)
        check_lightgbm((folder / _FILE).read_text("utf-8"))
        if not hasattr(model, "booster_"):
            return {}
        params = model.get_params()
        if callable(params["objective"]):
            raise InvalidInputError(
                "a model with an objective of one's own gives raw scores, whose meaning LightGBM's "
                "text doesn't hold; register its booster_, or convert it to ONNX"
            )
        facts: dict[str, Any] = {"estimator": type(model).__name__, "params": _scalars(params)}
        if hasattr(model, "classes_"):
            facts["classes"] = np.asarray(model.classes_).tolist()
        return facts

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        return LightGBMPredictor(folder / _FILE, manifest.facts)


class _Original:
    """Predicts with the Python package."""

    def __init__(self, model: Any) -> None:
        self.native = model

    def __call__(self, inputs: Arrays) -> Arrays:
        rows = inputs[MATRIX]
        if not hasattr(self.native, "classes_"):
            # The booster itself takes a matrix without complaint about missing column names.
            return {"predict": _booster(self.native).predict(rows)}
        proba = _as_proba(_booster(self.native).predict(rows))
        labels = np.asarray(self.native.classes_)[proba.argmax(axis=1)]
        return {"predict": labels, "predict_proba": proba}


class LightGBMPredictor:
    """Predicts in one thread through the C API; safe for many threads."""

    def __init__(self, file: Path, facts: Mapping[str, Any]) -> None:
        self._file = file
        self._facts = facts
        self._classes = np.array(facts["classes"]) if "classes" in facts else None
        self._library = _library()
        self._handle = ctypes.c_void_p()
        text = file.read_bytes()
        self._call(
            self._library.LGBM_BoosterLoadModelFromString,
            text, ctypes.byref(ctypes.c_int()), ctypes.byref(self._handle),
        )  # fmt: skip
        self._columns = self._number(self._library.LGBM_BoosterGetNumFeature)
        self._values = self._number(self._library.LGBM_BoosterGetNumClasses)
        self._row = ctypes.c_void_p()
        self._call(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit,
            self._handle, _NORMAL, 0, -1, _FLOAT64, self._columns, _ONE_THREAD,
            ctypes.byref(self._row),
        )  # fmt: skip
        self._row_lock = threading.Lock()  # the single-row state belongs to one caller at a time
        self._native: Any = None

    def __call__(self, inputs: Arrays) -> Arrays:
        values = self._scores(np.ascontiguousarray(inputs[MATRIX], dtype=np.float64))
        if self._classes is None:
            return {"predict": values}
        proba = _as_proba(values)
        return {"predict": self._classes[proba.argmax(axis=1)], "predict_proba": proba}

    def _scores(self, rows: Array) -> Array:
        out = np.empty((len(rows), self._values))
        length = ctypes.c_int64()
        source, target = ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(out.ctypes.data)
        if len(rows) == 1:
            with self._row_lock:
                self._call(
                    self._library.LGBM_BoosterPredictForMatSingleRowFast,
                    self._row, source, ctypes.byref(length), target,
                )  # fmt: skip
        else:
            self._call(
                self._library.LGBM_BoosterPredictForMat,
                self._handle, source, _FLOAT64, len(rows), self._columns, 1, _NORMAL, 0, -1,
                _ONE_THREAD, ctypes.byref(length), target,
            )  # fmt: skip
        return out[:, 0] if self._values == 1 else out

    def _number(self, function: Callable[..., int]) -> int:
        found = ctypes.c_int()
        self._call(function, self._handle, ctypes.byref(found))
        return found.value

    def _call(self, function: Callable[..., int], *arguments: Any) -> None:
        if function(*arguments) != 0:
            reason = self._library.LGBM_GetLastError().decode()
            raise IntegrityError(f"LightGBM can't use {self._file.name}: {reason}")

    @property
    def native(self) -> Any:
        """What was stored: a `Booster`, or an estimator of LightGBM's that predicts.

        Of its parameters those are kept that are JSON scalars: the rest matters to fitting alone.
        """
        if self._native is None:
            booster = booster_from(self._file)
            known = self._facts.get("estimator") in _ESTIMATORS
            self._native = _estimator(booster, self._facts) if known else booster
        return self._native

    def __del__(self) -> None:
        # Nothing to free when __init__ failed early.
        if getattr(self, "_row", None):
            self._library.LGBM_FastConfigFree(self._row)
        if getattr(self, "_handle", None):
            self._library.LGBM_BoosterFree(self._handle)


def booster_from(file: Path) -> Any:
    """LightGBM's own booster from its text.

    Raises:
        IntegrityError: The file is no such text.
    """
    import lightgbm

    try:
        return lightgbm.Booster(model_str=file.read_text("utf-8"))
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise IntegrityError(f"LightGBM can't use {file.name}: {error}") from error


def _estimator(booster: Any, facts: Mapping[str, Any]) -> Any:
    """LightGBM's scikit-learn estimator around a booster; it has no way of its own to load one."""
    import lightgbm
    from sklearn.preprocessing import LabelEncoder

    model = getattr(lightgbm, facts["estimator"])(**facts["params"])
    model._Booster = booster
    model._n_features = model._n_features_in = booster.num_feature()
    model._best_iteration = booster.best_iteration
    model._fitted_with_feature_names = _is_named(booster.feature_name())
    model._objective = booster.params.get("objective")
    if "classes" in facts:
        model._le = LabelEncoder().fit(np.array(facts["classes"]))
        model._classes = model._le.classes_
        model._n_classes = len(model._classes)
        model._class_map = {label: code for code, label in enumerate(model._classes)}
    model.fitted_ = True
    return model


def _scalars(params: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in params.items() if isinstance(v, str | bool | int | float | None)}


def _is_named(names: Sequence[str]) -> bool:
    """Whether a booster's columns were named: LightGBM itself calls them Column_0, Column_1, …"""
    return any(name != f"Column_{i}" for i, name in enumerate(names))


def _as_given(names: tuple[str, ...], example: Any) -> tuple[str, ...]:
    """The fitted names as the table spells them: LightGBM turned their spaces into underscores."""
    if not is_table(example):
        return names
    spelled = {name.replace(" ", "_"): name for name in columns_of(example)}
    return tuple(spelled.get(name, name) for name in names)


def _as_proba(values: Array) -> Array:
    """Probabilities of shape (rows, classes), from the one column that two classes have."""
    return values if values.ndim == 2 else np.column_stack([1.0 - values, values])


def _booster(model: Any) -> Any:
    return model.booster_ if hasattr(model, "booster_") else model


@cache
def _library() -> ctypes.CDLL:
    """LightGBM's library, found in the installed package without importing it."""
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("the model format 'lightgbm'", "lightgbm", "lightgbm")
    package = Path(spec.submodule_search_locations[0])
    for folder in (package / "lib", package / "bin", package.parent):
        for name in ("lib_lightgbm.so", "lib_lightgbm.dylib"):
            if (folder / name).is_file():
                library = ctypes.CDLL(str(folder / name))
                library.LGBM_GetLastError.restype = ctypes.c_char_p
                return library
    raise MissingDependencyError("the model format 'lightgbm'", "lightgbm", "lightgbm")
