"""Every model format: what is stored predicts the same, and nothing unsafe is loaded."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import lightgbm
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xgboost
from skl2onnx import to_onnx
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import Birch
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from madang.development.experiments import TensorSpec, formats
from madang.development.experiments._tensors import checked
from madang.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    SchemaMismatchError,
    UnsafeModelError,
)

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS_FRAME = load_iris(as_frame=True).data
CANCER, MALIGNANT = load_breast_cancer(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]

FRAME = pd.DataFrame(
    {"size": [1.0, 2.5, 3.0, 4.0] * 5, "count": [1, 2, 3, 4] * 5, "kind": ["x", "y", "x", "z"] * 5},
    index=np.arange(20)[::-1],  # as after a shuffle
)
FRAME_LABELS = [0, 1, 0, 1] * 5


def stored(model, folder, **options):
    folder.mkdir(exist_ok=True)
    manifest = formats.save(model, folder, **options)
    return formats.load(folder, digest=manifest.digest)


CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(max_iter=500),
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=3),
    "bayes": GaussianNB,
    "neighbors": KNeighborsClassifier,
    "network": lambda: MLPClassifier((4,), max_iter=500, tol=1e-1),
    "calibrated": lambda: CalibratedClassifierCV(GaussianNB(), cv=2),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=3, verbose=-1),
}


class TestEqualOutputs:
    @pytest.mark.parametrize("name", CLASSIFIERS)
    @pytest.mark.parametrize(
        ("rows", "labels"), [(IRIS, NAMES), (CANCER, MALIGNANT)], ids=["names", "numbers"]
    )
    def test_classifiers(self, tmp_path, name, rows, labels):
        scaled = StandardScaler().fit_transform(rows)
        model = CLASSIFIERS[name]().fit(scaled, labels)
        loaded = stored(model, tmp_path, example=scaled[:4])
        outputs = loaded.predict({"input": scaled})
        np.testing.assert_array_equal(outputs["predict"], model.predict(scaled))
        np.testing.assert_allclose(
            outputs["predict_proba"], model.predict_proba(scaled), rtol=0, atol=1e-9
        )
        one = loaded.predict({"input": scaled[:1]})
        assert [array.shape[0] for array in one.values()] == [1, 1]
        kind = "BYTES" if labels is NAMES else "INT64"
        assert loaded.signature.inputs == (TensorSpec("input", "FP64", (-1, scaled.shape[1])),)
        assert [s.datatype for s in loaded.signature.outputs] == [kind, "FP64"]

    @pytest.mark.parametrize(
        "make",
        [
            Ridge,
            LinearRegression,
            PoissonRegressor,
            lambda: RandomForestRegressor(3),
            lambda: HistGradientBoostingRegressor(max_iter=3),
            lambda: lightgbm.LGBMRegressor(n_estimators=3, verbose=-1),
        ],
    )
    def test_regressors(self, tmp_path, make):
        model = make().fit(DIABETES, PROGRESS)
        loaded = stored(model, tmp_path, example=DIABETES[:4])
        found = loaded.predict({"input": DIABETES})
        assert list(found) == ["predict"]
        np.testing.assert_allclose(found["predict"], model.predict(DIABETES), rtol=1e-9)

    def test_without_probabilities(self, tmp_path):
        model = LinearSVC().fit(IRIS, NAMES)
        found = stored(model, tmp_path, example=IRIS[:2]).predict({"input": IRIS})
        assert list(found) == ["predict"]
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))

    def test_a_threshold_of_its_own_is_kept(self, tmp_path):
        inner = LogisticRegression(max_iter=5000).fit(CANCER, MALIGNANT)
        model = FixedThresholdClassifier(inner, threshold=0.95).fit(CANCER, MALIGNANT)
        found = stored(model, tmp_path, example=CANCER[:2]).predict({"input": CANCER})
        np.testing.assert_array_equal(found["predict"], model.predict(CANCER))
        assert (found["predict"] != found["predict_proba"].argmax(axis=1)).any()

    @pytest.mark.parametrize("convert", [lambda f: f, pa.Table.from_pandas, pl.from_pandas, dict])
    def test_tables_of_several_types(self, tmp_path, convert):
        columns = [("n", StandardScaler(), ["size", "count"]),
                   ("k", OneHotEncoder(handle_unknown="ignore"), ["kind"])]  # fmt: skip
        model = make_pipeline(ColumnTransformer(columns), LogisticRegression())
        model.fit(FRAME, FRAME_LABELS)
        loaded = stored(model, tmp_path, example=convert(FRAME))
        assert loaded.signature.inputs == (
            TensorSpec("size", "FP64", (-1,)),
            TensorSpec("count", "INT64", (-1,)),
            TensorSpec("kind", "BYTES", (-1,)),
        )
        outputs = loaded.predict(loaded.inputs(FRAME))
        np.testing.assert_allclose(outputs["predict_proba"], model.predict_proba(FRAME))
        # As a server hands them over: bytes, and one column a tensor of shape (rows, 1).
        one = {"size": [[2.5]], "count": [[2]], "kind": np.array([[b"y"]], dtype=object)}
        np.testing.assert_allclose(
            loaded.predict(one)["predict_proba"][0], model.predict_proba(FRAME)[1]
        )

    @pytest.mark.parametrize("convert", [lambda f: f, pa.Table.from_pandas, pl.from_pandas])
    def test_tables_of_numbers_are_a_matrix(self, tmp_path, convert):
        model = HistGradientBoostingClassifier(max_iter=3).fit(IRIS_FRAME, NAMES)
        loaded = stored(model, tmp_path, example=convert(IRIS_FRAME[:3]))
        assert loaded.manifest.columns == tuple(IRIS_FRAME.columns)
        expected = model.predict_proba(IRIS_FRAME)
        np.testing.assert_array_equal(loaded.predict({"input": IRIS})["predict_proba"], expected)
        shuffled = IRIS_FRAME[list(IRIS_FRAME.columns[::-1])]  # columns go by name, not by place
        found = loaded.predict(loaded.inputs(convert(shuffled)))
        np.testing.assert_array_equal(found["predict_proba"], expected)

    def test_texts(self, tmp_path):
        model = make_pipeline(TfidfVectorizer(), LogisticRegression())
        model.fit(["good day", "bad day", "good", "bad"], [1, 0, 1, 0])
        loaded = stored(model, tmp_path, example=["a good day", "x"])
        assert loaded.signature.inputs == (TensorSpec("input", "BYTES", (-1,)),)
        found = loaded.predict({"input": np.array([b"so good", b"so bad"], dtype=object)})
        assert found["predict"].tolist() == [1, 0]

    def test_missing_values_where_the_model_knows_them(self, tmp_path):
        rows = IRIS.copy()
        rows[::3, 0] = np.nan
        model = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=500)).fit(rows, SPECIES)
        found = stored(model, tmp_path, example=rows[:4]).predict({"input": rows})
        np.testing.assert_array_equal(found["predict"], model.predict(rows))


class TestLightGBM:
    def test_booster(self, tmp_path):
        booster = (
            lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(DIABETES, PROGRESS).booster_
        )
        loaded = stored(booster, tmp_path, example=DIABETES[:3])
        found = loaded.predict({"input": DIABETES})["predict"]
        np.testing.assert_array_equal(found, booster.predict(DIABETES))
        assert isinstance(loaded.native, lightgbm.Booster)

    def test_the_estimator_comes_back(self, tmp_path):
        model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, class_weight="balanced")
        model.fit(IRIS_FRAME, NAMES)
        native = stored(model, tmp_path, example=IRIS_FRAME[:3]).native
        assert native.get_params() == model.get_params()
        assert native.classes_.tolist() == model.classes_.tolist()
        np.testing.assert_array_equal(native.predict(IRIS_FRAME), model.predict(IRIS_FRAME))
        np.testing.assert_array_equal(
            native.predict_proba(IRIS_FRAME), model.predict_proba(IRIS_FRAME)
        )

    def test_early_stopping_uses_the_best_iteration(self, tmp_path):
        model = lightgbm.LGBMClassifier(n_estimators=200, learning_rate=0.5, verbose=-1)
        model.fit(CANCER[:400], MALIGNANT[:400], eval_X=CANCER[400:], eval_y=MALIGNANT[400:],
                  callbacks=[lightgbm.early_stopping(5, verbose=False)])  # fmt: skip
        assert model.best_iteration_ < 200
        found = stored(model, tmp_path, example=CANCER[:3]).predict({"input": CANCER})
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(CANCER))

    def test_one_row_and_many_agree_with_missing_values(self, tmp_path):
        model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(IRIS, NAMES)
        rows = IRIS.copy()
        rows[::2, 1] = np.nan
        loaded = stored(model, tmp_path, example=rows[:3])
        many = loaded.predict({"input": rows})["predict_proba"]
        each = [loaded.predict({"input": rows[i : i + 1]})["predict_proba"][0] for i in range(150)]
        np.testing.assert_array_equal(many, each)
        strided = np.asfortranarray(rows)[::2]
        np.testing.assert_array_equal(
            loaded.predict({"input": strided})["predict_proba"], many[::2]
        )

    def test_what_its_text_cannot_hold_is_refused(self, tmp_path):
        frame = IRIS_FRAME.assign(kind=pd.Categorical(NAMES))
        model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(frame, SPECIES)
        with pytest.raises(InvalidInputError, match="fitted on pandas categories"):
            stored(model, tmp_path, example=frame[:2])

        def own(truth, score):
            return score - truth, np.ones_like(truth)

        model = lightgbm.LGBMRegressor(objective=own, n_estimators=2, verbose=-1)
        with pytest.raises(InvalidInputError, match="an objective of one's own"):
            stored(model.fit(IRIS, SPECIES), tmp_path, example=IRIS[:2])

    def test_damaged_text_is_an_error_not_a_crash(self, tmp_path):
        from madang.development.experiments._lightgbm import LightGBMPredictor

        (tmp_path / "model.txt").write_text("not a model")
        with pytest.raises(IntegrityError, match=r"LightGBM can't use model\.txt"):
            LightGBMPredictor(tmp_path / "model.txt", {})


class TestXGBoost:
    @pytest.mark.parametrize(("rows", "labels"), [(IRIS, SPECIES), (CANCER, MALIGNANT)])
    def test_classifier(self, tmp_path, rows, labels):
        model = xgboost.XGBClassifier(n_estimators=5).fit(rows, labels)
        loaded = stored(model, tmp_path, example=rows[:3])
        outputs = loaded.predict({"input": rows})
        np.testing.assert_array_equal(outputs["predict"], model.predict(rows))
        np.testing.assert_allclose(outputs["predict_proba"], model.predict_proba(rows), atol=1e-6)
        assert isinstance(loaded.native, xgboost.XGBClassifier)
        np.testing.assert_array_equal(loaded.native.predict(rows), model.predict(rows))

    def test_regressor_with_names_and_early_stopping(self, tmp_path):
        model = xgboost.XGBRegressor(n_estimators=200, learning_rate=0.8, early_stopping_rounds=3)
        test = (IRIS_FRAME[::2], SPECIES[::2])
        model.fit(IRIS_FRAME[1::2], SPECIES[1::2], eval_set=[test], verbose=False)
        loaded = stored(model, tmp_path, example=IRIS_FRAME[:3])
        found = loaded.predict({"input": IRIS})["predict"]
        np.testing.assert_allclose(found, model.predict(IRIS_FRAME), atol=1e-6)
        assert loaded.manifest.facts["iterations"] == model.best_iteration + 1 < 200
        assert loaded.manifest.columns == tuple(IRIS_FRAME.columns)

    @pytest.mark.parametrize("booster", ["gbtree", "gblinear"])
    def test_a_number_that_means_missing(self, tmp_path, booster):
        rows = IRIS.copy()
        rows[::3, 2] = -999
        model = xgboost.XGBClassifier(n_estimators=5, missing=-999, booster=booster)
        loaded = stored(model.fit(rows, SPECIES), tmp_path, example=rows[:3])
        found = loaded.predict({"input": rows})
        np.testing.assert_array_equal(found["predict"], model.predict(rows))
        np.testing.assert_allclose(found["predict_proba"], model.predict_proba(rows), atol=1e-6)
        np.testing.assert_array_equal(loaded.native.predict(rows), model.predict(rows))

    def test_an_objective_that_gives_labels(self, tmp_path):
        model = xgboost.XGBClassifier(n_estimators=5, objective="multi:softmax").fit(IRIS, SPECIES)
        found = stored(model, tmp_path, example=IRIS[:3]).predict({"input": IRIS})
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))
        np.testing.assert_allclose(found["predict_proba"], model.predict_proba(IRIS), atol=1e-6)

    def test_what_it_predicts_otherwise_is_refused(self, tmp_path):
        several = np.column_stack([SPECIES > 0, SPECIES > 1]).astype(int)
        model = xgboost.XGBClassifier(n_estimators=2).fit(IRIS, several)
        with pytest.raises(InvalidInputError, match=r"'predict' on the example differs.*targets"):
            stored(model, tmp_path, example=IRIS[:3])

    def test_booster(self, tmp_path):
        booster = xgboost.XGBRegressor(n_estimators=3).fit(DIABETES, PROGRESS).get_booster()
        found = stored(booster, tmp_path, example=DIABETES[:3]).predict({"input": DIABETES})
        expected = booster.predict(xgboost.DMatrix(DIABETES))
        np.testing.assert_allclose(found["predict"], expected, rtol=1e-6)


class TestONNX:
    @pytest.fixture
    def model(self):
        fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES)
        return to_onnx(fitted, IRIS[:1].astype(np.float32), options={"zipmap": False})

    @pytest.mark.parametrize("form", ["proto", "bytes", "path"])
    def test_forms(self, tmp_path, model, form):
        content = model.SerializeToString()
        (tmp_path / "given.onnx").write_bytes(content)
        given = {"proto": model, "bytes": content, "path": tmp_path / "given.onnx"}[form]
        loaded = stored(given, tmp_path / "stored", example=IRIS[:3])
        assert loaded.signature.inputs == (TensorSpec("X", "FP32", (-1, 4)),)
        assert [s.name for s in loaded.signature.outputs] == ["label", "probabilities"]
        found = loaded.predict({"X": IRIS})  # the server's FP64 is taken as FP32
        assert (found["label"] == SPECIES).mean() > 0.9
        assert type(loaded.native).__name__ == "InferenceSession"

    def test_outputs_that_are_no_tensors_are_refused(self, tmp_path):
        fitted = LogisticRegression(max_iter=500).fit(IRIS, SPECIES)
        with pytest.raises(InvalidInputError, match="export it with options="):
            stored(to_onnx(fitted, IRIS[:1].astype(np.float32)), tmp_path, example=IRIS[:2])

    def test_other_bytes_are_refused(self, tmp_path):
        with pytest.raises(InvalidInputError, match="no usable ONNX model"):
            stored(b"hello", tmp_path, example=IRIS[:2])


class _Own(ClassifierMixin, BaseEstimator):
    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        return self

    def predict(self, rows):
        return np.full(len(rows), self.classes_[0])


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


class TestSafety:
    @pytest.mark.parametrize("protocol", range(6))
    def test_pickles_are_refused_unread(self, tmp_path, monkeypatch, protocol):
        monkeypatch.chdir(tmp_path)
        data = pickle.dumps(_Bomb(), protocol=protocol)
        for name in ("model.pkl", "model.joblib", "model.bin", "model.onnx"):
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidInputError):  # text protocols: no ONNX either
            formats.save(data, tmp_path / "s", example=IRIS)
        for name in ("model.pkl", "model.joblib"):
            with pytest.raises(UnsafeModelError, match=f"{name} is a pickle, and loading"):
                formats.save(tmp_path / name, tmp_path / "s", example=IRIS)
        if protocol >= 2:
            with pytest.raises(UnsafeModelError, match=r"these bytes are a pickle"):
                formats.save(data, tmp_path / "s", example=IRIS)
            with pytest.raises(UnsafeModelError, match=r"model\.onnx is a pickle"):
                formats.save(tmp_path / "model.onnx", tmp_path / "s", example=IRIS)
        assert not (tmp_path / "exploded").exists()

    def test_untrusted_types_need_an_explicit_choice(self, tmp_path):
        model = _Own().fit(IRIS, SPECIES)
        name = f"{_Own.__module__}._Own"
        with pytest.raises(UnsafeModelError, match=r"not trusted to load: .*_Own; .*trusted=\["):
            stored(model, tmp_path / "a", example=IRIS[:2])
        (tmp_path / "b").mkdir()
        manifest = formats.save(model, tmp_path / "b", example=IRIS[:2], trusted=[name])
        assert manifest.trusted == (name,)
        loaded = formats.load(tmp_path / "b", digest=manifest.digest)
        assert loaded.predict({"input": IRIS})["predict"].tolist() == [0] * 150
        # Without the registered digest the folder would vouch for itself.
        with pytest.raises(UnsafeModelError, match="_Own"):
            formats.load(tmp_path / "b")
        formats.load(tmp_path / "b", trusted=[name])

    def test_types_swapped_into_a_file_are_not_loaded(self, tmp_path):
        manifest = formats.save(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), tmp_path)
        file = tmp_path / "model.skops"
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        schema = json.loads(members["schema.json"])
        schema["__class__"], schema["__module__"] = "system", "os"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in (members | {"schema.json": json.dumps(schema)}).items():
                archive.writestr(name, data)
        file.write_bytes(buffer.getvalue())
        with pytest.raises(IntegrityError, match=r"model\.skops has SHA-256"):
            formats.load(tmp_path, digest=manifest.digest)
        manifest.written(tmp_path)  # the attacker writes the manifest anew
        with pytest.raises(UnsafeModelError, match=r"os\.system"):
            formats.load(tmp_path)

    def test_a_manifest_does_not_lead_out_of_its_folder(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        formats.save(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), folder)
        content = json.loads((folder / "model.json").read_text())
        (tmp_path / "outside").write_text("x")
        for name in ("../outside", "/etc/passwd", ".hidden", ""):
            changed = content | {"files": {name: "0" * 64}}
            (folder / "model.json").write_text(json.dumps(changed))
            with pytest.raises(IntegrityError, match="which is no name"):
                formats.load(folder)
        (folder / "link").symlink_to(tmp_path / "outside")
        changed = content | {"files": {"link": "0" * 64}}
        (folder / "model.json").write_text(json.dumps(changed))
        with pytest.raises(IntegrityError, match="file link is missing"):
            formats.load(folder)

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 9}', "\0", '{"version": 1}'])
    def test_broken_manifests(self, tmp_path, content):
        (tmp_path / "model.json").write_text(content)
        with pytest.raises(IntegrityError, match=r"model\.json can't be understood"):
            formats.load(tmp_path)

    def test_no_model_there(self, tmp_path):
        with pytest.raises(NotFoundError, match=r"holds no model: it has no model\.json"):
            formats.load(tmp_path)

    def test_unsupported(self, tmp_path):
        with pytest.raises(InvalidInputError, match="skops can't store this model"):
            formats.save(Birch().fit(IRIS), tmp_path)
        with pytest.raises(InvalidInputError, match=r"a model of type builtins\.dict can't be"):
            formats.save({}, tmp_path)
        assert formats.detect({}) is None


class TestInputs:
    @pytest.fixture
    def loaded(self, tmp_path):
        model = GaussianNB().fit(IRIS_FRAME.to_numpy(), SPECIES)
        return stored(model, tmp_path, example=IRIS_FRAME[:2])

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, r"takes the inputs input \(FP64 \[-1, 4\]\); found: none"),
            ({"x": IRIS}, "found: x"),
            ({"input": IRIS, "more": IRIS}, "found: input, more"),
            ({"input": IRIS[:, :3]}, r"has shape \[150, 3\]; the model takes \[-1, 4\]"),
            ({"input": IRIS[0]}, r"has shape \[4\]"),
            ({"input": IRIS[:0]}, r"has shape \[0, 4\]"),
            ({"input": [["a", "b", "c", "d"]]}, "holds BYTES, and the model takes FP64"),
            ({"input": [[1, 2, 3, None]]}, "neither all numbers nor all text"),
            ({"input": [[1, 2, 3, np.nan]]}, "can't take these inputs: Input X contains NaN"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, loaded, inputs, message):
        with pytest.raises(InvalidInputError, match=message):
            loaded.predict(inputs)

    def test_other_number_types_are_taken(self, loaded):
        expected = loaded.predict({"input": np.floor(IRIS)})["predict"]
        for dtype in (np.float32, np.int64, np.uint8):
            found = loaded.predict({"input": IRIS.astype(dtype)})["predict"]
            np.testing.assert_array_equal(found[:5], expected[:5])

    def test_tables_need_their_columns(self, loaded):
        with pytest.raises(
            SchemaMismatchError, match=r"takes the column petal width \(cm\), which"
        ):
            loaded.inputs(IRIS_FRAME[list(IRIS_FRAME.columns[:3])])

    def test_columns_of_wrong_types(self, tmp_path):
        columns = [("k", OneHotEncoder(handle_unknown="ignore"), ["kind"])]
        model = make_pipeline(
            ColumnTransformer(columns, remainder="passthrough"), LogisticRegression()
        ).fit(FRAME, FRAME_LABELS)
        loaded = stored(model, tmp_path, example=FRAME)
        good = loaded.inputs(FRAME[:2])
        for name, value, message in (
            ("kind", [1, 2], "input 'kind' holds INT64, and the model takes BYTES"),
            ("size", ["1", "2"], "input 'size' holds BYTES, and the model takes FP64"),
            ("count", [1.5, 2.0], "input 'count' takes whole numbers"),
            ("count", [1, 2, 3], "each input needs as many rows; found size: 2, count: 3"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                loaded.predict(good | {name: value})
        with pytest.raises(SchemaMismatchError, match="an array can't name them"):
            loaded.inputs(IRIS)

    @pytest.mark.parametrize(
        ("example", "message"),
        [
            (IRIS[:0], "the example needs rows"),
            (IRIS[0], "the example needs rows"),
            (FRAME[:0], "the example needs rows"),
            ({"a": [1, 2], "b": [1]}, "as many in each column"),
            ([[1, "a"], [None, 2]], "neither all numbers nor all text"),
            (pd.DataFrame({"t": pd.to_datetime(["2013-01-01"])}), "column 't'"),
            (pd.DataFrame({"s": ["a", None]}), "fill nulls in text columns"),
        ],
    )
    def test_bad_examples(self, tmp_path, example, message):
        model = LogisticRegression(max_iter=500).fit(IRIS, SPECIES)
        with pytest.raises(InvalidInputError, match=message):
            stored(model, tmp_path, example=example)

    def test_an_example_of_other_columns(self, tmp_path):
        model = LogisticRegression(max_iter=500).fit(IRIS_FRAME, SPECIES)
        with pytest.raises(SchemaMismatchError, match=r"takes the column sepal length \(cm\)"):
            stored(model, tmp_path, example=FRAME)

    def test_without_an_example(self, tmp_path):
        loaded = stored(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), tmp_path)
        assert loaded.native.predict(IRIS).shape == (150,)
        with pytest.raises(InvalidInputError, match="stored without an input example"):
            loaded.predict({"input": IRIS})


def test_equal_models_have_equal_digests(tmp_path):
    for make in CLASSIFIERS["histogram"], CLASSIFIERS["forest"], CLASSIFIERS["lightgbm"]:
        digests = set()
        for i in range(2):
            model = make().set_params(random_state=0).fit(IRIS, NAMES)
            folder = tmp_path / f"{type(model).__name__}{i}"
            digests.add(stored(model, folder, example=IRIS[:3]).manifest.digest)
        assert len(digests) == 1


@pytest.mark.parametrize(
    ("make", "unwanted"),
    [
        (CLASSIFIERS["logistic"], {"sklearn", "skops", "pandas", "polars", "pyarrow", "scipy"}),
        (CLASSIFIERS["lightgbm"], {"sklearn", "lightgbm", "pandas", "polars", "pyarrow", "scipy"}),
    ],
    ids=["linear", "lightgbm"],
)
def test_prediction_imports_little(tmp_path, make, unwanted):
    stored(make().fit(IRIS, NAMES), tmp_path, example=IRIS[:3])
    code = (
        "import sys, pathlib\n"
        "from madang.development.experiments import formats\n"
        "model = formats.load(pathlib.Path(sys.argv[1]))\n"
        "model.predict({'input': [[5.1, 3.5, 1.4, 0.2]]})\n"
        f"found = {unwanted!r} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", ["filename", "file"])
def test_a_vectorizer_that_opens_files_is_refused(tmp_path, kind):
    from sklearn.feature_extraction.text import CountVectorizer

    texts = ["late again", "on time"]
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, [1, 0])
    (tmp_path / "good").mkdir()
    formats.save(model, tmp_path / "good", example=np.array(texts))
    model.set_params(countvectorizer__input=kind)
    with pytest.raises(UnsafeModelError, match=f"CountVectorizer with input='{kind}' opens"):
        formats.save(model, tmp_path, example=np.array(texts))


def test_a_fitted_part_that_opens_files_is_refused(tmp_path):
    """It need not be what the parameters say: a file may be made by hand."""
    texts = pd.DataFrame({"said": ["late again", "on time"]})
    columns = ColumnTransformer([("words", TfidfVectorizer(), "said")])
    model = make_pipeline(columns, LogisticRegression()).fit(texts, [1, 0])
    columns.named_transformers_["words"].input = "filename"
    assert columns.transformers[0][1].input == "content"
    with pytest.raises(UnsafeModelError, match="TfidfVectorizer with input='filename' opens"):
        formats.save(model, tmp_path)


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (300, "INT8"), (-1, "UINT8"), (2**40, "INT32"), (-1, "UINT64"), (2, "BOOL"),
        (np.uint64(2**63 + 5), "INT64"), (np.inf, "INT64"), (1e300, "INT64"), (1e300, "FP32"),
        (70000, "FP16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_its_type_is_refused(value, datatype):
    specs = (TensorSpec("x", datatype, (-1,)),)
    with pytest.raises(InvalidInputError, match=f"'x': the value .* does not fit into {datatype}"):
        checked({"x": np.array([value])}, specs)


def test_a_file_that_the_manifest_does_not_name_counts_for_nothing(tmp_path):
    linear, trees = tmp_path / "linear", tmp_path / "trees"
    for folder, model in ((linear, Ridge()), (trees, DecisionTreeRegressor())):
        folder.mkdir()
        formats.save(model.fit(DIABETES, PROGRESS), folder, example=DIABETES[:3])
    before = formats.load(linear).predict({"input": DIABETES})
    (linear / "compiled.onnx").write_bytes((trees / "compiled.onnx").read_bytes())
    np.testing.assert_equal(formats.load(linear).predict({"input": DIABETES}), before)


@pytest.mark.parametrize(
    "change",
    [
        {"files": []}, {"files": 3}, {"format": ["skops"]}, {"facts": 3}, {"compiled": "x"},
        {"signature": []}, {"trusted": None}, {"columns": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_makes_no_sense(tmp_path, change):
    formats.save(Ridge().fit(DIABETES, PROGRESS), tmp_path, example=DIABETES[:3])
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(content | change))
    with pytest.raises((IntegrityError, InvalidInputError), match=r"can't be (understood|loaded)"):
        formats.load(tmp_path)


def test_a_manifest_that_is_nested_deep(tmp_path):
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match="can't be understood: RecursionError"):
        formats.load(tmp_path)
