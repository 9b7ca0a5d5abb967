"""Folders of MLflow's clients: safe formats become models, the rest is kept and never loaded."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import zipfile

import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
import yaml
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tests.servers.environments import interpreter

from madang.development.experiments import TensorSpec, _mlflow_folder, _mlflow_native, formats
from madang.errors import IntegrityError, InvalidInputError, UnsafeModelError

ROWS, SPECIES = load_iris(return_X_y=True)
FRAME = load_iris(as_frame=True).data
COLUMNS = tuple(FRAME.columns)

TABLE = {"columns": list(COLUMNS), "data": ROWS[:3].tolist()}
NAMED = json.dumps([{"type": "double", "name": name, "required": True} for name in COLUMNS])
TENSOR = json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 4]}}])


def flavors(name, **settings):
    return {"flavors": {name: settings, "python_function": {"loader_module": f"mlflow.{name}"}}}


def write(folder, described, files=(), *, example=None, signature=None):
    """A folder as MLflow 3.17 lays it out."""
    folder.mkdir(parents=True)
    described = dict(described)
    if example is not None:
        described["saved_input_example_info"] = {"artifact_path": "input_example.json"}
        (folder / "input_example.json").write_text(json.dumps(example))
    if signature is not None:
        described["signature"] = {"inputs": signature, "outputs": None, "params": None}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "requirements.txt").write_text("mlflow==3.17.2\n")
    for name, content in dict(files).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def imported(folder, target):
    target.mkdir()
    manifest = formats.import_folder(folder, target)
    return manifest, target


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


BOMB = pickle.dumps(_Bomb())


@pytest.fixture(autouse=True)
def sentinel(tmp_path, monkeypatch):
    """Whatever is done to a hostile file, its code did not run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def here(monkeypatch):
    """Reads files in this process, which is faster; others test the process apart."""

    def store(name, folder, file, target, example):
        rows = None if example is None else _mlflow_folder._packed(example, target.parent)
        reason = _mlflow_native.store(name, folder, file, target, rows)
        if reason:
            raise _mlflow_folder.NotNativeError(reason)

    monkeypatch.setattr(_mlflow_folder, "_store", store)


