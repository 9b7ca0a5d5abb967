"""Compiled XGBoost does what XGBoost does on every row, or is not used."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings, strategies as st

from madang.development.experiments import formats

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(300, 5))
ROWS[::7, 2] = np.nan
NUMBERS = ROWS[:, 0] * 3 + ROWS[:, 1] ** 2
TWO = (NUMBERS > 1).astype(int)
THREE = np.digitize(NUMBERS, [-1, 2])
FEW = {"n_estimators": 9, "n_jobs": 1}

MODELS = {
    "two classes": (xgboost.XGBClassifier(**FEW), TWO),
    "three classes": (xgboost.XGBClassifier(**FEW), THREE),
    "weighted": (xgboost.XGBClassifier(**FEW, scale_pos_weight=3, base_score=0.2), TWO),
    "numbers": (xgboost.XGBRegressor(**FEW), NUMBERS),
    "median": (xgboost.XGBRegressor(**FEW, objective="reg:absoluteerror"), NUMBERS),
    "counts": (xgboost.XGBRegressor(**FEW, objective="count:poisson"), TWO),
    "positive": (xgboost.XGBRegressor(**FEW, objective="reg:gamma"), TWO + 1),
    "tweedie": (xgboost.XGBRegressor(**FEW, objective="reg:tweedie"), TWO),
    "share": (xgboost.XGBRegressor(**FEW, objective="reg:logistic"), TWO),
    "forest": (xgboost.XGBRFRegressor(**FEW), NUMBERS),
    "forest of classes": (xgboost.XGBRFClassifier(**FEW), TWO),
    "stumps": (xgboost.XGBRegressor(**FEW, max_depth=1), NUMBERS),
}


@pytest.fixture(scope="module", params=[(name, form) for name in MODELS for form in ("", "booster")],
                ids="-".join)  # fmt: skip
def pair(request, tmp_path_factory):
    name, form = request.param
    model, labels = MODELS[name]
    model.fit(ROWS, labels)
    folder = tmp_path_factory.mktemp("model")
    given = model.get_booster() if form else model
    manifest = formats.save(given, folder, example=ROWS[:5], parity=ROWS)
    assert manifest.compiled.get("kind") == "trees", manifest.compiled
    assert manifest.compiled["max_difference"] <= manifest.compiled["bound"] == 1e-6
    return formats.load(folder), formats.load(folder, compiled=False), model


def agree(fast, original, rows):
    expected = original.predict({"input": rows})
    found = fast.predict({"input": rows})
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert formats.largest_difference(found[key], value) <= 1e-6


def test_equal_on_its_data(pair):
    fast, original, model = pair
    for rows in (
        ROWS,
        ROWS[:1],
        ROWS.astype(np.float32),
        np.nan_to_num(ROWS).astype(int),
        ROWS > 0,
    ):
        agree(fast, original, rows)
    found = fast.predict({"input": ROWS})["predict"]
    if "predict_proba" in fast.predict({"input": ROWS[:1]}):
        np.testing.assert_array_equal(found, model.predict(ROWS))


NUMBER = st.one_of(st.floats(width=64), st.floats(-4, 4), st.sampled_from([3.4e38, 3.5e38, -1e300]))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(NUMBER, min_size=5, max_size=5), min_size=1, max_size=3))
def test_equal_on_any_rows(pair, rows):
    with np.errstate(all="ignore"):
        agree(pair[0], pair[1], np.array(rows))


def test_equal_at_every_threshold(pair):
    """At it, and next to it in 32 and in 64 bits: `<`, not `<=`."""
    fast, original, model = pair
    frame = model.get_booster().trees_to_dataframe()
    frame = frame[frame.Feature != "Leaf"]
    columns = frame.Feature.str.removeprefix("f").astype(int).to_numpy()
    split = frame.Split.to_numpy(np.float32)
    for values in (split, np.nextafter(split, np.float32(np.inf)), np.nextafter(split, np.float32(-np.inf)),
                   np.nextafter(split.astype(float), np.inf), np.nextafter(split.astype(float), -np.inf)):  # fmt: skip
        rows = ROWS[np.arange(len(split)) % 300].copy()
        rows[np.arange(len(split)), columns] = values
        agree(fast, original, rows)


def test_early_stopping_uses_the_best_iteration(tmp_path):
    model = xgboost.XGBClassifier(n_estimators=200, learning_rate=0.9, early_stopping_rounds=3)
    model.fit(ROWS[::2], TWO[::2], eval_set=[(ROWS[1::2], TWO[1::2])], verbose=False)
    manifest = formats.save(model, tmp_path, example=ROWS[:5])
    assert manifest.compiled["kind"] == "trees"
    assert manifest.facts["iterations"] < model.n_estimators
    found = formats.load(tmp_path).predict({"input": ROWS})
    np.testing.assert_allclose(found["predict_proba"], model.predict_proba(ROWS), atol=1e-6)


FRAME = pd.DataFrame({"a": ROWS[:, 0], "b": pd.Categorical(THREE)})


@pytest.mark.parametrize(
    ("model", "rows", "labels", "reason"),
    [
        (xgboost.XGBRegressor(**FEW, booster="dart"), ROWS, NUMBERS, "the booster 'dart'"),
        (xgboost.XGBRegressor(**FEW, booster="gblinear"), np.nan_to_num(ROWS), NUMBERS, "'gblinear'"),
        (xgboost.XGBRegressor(**FEW, objective="reg:quantileerror", quantile_alpha=0.9), ROWS, NUMBERS,
         "the objective 'reg:quantileerror'"),
        (xgboost.XGBRegressor(**FEW), ROWS, np.c_[NUMBERS, -NUMBERS], "several targets"),
    ],
    ids=["dart", "linear", "quantile", "targets"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*gblinear:UserWarning")
def test_what_has_no_compiled_form(tmp_path, model, rows, labels, reason):
    manifest = formats.save(model.fit(rows, labels), tmp_path, example=rows[:5])
    assert reason in manifest.compiled["not"]
    found = formats.load(tmp_path).predict({"input": rows})["predict"]
    np.testing.assert_allclose(found, model.predict(rows), rtol=1e-5)


def test_the_runtime_does_not_load_xgboost(tmp_path):
    formats.save(xgboost.XGBClassifier(**FEW).fit(ROWS, TWO), tmp_path, example=ROWS[:5])
    code = (
        "import sys, pathlib\n"
        "from madang.development.experiments import formats\n"
        "model = formats.load(pathlib.Path(sys.argv[1]))\n"
        "model.predict({'input': [[1, 2, 3, 4, 5]]})\n"
        "found = {'xgboost', 'sklearn', 'onnx', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert type(formats.load(tmp_path).native) is xgboost.XGBClassifier
