"""Compiled linear models: equal to the original, and only when they are proven equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDRegressor,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from madang.development.experiments import formats
from madang.errors import InvalidInputError

IRIS, SPECIES = load_iris(return_X_y=True)
CANCER, MALIGNANT = load_breast_cancer(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)

MODELS = {
    "multinomial": (make_pipeline(StandardScaler(), LogisticRegression()), IRIS, SPECIES),
    "binary": (make_pipeline(StandardScaler(), LogisticRegression()), CANCER, MALIGNANT),
    "names": (make_pipeline(MinMaxScaler(), LogisticRegression()), CANCER,
              np.where(MALIGNANT, "yes", "no")),
    "liblinear": (make_pipeline(MaxAbsScaler(), LogisticRegression(solver="liblinear")), CANCER,
                  MALIGNANT),
    "two scalers": (make_pipeline(RobustScaler(), StandardScaler(with_mean=False),
                                  LogisticRegression()), CANCER, MALIGNANT),
    "ridge": (Ridge(), DIABETES, PROGRESS),
    "two targets": (LinearRegression(), DIABETES, np.c_[PROGRESS, -PROGRESS]),
    "lasso": (make_pipeline(MinMaxScaler(), Lasso()), DIABETES, PROGRESS),
    "elastic": (make_pipeline(StandardScaler(with_std=False), ElasticNet()), DIABETES, PROGRESS),
    "descent": (make_pipeline(StandardScaler(), SGDRegressor(random_state=0)), DIABETES, PROGRESS),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A compiled model and its original, of the same folder."""
    model, rows, labels = MODELS[request.param]
    folder = tmp_path_factory.mktemp("model")
    manifest = formats.save(model.fit(rows, labels), folder, example=rows[:5])
    assert manifest.compiled["kind"] == "linear"
    assert manifest.compiled["rows"] == 1005 + 300  # around the example; with NaN and infinities
    assert manifest.compiled["max_difference"] <= manifest.compiled["bound"] == 1e-9
    fast, original = formats.load(folder), formats.load(folder, compiled=False)
    assert type(fast._predictor) is not type(original._predictor)
    return fast, original, rows


def test_equal_on_its_data(pair):
    fast, original, rows = pair
    found, expected = fast.predict({"input": rows}), original.predict({"input": rows})
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert formats.largest_difference(found[key], value) <= 1e-9


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equal_on_any_finite_rows(pair, data):
    fast, original, rows = pair
    values = st.floats(-1e6, 1e6)
    drawn = data.draw(arrays(np.float64, (3, rows.shape[1]), elements=values))
    found, expected = fast.predict({"input": drawn}), original.predict({"input": drawn})
    for key, value in expected.items():
        if key == "predict" and "predict_proba" in expected:
            continue  # a tie may go either way
        # The scores' own size sets how far two orders of adding can be apart.
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_both(pair, bad):
    fast, original, rows = pair
    wrong = rows[:3].copy()
    wrong[1, 0] = bad
    for model in (fast, original):
        with pytest.raises(InvalidInputError, match="the model can't take these inputs"):
            model.predict({"input": wrong})


def test_extreme_scores_are_probabilities(tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(CANCER, MALIGNANT)
    formats.save(model, tmp_path, example=CANCER[:3])
    rows = np.vstack([CANCER[:1] * 1e9, CANCER[:1] * -1e9])
    found = formats.load(tmp_path).predict({"input": rows})
    np.testing.assert_allclose(found["predict_proba"], model.predict_proba(rows), atol=1e-12)
    np.testing.assert_array_equal(found["predict"], model.predict(rows))


class _Tripled(Ridge):
    def predict(self, X):
        return 3 * super().predict(X)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make_pipeline(PolynomialFeatures(2), Ridge()), "PolynomialFeatures has no compiled form"),
        (_Tripled(), "_Tripled has no compiled form"),
        (KNeighborsRegressor(), "KNeighborsRegressor has no compiled form"),
    ],
    ids=["polynomial", "own class", "another"],
)
def test_what_has_no_compiled_form_stays_as_it_is(tmp_path, model, reason):
    name = f"{_Tripled.__module__}._Tripled"
    model.fit(DIABETES, PROGRESS)
    manifest = formats.save(model, tmp_path, example=DIABETES[:3], trusted=[name])
    assert list(manifest.compiled) == ["not"]
    assert manifest.compiled["not"].endswith(reason)
    assert not list(tmp_path.glob("compiled.*"))
    loaded = formats.load(tmp_path, digest=manifest.digest)
    assert loaded.fallback == ""
    found = loaded.predict({"input": DIABETES})
    np.testing.assert_allclose(found["predict"], model.predict(DIABETES))


def test_a_form_that_differs_is_not_used(tmp_path, monkeypatch):
    from madang.development.experiments import _linear

    model = Ridge().fit(DIABETES, PROGRESS)
    monkeypatch.setattr(_linear, "_fused", lambda scalers, n: (np.full(n, 1e-3), np.ones(n)))
    manifest = formats.save(model, tmp_path, example=DIABETES[:3])
    assert manifest.compiled["not"].startswith("its outputs differ by ")
    assert manifest.compiled["not"].endswith("(allowed: 1e-09)")
    assert not list(tmp_path.glob("compiled.*"))
    found = formats.load(tmp_path).predict({"input": DIABETES})["predict"]
    np.testing.assert_array_equal(found, model.predict(DIABETES))
