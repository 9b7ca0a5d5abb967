"""The kinds of models that AutoML tries, their parameters, and how columns are prepared for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import polars as pl
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

from madang.development.tuning.automl.columns import MANY
from madang.development.tuning.automl.contract import ColumnUse, Task
from madang.development.tuning.contract import Float, Int, Range
from madang.errors import InvalidInputError

_TREES: dict[str, Range] = {
    "max_features": Float(0.2, 1.0),
    "min_samples_leaf": Int(1, 50, log=True),
    "n_estimators": Int(50, 300, log=True),
}
_BOOSTED: dict[str, Range] = {
    "learning_rate": Float(0.02, 0.3, log=True),
    "n_estimators": Int(50, 500, log=True),
    "subsample": Float(0.5, 1.0),
    "colsample_bytree": Float(0.4, 1.0),
    "reg_lambda": Float(1e-3, 30.0, log=True),
}

SPACES: Mapping[str, Mapping[str, Range]] = {
    "linear": {"strength": Float(1e-3, 1e3, log=True)},
    "hist_gradient_boosting": {
        "learning_rate": Float(0.02, 0.3, log=True),
        "max_iter": Int(50, 400, log=True),
        "max_leaf_nodes": Int(8, 128, log=True),
        "min_samples_leaf": Int(5, 100, log=True),
        "l2_regularization": Float(1e-3, 30.0, log=True),
    },
    "random_forest": _TREES,
    "extra_trees": _TREES,
    "lightgbm": {
        **_BOOSTED,
        "num_leaves": Int(8, 128, log=True),
        "min_child_samples": Int(5, 100, log=True),
    },
    "xgboost": {
        **_BOOSTED,
        "max_depth": Int(3, 10),
        "min_child_weight": Float(0.5, 50.0, log=True),
    },
}
"""Family to its parameters; what is not listed keeps its library's default."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"strength": 1.0},
    "hist_gradient_boosting": {
        "learning_rate": 0.1, "max_iter": 100, "max_leaf_nodes": 31, "min_samples_leaf": 20,
        "l2_regularization": 1e-3,
    },
    "random_forest": {"max_features": 0.5, "min_samples_leaf": 5, "n_estimators": 100},
    "extra_trees": {"max_features": 0.8, "min_samples_leaf": 5, "n_estimators": 100},
    "lightgbm": {
        "learning_rate": 0.1, "n_estimators": 100, "subsample": 1.0, "colsample_bytree": 1.0,
        "reg_lambda": 1e-3, "num_leaves": 31, "min_child_samples": 20,
    },
    "xgboost": {
        "learning_rate": 0.1, "n_estimators": 100, "subsample": 1.0, "colsample_bytree": 1.0,
        "reg_lambda": 1.0, "max_depth": 6, "min_child_weight": 1.0,
    },
}  # fmt: skip
"""What each family is tried with first."""


def available(wanted: Sequence[str] | None) -> list[str]:
    """The families to try: those asked for, or all whose libraries are installed.

    Raises:
        InvalidInputError: One is unknown, or its library is not installed.
    """
    installed = [
        name
        for name in SPACES
        if name not in ("lightgbm", "xgboost") or find_spec(name) is not None
    ]
    unusable = [name for name in wanted or () if name not in installed]
    if unusable:
        raise InvalidInputError(
            f"AutoML can't try {', '.join(unusable)}; here it has: {', '.join(installed)} "
            "(lightgbm and xgboost are extras)"
        )
    return list(dict.fromkeys(wanted or installed))


def build(
    family: str,
    params: Mapping[str, Any],
    table: pl.DataFrame,
    *,
    columns: Sequence[ColumnUse],
    task: Task,
    seed: int,
) -> Pipeline:
    """An unfitted model of a family for a table's columns."""
    return Pipeline(
        [("columns", _prepared(family, columns, table, task, seed)),
         ("model", _model(family, params, task, seed))]
    )  # fmt: skip


def _prepared(
    family: str, columns: Sequence[ColumnUse], table: pl.DataFrame, task: Task, seed: int
) -> ColumnTransformer:
    numbers = [use.name for use in columns if use.role == "number"]
    categories = [use.name for use in columns if use.role == "category"]
    few = [name for name in categories if table[name].n_unique() <= MANY]
    many = [name for name in categories if name not in few]
    parts: list[tuple[str, Any, list[str]]] = []
    if numbers:
        parts.append(("numbers", _numbers(family), numbers))
    if few:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=float)
        parts.append(("few", encoder, few))
    if many:
        kind = "continuous" if task == "regression" else "auto"
        parts.append(("many", TargetEncoder(target_type=kind, random_state=seed), many))
    return ColumnTransformer(parts)


def _numbers(family: str) -> Any:
    if family == "linear":
        return Pipeline([("fill", SimpleImputer(strategy="median", add_indicator=True)),
                         ("scale", StandardScaler())])  # fmt: skip
    if family in ("random_forest", "extra_trees"):
        return SimpleImputer(strategy="median")
    return "passthrough"  # boosted trees know missing values


def _model(family: str, params: Mapping[str, Any], task: Task, seed: int) -> Any:
    """The estimator; one thread, because the trials beside it have the other cores."""
    classes = task == "classification"
    if family == "linear":
        from sklearn.linear_model import LogisticRegression, Ridge

        strength = params["strength"]
        if classes:
            return LogisticRegression(C=1 / strength, max_iter=500)
        return Ridge(alpha=strength)
    if family == "hist_gradient_boosting":
        from sklearn.ensemble import (
            HistGradientBoostingClassifier as Classifier,
            HistGradientBoostingRegressor as Regressor,
        )

        return (Classifier if classes else Regressor)(
            **params, early_stopping=False, random_state=seed
        )
    if family in ("random_forest", "extra_trees"):
        from sklearn import ensemble

        name = "RandomForest" if family == "random_forest" else "ExtraTrees"
        made = getattr(ensemble, name + ("Classifier" if classes else "Regressor"))
        return made(**params, random_state=seed, n_jobs=1)
    if family == "lightgbm":
        from lightgbm import LGBMClassifier, LGBMRegressor

        return (LGBMClassifier if classes else LGBMRegressor)(
            **params, subsample_freq=1, random_state=seed, n_jobs=1, verbose=-1
        )
    from xgboost import XGBClassifier, XGBRegressor

    return (XGBClassifier if classes else XGBRegressor)(
        **params, random_state=seed, n_jobs=1, tree_method="hist"
    )


def names_of(params: Mapping[str, Any], family: str) -> dict[str, Any]:
    """A trial's parameters under their family's own names."""
    prefix = f"{family}."
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