@pytest.mark.usefixtures("here")
class TestNative:
    @pytest.mark.parametrize("example", [{"example": TABLE}, {"signature": NAMED}],
                             ids=["example", "signature"])  # fmt: skip
    def test_lightgbm_booster(self, tmp_path, example):
        model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(FRAME, SPECIES)
        text = model.booster_.model_to_string().encode()
        folder = write(tmp_path / "m", flavors("lightgbm", data="model.lgb"),
                       {"model.lgb": text}, **example)  # fmt: skip
        manifest, stored = imported(folder, tmp_path / "s")
        assert manifest.format == "lightgbm"
        assert manifest.signature.inputs == (TensorSpec("input", "FP64", (-1, 4)),)
        found = formats.load(stored, digest=manifest.digest).predict({"input": ROWS})["predict"]
        np.testing.assert_array_equal(found, model.predict_proba(FRAME))

    def test_lightgbm_estimator_in_skops(self, tmp_path):
        model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(FRAME, SPECIES)
        trusted = ["lightgbm.basic.Booster"]  # what the file says of itself does not count
        settings = {"data": "model.skops", "skops_trusted_types": trusted}
        folder = write(tmp_path / "m", flavors("lightgbm", **settings),
                       {"model.skops": skops.io.dumps(model)}, example=TABLE)  # fmt: skip
        manifest, stored = imported(folder, tmp_path / "s")
        assert manifest.format == "lightgbm"
        found = formats.load(stored).predict({"input": ROWS})
        np.testing.assert_array_equal(found["predict"], model.predict(FRAME))
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(FRAME))

    @pytest.mark.parametrize("name", ["model.ubj", "model.json"])
    def test_xgboost(self, tmp_path, name):
        model = xgboost.XGBClassifier(n_estimators=3).fit(FRAME, SPECIES)
        model.save_model(tmp_path / name)
        settings = {"data": name, "model_class": "xgboost.sklearn.XGBClassifier"}
        folder = write(tmp_path / "m", flavors("xgboost", **settings),
                       {name: (tmp_path / name).read_bytes()}, example=TABLE)  # fmt: skip
        manifest, stored = imported(folder, tmp_path / "s")
        assert manifest.format == "xgboost"
        found = formats.load(stored).predict({"input": ROWS})
        np.testing.assert_array_equal(found["predict"], model.predict(FRAME))

    @pytest.mark.parametrize("example", [{"example": ROWS[:2].tolist()}, {"signature": TENSOR}],
                             ids=["example", "signature"])  # fmt: skip
    def test_scikit_learn_in_skops(self, tmp_path, example):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        settings = {"pickled_model": "model.skops", "serialization_format": "skops"}
        folder = write(tmp_path / "m", flavors("sklearn", **settings),
                       {"model.skops": skops.io.dumps(model)}, **example)  # fmt: skip
        manifest, stored = imported(folder, tmp_path / "s")
        assert manifest.format == "skops"
        assert manifest.compiled["kind"] == "linear"
        found = formats.load(stored).predict({"input": ROWS})
        np.testing.assert_array_equal(found["predict"], model.predict(ROWS))

    def test_onnx(self, tmp_path):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        graph = to_onnx(model, ROWS[:1].astype(np.float32), options={"zipmap": False})
        folder = write(tmp_path / "m", flavors("onnx", data="model.onnx"),
                       {"model.onnx": graph.SerializeToString()}, example={"X": ROWS[:2].tolist()})  # fmt: skip
        manifest, stored = imported(folder, tmp_path / "s")
        assert manifest.format == "onnx"
        assert formats.load(stored).predict({"X": ROWS})["label"].shape == (150,)

    def test_rows_of_ones_own(self, tmp_path):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        settings = {"pickled_model": "model.skops", "serialization_format": "skops"}
        write(tmp_path / "m", flavors("sklearn", **settings),
              {"model.skops": skops.io.dumps(model)})  # fmt: skip
        manifest, stored = imported(tmp_path / "m", tmp_path / "without")
        assert (manifest.format, manifest.signature.inputs) == ("skops", ())
        assert formats.load(stored).native.coef_.shape == (3, 4)
        (tmp_path / "with").mkdir()
        manifest = formats.save(tmp_path / "m", tmp_path / "with", example=ROWS[:2])
        assert manifest.signature.inputs == (TensorSpec("input", "FP64", (-1, 4)),)


def test_what_mlflows_client_writes(tmp_path):
    code = (
        "import lightgbm, mlflow, sys, warnings, xgboost\n"
        "from mlflow.models import infer_signature\n"
        "from sklearn.datasets import load_iris\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "rows, species = load_iris(return_X_y=True, as_frame=True)\n"
        "given = {'signature': infer_signature(rows, species), 'pip_requirements': []}\n"
        "model = LogisticRegression(max_iter=500).fit(rows, species)\n"
        "mlflow.sklearn.save_model(model, 'sklearn', **given)\n"
        "mlflow.sklearn.save_model(model, 'pickled', serialization_format='pickle', **given)\n"
        "model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, species)\n"
        "mlflow.lightgbm.save_model(model, 'lightgbm', **given)\n"
        "mlflow.lightgbm.save_model(model.booster_, 'booster', **given)\n"
        "model = xgboost.XGBClassifier(n_estimators=3).fit(rows, species)\n"
        "mlflow.xgboost.save_model(model, 'xgboost', **given)\n"
    )
    run = [interpreter("mlflow"), "-c", code]
    subprocess.run(run, check=True, cwd=tmp_path, capture_output=True)
    found = {}
    for name in ("sklearn", "pickled", "lightgbm", "booster", "xgboost"):
        manifest, stored = imported(tmp_path / name, tmp_path / f"stored-{name}")
        found[name] = manifest.format
        if manifest.format != "object":
            rows = formats.load(stored).predict({"input": ROWS})
            assert rows["predict"].shape[0] == 150
    assert found == {"sklearn": "skops", "pickled": "object", "lightgbm": "lightgbm",
                     "booster": "lightgbm", "xgboost": "xgboost"}  # fmt: skip


