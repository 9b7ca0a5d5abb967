"""scikit-learn pipelines that end with another library's model."""

from __future__ import annotations

import json

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from madang.development.experiments import formats
from madang.errors import InvalidInputError, UnsafeModelError

ROWS = 300


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "distance": np.where(random.random(ROWS) < 0.1, np.nan, random.normal(size=ROWS)),
            "carrier": random.choice(["AA", "UA", "DL"], ROWS),
            "late": random.integers(0, 2, ROWS),
        }
    )


def fitted(last, table, label):
    encode = ColumnTransformer(
        [
            ("numbers", SimpleImputer(), ["distance"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
        ]
    )
    return make_pipeline(encode, last).fit(table.drop("late"), label)


@pytest.mark.parametrize(
    "last",
    [
        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1),
        lightgbm.LGBMRegressor(n_estimators=5, verbose=-1),
        xgboost.XGBClassifier(n_estimators=5),
        xgboost.XGBRegressor(n_estimators=5),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_round_trip_on_a_table_with_words(last, table, tmp_path):
    model = fitted(last, table, table["late"].to_numpy())
    rows = table.drop("late")
    manifest = formats.save(model, tmp_path, example=rows[:5])
    assert manifest.format == "pipeline"
    assert {spec.name: spec.datatype for spec in manifest.signature.inputs} == {
        "distance": "FP64",
        "carrier": "BYTES",
    }
    assert last.__module__.partition(".")[0] in " ".join(manifest.requirements)
    loaded = formats.load(tmp_path, digest=manifest.digest)
    outputs = loaded.predict(loaded.inputs(rows))
    np.testing.assert_allclose(outputs["predict"], model.predict(rows), atol=1e-6)
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(outputs["predict_proba"], model.predict_proba(rows), atol=1e-6)
    again = loaded.native.predict(rows)
    np.testing.assert_allclose(again, model.predict(rows), atol=1e-6)


def test_unseen_and_missing_values_are_those_of_the_transformers(table, tmp_path):
    model = fitted(
        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), table, table["late"].to_numpy()
    )
    manifest = formats.save(model, tmp_path, example=table.drop("late")[:5])
    loaded = formats.load(tmp_path, digest=manifest.digest)
    outputs = loaded.predict({"distance": [np.nan], "carrier": ["never seen"]})
    assert outputs["predict_proba"].shape == (1, 2)


def test_a_matrix_goes_through_a_scaler(tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 3))
    model = Pipeline(
        [("scale", StandardScaler()), ("trees", lightgbm.LGBMRegressor(n_estimators=5, verbose=-1))]
    )
    model.fit(rows, rows[:, 0])
    manifest = formats.save(model, tmp_path, example=rows[:5])
    loaded = formats.load(tmp_path, digest=manifest.digest)
    found = loaded.predict({"input": rows})["predict"]
    np.testing.assert_allclose(found, model.predict(rows))


def cubed(rows):
    return rows**3


def test_transformers_of_ones_own_are_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 3))
    model = make_pipeline(FunctionTransformer(cubed), xgboost.XGBRegressor(n_estimators=2))
    model.fit(rows, rows[:, 0])
    with pytest.raises(UnsafeModelError, match=r"not trusted to load: .*cubed"):
        formats.save(model, tmp_path, example=rows[:5])


def test_the_inner_format_can_not_be_one_that_is_not_there(table, tmp_path):
    model = fitted(
        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), table, table["late"].to_numpy()
    )
    formats.save(model, tmp_path, example=table.drop("late")[:5])
    file = tmp_path / "model.json"
    content = json.loads(file.read_text())
    content["facts"]["last"]["format"] = "pickle"
    file.write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match="models of format 'pickle' can't be loaded"):
        formats.load(tmp_path)
