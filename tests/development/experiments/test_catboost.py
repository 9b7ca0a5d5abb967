"""CatBoost models: what is stored predicts the same."""

from __future__ import annotations

import json

import catboost
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_diabetes, load_iris

from madang.development.experiments import TensorSpec, formats
from madang.errors import InvalidInputError

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS_FRAME = load_iris(as_frame=True).data
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
FEW = {"iterations": 5, "verbose": False, "allow_writing_files": False, "random_seed": 0}
TABLE = pd.DataFrame({"size": IRIS[:, 0], "kind": np.where(IRIS[:, 1] > 3, "a", "b"),
                      "code": SPECIES})  # fmt: skip


def stored(model, folder, **options):
    folder.mkdir(exist_ok=True)
    manifest = formats.save(model, folder, **options)
    assert manifest.format == "catboost"
    return formats.load(folder, digest=manifest.digest)


@pytest.mark.parametrize("labels", [SPECIES, NAMES, SPECIES > 0], ids=["numbers", "names", "two"])
def test_classifiers(tmp_path, labels):
    model = catboost.CatBoostClassifier(**FEW).fit(IRIS, labels)
    loaded = stored(model, tmp_path, example=IRIS[:3])
    assert loaded.signature.inputs == (TensorSpec("input", "FP64", (-1, 4)),)
    found = loaded.predict({"input": IRIS})
    np.testing.assert_array_equal(
        found["predict"], np.ravel(model.predict(IRIS)).astype(found["predict"].dtype)
    )
    np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(IRIS))
    assert [len(array) for array in loaded.predict({"input": IRIS[:1]}).values()] == [1, 1]
    assert isinstance(loaded.native, catboost.CatBoostClassifier)


def test_regressors_and_missing_values(tmp_path):
    rows = DIABETES.copy()
    rows[::3, 0] = np.nan
    model = catboost.CatBoostRegressor(**FEW).fit(rows, PROGRESS)
    found = stored(model, tmp_path, example=rows[:3]).predict({"input": rows})
    assert list(found) == ["predict"]
    np.testing.assert_array_equal(found["predict"], model.predict(rows))


def test_the_base_class(tmp_path):
    model = catboost.CatBoost(FEW).fit(DIABETES, PROGRESS)
    found = stored(model, tmp_path, example=DIABETES[:3]).predict({"input": DIABETES})
    np.testing.assert_array_equal(found["predict"], model.predict(DIABETES))


def test_columns_go_by_name(tmp_path):
    model = catboost.CatBoostRegressor(**FEW).fit(IRIS_FRAME, SPECIES)
    loaded = stored(model, tmp_path, example=IRIS_FRAME[:3])
    assert loaded.manifest.columns == tuple(IRIS_FRAME.columns)
    shuffled = IRIS_FRAME[list(IRIS_FRAME.columns[::-1])]
    found = loaded.predict(loaded.inputs(shuffled))["predict"]
    np.testing.assert_array_equal(found, model.predict(IRIS_FRAME))


def test_categories(tmp_path):
    model = catboost.CatBoostRegressor(**FEW, cat_features=["kind", "code"]).fit(TABLE, IRIS[:, 2])
    loaded = stored(model, tmp_path, example=TABLE[:3])
    assert [spec.datatype for spec in loaded.signature.inputs] == ["FP64", "BYTES", "INT64"]
    found = loaded.predict(loaded.inputs(TABLE))["predict"]
    np.testing.assert_array_equal(found, model.predict(TABLE))
    unseen = loaded.predict({"size": [1.0], "kind": ["never"], "code": [99]})["predict"]
    assert np.isfinite(unseen).all()


def test_categories_in_a_matrix_are_refused(tmp_path):
    codes = TABLE[["size", "code"]]
    model = catboost.CatBoostRegressor(**FEW, cat_features=["code"]).fit(codes, IRIS[:, 2])
    with pytest.raises(InvalidInputError, match="hand in a table with at least one text column"):
        stored(model, tmp_path, example=codes[:3])


def test_damaged_files(tmp_path):
    """CatBoost refuses some, and aborts its process on others: neither reaches this process."""
    model = catboost.CatBoostRegressor(**FEW).fit(DIABETES, PROGRESS)
    model.save_model(str(tmp_path / "whole"), format="cbm")
    whole = (tmp_path / "whole").read_bytes()
    reasons = []
    for i, content in enumerate((b"hello", whole[: len(whole) // 2], b"CBM1" + b"\xff" * 100)):
        manifest = formats.import_folder(
            folder_of(tmp_path / f"m{i}", content), made(tmp_path / f"s{i}")
        )
        assert manifest.format == "object"
        reasons.append(manifest.facts["reason"])
    assert any("CatBoost can't use model.cb" in reason for reason in reasons)
    assert any("reading model.cb broke its library (-6)" in reason for reason in reasons)


def made(folder):
    folder.mkdir()
    return folder


def folder_of(folder, content):
    made(folder)
    (folder / "model.cb").write_bytes(content)
    settings = {"data": "model.cb", "model_type": "CatBoostClassifier", "save_format": "cbm"}
    spec = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 4]}}]
    described = {"flavors": {"catboost": settings}, "signature": {"inputs": json.dumps(spec)}}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    return folder


def test_mlflows_folder(tmp_path):
    model = catboost.CatBoostClassifier(**FEW).fit(IRIS, SPECIES)
    model.save_model(str(tmp_path / "whole"), format="cbm")
    folder = folder_of(tmp_path / "m", (tmp_path / "whole").read_bytes())
    loaded = stored(folder, tmp_path / "s")
    found = loaded.predict({"input": IRIS})["predict"]
    np.testing.assert_array_equal(found, np.ravel(model.predict(IRIS)))