def elsewhere(location):
    """An ONNX model with a tensor in another file."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4],
                    data_location=TensorProto.EXTERNAL)  # fmt: skip
    entry = w.external_data.add()
    entry.key, entry.value = "location", location
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w])
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def counts():
    """A LightGBM text that says it has two billion leaves."""
    model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(ROWS, SPECIES)
    text = model.booster_.model_to_string()
    return re.sub(r"num_leaves=\d+", "num_leaves=2000000000", text).encode()


SKLEARN = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
KEPT = {
    "pickle": (flavors("sklearn", **SKLEARN), {"model.pkl": BOMB}, "model.pkl is a pickle, and"),
    "pickle by another name": (
        flavors("sklearn", pickled_model="model.skops", serialization_format="skops"),
        {"model.skops": BOMB}, "model.skops is a pickle, and"),
    "pickle as booster": (flavors("lightgbm", data="model.lgb"), {"model.lgb": BOMB},
                          "model.lgb is a pickle"),
    "pickle as UBJSON": (flavors("xgboost", data="model.ubj"), {"model.ubj": BOMB},
                         "model.ubj is a pickle"),
    "pickle as ONNX": (flavors("onnx", data="model.onnx"), {"model.onnx": BOMB},
                       "model.onnx is a pickle"),
    "text pickle": (flavors("onnx", data="model.onnx"),
                    {"model.onnx": pickle.dumps(_Bomb(), protocol=0)}, "no usable ONNX model"),
    "python model": (flavors("python_function", python_model="python_model.pkl"),
                     {"python_model.pkl": BOMB}, "python_model.pkl is a pickle"),
    "code": ({"flavors": {"python_function": {"loader_module": "mlflow.pyfunc.model",
                                              "model_code_path": "model.py"}}},
             {"model.py": b"import os\nos.mkdir('exploded')\n"},
             r"it is Python code \(model\.py\), which runs"),
    "loader module": ({"flavors": {"python_function": {"loader_module": "evil", "code": "code"}}},
                      {"code/evil.py": b"import os\nos.mkdir('exploded')\n"},
                      r"its flavors \(python_function\) are none of"),
    "keras": (flavors("keras", data="data"), {"data/model.keras": b"PK"}, r"its flavors \(keras"),
    "outside": (flavors("onnx", data="../../secret"), {}, r"names '\.\./\.\./secret', which is no"),
    "absolute": (flavors("onnx", data="/etc/passwd"), {}, "names '/etc/passwd', which is no file"),
    "no name": (flavors("lightgbm"), {}, "its data names None"),
    "damaged": (flavors("lightgbm", data="m.lgb"), {"m.lgb": b"tree\nversion=v4\nnum_class=1\n"},
                r"can't use m\.lgb"),
    "damaged JSON": (flavors("xgboost", data="m.json"), {"m.json": b'{"learner": {'}, "can't use"),
    "tensors elsewhere": (flavors("onnx", data="m.onnx"), {"m.onnx": elsewhere("../../secret")},
                          "keeps its tensor 'w' in another file"),
    "tensors beside it": (flavors("onnx", data="m.onnx"),
                          {"m.onnx": elsewhere("w.bin"), "w.bin": bytes(16)}, "keeps its tensor 'w'"),
    "truncated": (flavors("onnx", data="m.onnx"), {"m.onnx": elsewhere("w")[:40]}, "no usable ONNX"),
    "huge counts": (flavors("lightgbm", data="m.lgb"), {"m.lgb": counts()}, r"m\.lgb"),
    "zip bomb": (flavors("sklearn", pickled_model="m.skops", serialization_format="skops"),
                 {"m.skops": None}, "says that it expands to"),
}  # fmt: skip


CRASHES = {"huge counts", "damaged"}  # LightGBM ends its process


class TestKept:
    @pytest.mark.parametrize("name", KEPT)
    def test_nothing_of_it_is_loaded(self, request, tmp_path, name):
        if name not in CRASHES:
            request.getfixturevalue("here")
        described, files, reason = KEPT[name]
        (tmp_path / "secret").write_text("s")
        files = {k: bomb(tmp_path) if v is None else v for k, v in files.items()}
        folder = write(tmp_path / "a" / "m", described, files, example=TABLE)
        manifest, stored = imported(folder, tmp_path / "s")
        assert manifest.format == "object"
        assert re.search(reason, manifest.facts["reason"]), manifest.facts["reason"]
        with pytest.raises(UnsafeModelError, match="kept as an object and is never loaded: "):
            formats.load(stored, digest=manifest.digest)
        (tmp_path / "back").mkdir()
        formats.unpack(stored, tmp_path / "back", digest=manifest.digest)
        assert contents(tmp_path / "back") == contents(folder)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def bomb(folder):
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("schema.json", "w") as file:
            for _ in range(80):
                file.write(b" " * (1 << 20))
    return (folder / "bomb.zip").read_bytes()


class _Loaded:
    """A class of the test's own, as a client's would be."""

    def __setstate__(self, state):
        os.mkdir("exploded")


class TestHostile:
    @pytest.mark.usefixtures("here")
    def test_types_that_a_skops_file_trusts_itself(self, tmp_path):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        model.extra_ = _Loaded()
        settings = {"pickled_model": "m.skops", "serialization_format": "skops",
                    "skops_trusted_types": [f"{_Loaded.__module__}._Loaded"]}  # fmt: skip
        folder = write(tmp_path / "m", flavors("sklearn", **settings),
                       {"m.skops": skops.io.dumps(model)}, example=TABLE)  # fmt: skip
        manifest, _ = imported(folder, tmp_path / "s")
        assert manifest.format == "object"
        assert "types that are not trusted to load" in manifest.facts["reason"]

    @pytest.mark.usefixtures("here")
    def test_objects_in_an_array_of_a_skops_file(self, tmp_path):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        whole = skops.io.dumps(model)
        (tmp_path / "m.skops").write_bytes(whole)
        with zipfile.ZipFile(tmp_path / "m.skops") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        np.save(tmp_path / "a.npy", np.array([_Bomb()], dtype=object), allow_pickle=True)
        name = next(name for name in members if name.endswith(".npy"))
        members[name] = (tmp_path / "a.npy").read_bytes()
        with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
            for key, content in members.items():
                archive.writestr(key, content)
        settings = {"pickled_model": "m.skops", "serialization_format": "skops"}
        folder = write(tmp_path / "m", flavors("sklearn", **settings),
                       {"m.skops": (tmp_path / "m.skops").read_bytes()}, example=TABLE)  # fmt: skip
        manifest, _ = imported(folder, tmp_path / "s")
        assert manifest.format == "object"
        assert "can't be read by skops" in manifest.facts["reason"]

    @pytest.mark.parametrize("kind", ["link", "link to a folder", "broken link", "pipe"])
    def test_links_and_devices_are_refused(self, tmp_path, kind):
        (tmp_path / "secret").write_text("s")
        folder = write(tmp_path / "m", flavors("onnx", data="model.onnx"))
        place = folder / "model.onnx"
        if kind == "pipe":
            os.mkfifo(place)
        else:
            targets = {"link": "secret", "link to a folder": ".", "broken link": "nothing"}
            place.symlink_to(tmp_path / targets[kind])
        (tmp_path / "s").mkdir()
        with pytest.raises(InvalidInputError, match=r"model\.onnx is neither a file nor a folder"):
            formats.import_folder(folder, tmp_path / "s")
        assert not list((tmp_path / "s").iterdir())

    def test_a_hard_link_is_copied(self, tmp_path):
        (tmp_path / "other").write_text("before")
        folder = write(tmp_path / "m", flavors("keras"))
        os.link(tmp_path / "other", folder / "same")
        manifest, stored = imported(folder, tmp_path / "s")
        (tmp_path / "other").write_text("after")
        (tmp_path / "back").mkdir()
        formats.unpack(stored, tmp_path / "back", digest=manifest.digest)
        assert (tmp_path / "back" / "same").read_text() == "before"

    @pytest.mark.parametrize(
        "text",
        [
            "!!python/object/apply:os.mkdir [exploded]",
            "flavors: !!python/object/new:os.mkdir [exploded]",
            "flavors: {sklearn: !!python/name:os.system }",
            "flavors: [",
            "[" * 2000,
            "\0",
        ],
    )
    def test_yaml_that_is_not_plain(self, tmp_path, text):
        folder = write(tmp_path / "m", {})
        (folder / "MLmodel").write_text(text)
        (tmp_path / "s").mkdir()
        with pytest.raises(InvalidInputError, match="MLmodel is no plain YAML"):
            formats.import_folder(folder, tmp_path / "s")

    @pytest.mark.parametrize(
        "text", ["", "[]", "flavors: 3", "flavors: {1: {}}", "flavors: {a: b}"]
    )
    def test_yaml_of_another_shape(self, tmp_path, text):
        folder = write(tmp_path / "m", {})
        (folder / "MLmodel").write_text(text)
        (tmp_path / "s").mkdir()
        with pytest.raises(InvalidInputError, match="MLmodel has no `flavors`"):
            formats.import_folder(folder, tmp_path / "s")

    def test_yaml_that_is_large(self, tmp_path):
        folder = write(tmp_path / "m", {})
        (folder / "MLmodel").write_text("flavors: {}\n" + "#" * (1 << 20))
        (tmp_path / "s").mkdir()
        with pytest.raises(InvalidInputError, match="MLmodel has more than 1048576 bytes"):
            formats.import_folder(folder, tmp_path / "s")

    def test_yaml_that_expands(self, tmp_path):
        """A billion laughs: aliases are references, and none is followed."""
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
        folder = write(tmp_path / "m", {})
        (folder / "MLmodel").write_text("\n".join([*lines, "flavors: {onnx: {data: *a29}}"]))
        (tmp_path / "s").mkdir()
        manifest = formats.import_folder(folder, tmp_path / "s")
        assert manifest.facts["reason"].startswith("its data names a list, which is no file")

    @pytest.mark.parametrize(
        "example",
        [
            {"columns": ["a"], "data": [[1, 2]]},
            {"columns": 3, "data": 4},
            {"data": [[{}]]},
            [[1, "a"], [None]],
            "text",
            {"inputs": {"deep": {}}},
        ],
    )
    def test_examples_that_make_no_sense(self, tmp_path, example):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        settings = {"pickled_model": "model.skops", "serialization_format": "skops"}
        folder = write(tmp_path / "m", flavors("sklearn", **settings),
                       {"model.skops": skops.io.dumps(model)}, example=example)  # fmt: skip
        (tmp_path / "s").mkdir()
        assert _mlflow_native.store("sklearn", folder, "model.skops", tmp_path / "s", None)

    @pytest.mark.parametrize(
        "spec",
        [
            {"dtype": "float64", "shape": [-1, 1 << 40]},
            {"dtype": "O,O", "shape": [-1, 4]},
            {"dtype": "float64", "shape": "x"},
        ],
    )
    def test_signatures_that_make_no_sense(self, tmp_path, spec):
        model = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
        settings = {"pickled_model": "model.skops", "serialization_format": "skops"}
        signature = json.dumps([{"type": "tensor", "tensor-spec": spec}])
        folder = write(tmp_path / "m", flavors("sklearn", **settings),
                       {"model.skops": skops.io.dumps(model)}, signature=signature)  # fmt: skip
        (tmp_path / "s").mkdir()
        reason = _mlflow_native.store("sklearn", folder, "model.skops", tmp_path / "s", None)
        assert "the example" in reason or "its input example can't be understood" in reason

    def test_empty_folders_and_folders_without_mlmodel(self, tmp_path):
        (tmp_path / "m" / "deep").mkdir(parents=True)
        (tmp_path / "s").mkdir()
        with pytest.raises(InvalidInputError, match="has no files"):
            formats.import_folder(tmp_path / "m", tmp_path / "s")
        (tmp_path / "m" / "deep" / "weights.bin").write_bytes(b"w")
        manifest = formats.import_folder(tmp_path / "m", tmp_path / "s")
        assert manifest.facts["paths"] == {"object-000001": "deep/weights.bin"}
        assert "its flavors (none) are none of" in manifest.facts["reason"]

    @pytest.mark.parametrize("path", ["../out", "/tmp/out", "a/../../out", "", ".", "a\0b", 3])
    def test_an_object_does_not_leave_its_folder(self, tmp_path, path):
        folder = write(tmp_path / "m", flavors("keras"))
        _, stored = imported(folder, tmp_path / "s")
        content = json.loads((stored / "model.json").read_text())
        content["facts"]["paths"]["object-000001"] = path
        (stored / "model.json").write_text(json.dumps(content))
        (tmp_path / "back").mkdir()
        with pytest.raises(IntegrityError, match="which is no place"):
            formats.unpack(stored, tmp_path / "back")
        assert not list((tmp_path / "back").iterdir())

    def test_other_formats_are_not_unpacked(self, tmp_path):
        formats.save(LogisticRegression(max_iter=500).fit(ROWS, SPECIES), tmp_path)
        with pytest.raises(InvalidInputError, match="the model is of format skops: load it"):
            formats.unpack(tmp_path, tmp_path)
