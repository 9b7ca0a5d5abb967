"""SHAP values: they add up to the prediction, and equal what the definition gives."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import given, settings, strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from madang.development.experiments import formats
from madang.development.experiments._shapley import sampled
from madang.development.experiments.contract import Signature, TensorSpec
from madang.development.experiments.explain import explain
from madang.errors import InvalidInputError

# shap imports matplotlib's colors in a way that matplotlib will end.
pytestmark = pytest.mark.filterwarnings("ignore:.*function will be dep:PendingDeprecationWarning")

IRIS, SPECIES = load_iris(return_X_y=True)
CANCER, MALIGNANT = load_breast_cancer(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)

MODELS = {
    "ridge": (Ridge().fit(DIABETES, PROGRESS), DIABETES, "linear", "output"),
    "logistic": (
        make_pipeline(StandardScaler(), LogisticRegression()).fit(CANCER, MALIGNANT),
        CANCER, "linear", "log_odds",
    ),
    "softmax": (LogisticRegression(max_iter=500).fit(IRIS, SPECIES), IRIS, "linear", "raw_score"),
    "tree": (
        DecisionTreeClassifier(max_depth=4).fit(CANCER, MALIGNANT), CANCER, "tree", "probability",
    ),
    "forest": (
        RandomForestClassifier(20, random_state=0).fit(IRIS, SPECIES), IRIS, "tree", "probability",
    ),
    "forest_regressor": (
        RandomForestRegressor(20, random_state=0).fit(DIABETES, PROGRESS),
        DIABETES, "tree", "output",
    ),
    "boosting": (
        GradientBoostingRegressor(n_estimators=20).fit(DIABETES, PROGRESS),
        DIABETES, "tree", "output",
    ),
    "hist": (
        HistGradientBoostingClassifier(max_iter=20).fit(CANCER, MALIGNANT),
        CANCER, "tree", "log_odds",
    ),
    "hist_regressor_behind_a_scaler": (
        make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=20)).fit(
            DIABETES, PROGRESS
        ),
        DIABETES, "tree", "output",
    ),
    "lightgbm": (
        lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1).fit(CANCER, MALIGNANT),
        CANCER, "tree", "log_odds",
    ),
    "lightgbm_multiclass": (
        lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(IRIS, SPECIES),
        IRIS, "tree", "raw_score",
    ),
    "lightgbm_regressor": (
        lightgbm.LGBMRegressor(n_estimators=20, verbose=-1, n_jobs=1).fit(DIABETES, PROGRESS),
        DIABETES, "tree", "output",
    ),
    "xgboost": (
        xgboost.XGBClassifier(n_estimators=20, n_jobs=1).fit(CANCER, MALIGNANT),
        CANCER, "tree", "log_odds",
    ),
    "xgboost_multiclass": (
        xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(IRIS, SPECIES),
        IRIS, "tree", "raw_score",
    ),
    "xgboost_regressor": (
        xgboost.XGBRegressor(n_estimators=20, n_jobs=1).fit(DIABETES, PROGRESS),
        DIABETES, "tree", "output",
    ),
    "poisson": (PoissonRegressor().fit(DIABETES, PROGRESS), DIABETES, "sampling", "output"),
    "bayes": (GaussianNB().fit(CANCER, MALIGNANT), CANCER, "sampling", "probability"),
    "boosting_from_another_model": (
        GradientBoostingRegressor(n_estimators=5, init=Ridge()).fit(DIABETES, PROGRESS),
        DIABETES, "sampling", "output",
    ),
    "boosting_from_nothing": (
        GradientBoostingClassifier(n_estimators=5, init="zero").fit(CANCER, MALIGNANT),
        CANCER, "sampling", "probability",
    ),
    "lightgbm_forest": (
        lightgbm.LGBMRegressor(
            boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, n_estimators=5, verbose=-1,
            n_jobs=1,
        ).fit(DIABETES, PROGRESS),
        DIABETES, "sampling", "output",
    ),
    "lightgbm_of_linear_trees": (
        lightgbm.LGBMRegressor(linear_tree=True, n_estimators=5, verbose=-1, n_jobs=1).fit(
            DIABETES, PROGRESS
        ),
        DIABETES, "sampling", "output",
    ),
    "boosting_multiclass": (
        GradientBoostingClassifier(n_estimators=5).fit(IRIS, SPECIES),
        IRIS, "sampling", "probability",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(MODELS))
def case(request, tmp_path_factory):
    model, rows, method, scale = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    formats.save(model, folder, example=rows[:20])
    return formats.load(folder), rows, method, scale


def test_base_and_values_add_up_to_the_prediction_on_the_named_scale(case):
    model, rows, method, scale = case
    some = rows[50:58]

    found = explain(model, some, background=rows[:20])

    assert (found.method, found.scale) == (method, scale)
    assert found.values.shape == (8, rows.shape[1], len(found.outputs))
    total = found.base + found.values.sum(axis=1)
    assert total == pytest.approx(found.prediction, rel=1e-9, abs=1e-9)
    outputs = model.predict({"input": some})
    if scale == "output":
        assert total[:, 0] == pytest.approx(outputs["predict"], rel=1e-4, abs=1e-4)
    elif scale == "log_odds":
        assert 1 / (1 + np.exp(-total[:, 0])) == pytest.approx(
            outputs["predict_proba"][:, 1], rel=1e-4, abs=1e-6
        )
    elif scale == "probability":
        expected = outputs["predict_proba"]
        expected = expected[:, 1:] if expected.shape[1] == 2 else expected
        assert total == pytest.approx(expected, rel=1e-6, abs=1e-9)
    else:
        exponents = np.exp(total - total.max(axis=1, keepdims=True))
        softmax = exponents / exponents.sum(axis=1, keepdims=True)
        assert softmax == pytest.approx(outputs["predict_proba"], rel=1e-4, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    columns=st.integers(1, 6),
    rows=st.integers(1, 3),
    count=st.integers(1, 9),
)
def test_sampled_values_add_up_for_any_function(seed, columns, rows, count):
    random = np.random.default_rng(seed)
    weights = random.normal(size=(columns, 2))

    def predict(inputs):
        return np.sin(inputs["input"] @ weights) * inputs["input"][:, :1]

    x, z = random.normal(size=(rows, columns)), random.normal(size=(count, columns))
    found = sampled(predict, {"input": x}, {"input": z}, permutations=10, seed=seed)

    assert found.base + found.values.sum(axis=1) == pytest.approx(
        predict({"input": x}), rel=1e-9, abs=1e-9
    )


def test_sampled_values_are_the_definition_within_their_standard_error():
    random = np.random.default_rng(1)
    x, z = random.normal(size=(1, 4)), random.normal(size=(5, 4))

    def predict(inputs):
        rows = inputs["input"]
        return rows[:, :1] * rows[:, 1:2] + np.exp(rows[:, 2:3]) * rows[:, 3:4] ** 2

    found = sampled(predict, {"input": x}, {"input": z}, permutations=4000, seed=0)

    expected = _by_definition(predict, x[0], z)
    error = np.abs(found.values[0, :, 0] - expected)
    assert (found.standard_error > 0).all()
    assert (error < 5 * found.standard_error[0, :, 0]).all()
    assert error.max() < 0.05


def _by_definition(predict, x, background):
    """The sum over all coalitions (Shapley, 1953)."""
    columns = range(len(x))

    def worth(coalition):
        rows = background.copy()
        rows[:, list(coalition)] = x[list(coalition)]
        return float(predict({"input": rows}).mean())

    values = []
    for column in columns:
        others = [other for other in columns if other != column]
        value = 0.0
        for size in range(len(x)):
            weight = math.factorial(size) * math.factorial(len(x) - size - 1)
            for coalition in itertools.combinations(others, size):
                change = worth((*coalition, column)) - worth(coalition)
                value += weight / math.factorial(len(x)) * change
        values.append(value)
    return values


def test_a_linear_model_is_explained_by_its_coefficients(tmp_path):
    ridge = Ridge().fit(DIABETES, PROGRESS)
    formats.save(ridge, tmp_path, example=DIABETES[:20])

    found = explain(formats.load(tmp_path), DIABETES[:3], background=DIABETES[:20])

    expected = ridge.coef_ * (DIABETES[:3] - DIABETES[:20].mean(axis=0))
    assert found.values[:, :, 0] == pytest.approx(expected)
    assert found.base[0] == pytest.approx(ridge.predict(DIABETES[:20]).mean())
    assert found.background_rows == 20


def test_columns_of_text_and_numbers_are_explained_by_name(tmp_path):
    import pyarrow as pa

    table = pa.table(
        {"size": [1.0, 2.0, 3.0, 4.0] * 5, "kind": ["x", "y", "x", "z"] * 5},
    )
    model = make_pipeline(
        ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough"), Ridge()
    ).fit(table.to_pandas(), [1.0, 5.0, 2.0, 9.0] * 5)
    formats.save(model, tmp_path, example=table)
    loaded = formats.load(tmp_path)

    found = explain(loaded, table.slice(0, 2), background=table)

    assert found.method == "sampling"
    assert set(found.columns) == {"size", "kind"}
    assert found.prediction[:, 0] == pytest.approx(
        loaded.predict(loaded.inputs(table.slice(0, 2)))["predict"]
    )


def test_the_same_seed_gives_the_same_values_and_another_one_others(tmp_path):
    formats.save(GaussianNB().fit(CANCER, MALIGNANT), tmp_path, example=CANCER[:5])
    model = formats.load(tmp_path)

    one, same, other = (
        explain(model, CANCER[:2], background=CANCER[:5], seed=seed) for seed in (7, 7, 8)
    )

    assert np.array_equal(one.values, same.values)
    assert not np.array_equal(one.values, other.values)


def test_a_missing_background_and_unusual_shapes_are_refused_with_a_reason(tmp_path):
    formats.save(Ridge().fit(DIABETES, PROGRESS), tmp_path, example=DIABETES[:5])
    with pytest.raises(InvalidInputError, match="give background=…, such as the version's"):
        explain(formats.load(tmp_path), DIABETES[:2])
    with pytest.raises(InvalidInputError, match="a seed is 0 or more, found -1"):
        explain(formats.load(tmp_path), DIABETES[:2], background=DIABETES[:5], seed=-1)

    class Images:
        signature = Signature(
            (TensorSpec("image", "FP32", (-1, 8, 8)),), (TensorSpec("predict", "FP32", (-1,)),)
        )

        def predict(self, inputs):
            return {"predict": inputs["image"].mean(axis=(1, 2))}

    with pytest.raises(InvalidInputError, match=r"'image' has shape .*only columns and matrices"):
        explain(Images(), {"image": np.zeros((1, 8, 8))}, background={"image": np.zeros((1, 8, 8))})


def test_without_shap_trees_name_the_extra_and_other_models_are_explained(tmp_path):
    for name, model in {
        "tree": DecisionTreeClassifier().fit(IRIS, SPECIES),
        "linear": Ridge().fit(DIABETES, PROGRESS),
    }.items():
        (tmp_path / name).mkdir()
        formats.save(model, tmp_path / name, example=IRIS[:5] if name == "tree" else DIABETES[:5])
    code = """
import sys
sys.modules["shap"] = None
from pathlib import Path
import numpy as np
from madang.development.experiments import formats
from madang.development.experiments.explain import explain
from madang.errors import MissingDependencyError
folder = Path(sys.argv[1])
linear = explain(formats.load(folder / "linear"), np.ones((1, 10)), background=np.ones((2, 10)))
print(linear.method)
try:
    explain(formats.load(folder / "tree"), np.ones((1, 4)))
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert "linear" in done.stdout
    assert "pip install 'madang[explain]'" in done.stdout
