"""Compiled trees do what scikit-learn does on every row, or are not used."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from madang.deployment.serving._endpoints import Version
from madang.deployment.serving._state import WantedArm, WantedEndpoint
from madang.development.experiments import _compile, formats
from madang.errors import InvalidInputError

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(400, 6))
NUMBERS = ROWS[:, 0] * 3 + ROWS[:, 1] ** 2
TWO = (NUMBERS > 1).astype(int)
THREE = np.array(["a", "b", "c"])[np.digitize(NUMBERS, [-1, 2])]
MISSING = np.where(RANDOM.random(ROWS.shape) < 0.1, np.nan, ROWS)
CODED = ROWS.copy()
CODED[:, 1] = RANDOM.integers(0, 12, 400)
CODED[:, 4] = RANDOM.integers(0, 4, 400) * 10.5 - 3  # any numbers may be categories
CODED[::13, 1] = np.nan
BY_CODE = NUMBERS + np.nan_to_num(CODED[:, 1]) % 3 + (CODED[:, 4] > 4)

FEW = {"n_estimators": 7, "random_state": 0}
MODELS = {
    "histogram, two classes": (HistGradientBoostingClassifier(max_iter=9), MISSING, TWO),
    "histogram, three classes": (HistGradientBoostingClassifier(max_iter=9), ROWS, THREE),
    "histogram, numbers": (HistGradientBoostingRegressor(max_iter=9), MISSING, NUMBERS),
    "histogram, counts": (HistGradientBoostingRegressor(max_iter=9, loss="poisson"), ROWS, TWO),
    "histogram, positive": (HistGradientBoostingRegressor(max_iter=9, loss="gamma"), ROWS, TWO + 1),
    "histogram, median": (HistGradientBoostingRegressor(max_iter=9, loss="absolute_error"), ROWS,
                          NUMBERS),
    "histogram, quantile": (HistGradientBoostingRegressor(max_iter=9, loss="quantile",
                                                          quantile=0.9), ROWS, NUMBERS),
    "histogram, categories": (HistGradientBoostingRegressor(max_iter=9,
                              categorical_features=[1, 4]), CODED, BY_CODE),
    "histogram, categories and classes": (HistGradientBoostingClassifier(max_iter=9,
                                          categorical_features=[4, 1]), CODED, BY_CODE > 2),
    "boosting, two classes": (GradientBoostingClassifier(**FEW), ROWS, TWO),
    "boosting, exponential": (GradientBoostingClassifier(**FEW, loss="exponential"), ROWS, TWO),
    "boosting, three classes": (GradientBoostingClassifier(**FEW), ROWS, THREE),
    "boosting, numbers": (GradientBoostingRegressor(**FEW), ROWS, NUMBERS),
    "boosting from zero": (GradientBoostingRegressor(**FEW, init="zero", loss="huber"), ROWS,
                           NUMBERS),
    "forest, two classes": (RandomForestClassifier(**FEW), ROWS, TWO),
    "forest, three classes": (RandomForestClassifier(**FEW), MISSING, THREE),
    "forest, one class": (RandomForestClassifier(**FEW), ROWS, np.ones(400)),
    "forest, numbers": (RandomForestRegressor(**FEW), MISSING, NUMBERS),
    "forest, two targets": (RandomForestRegressor(**FEW), ROWS, np.c_[NUMBERS, -NUMBERS]),
    "extra trees, classes": (ExtraTreesClassifier(**FEW), MISSING, TWO),
    "extra trees, numbers": (ExtraTreesRegressor(**FEW), ROWS, NUMBERS),
    "tree, classes": (DecisionTreeClassifier(max_depth=5), MISSING, THREE),
    "extra tree": (ExtraTreeClassifier(random_state=0), ROWS, TWO),
    "tree, numbers": (DecisionTreeRegressor(), ROWS, NUMBERS),
    "tree of one leaf": (DecisionTreeRegressor(), ROWS, np.ones(400)),
    "scaled histogram": (make_pipeline(StandardScaler(), RobustScaler(),
                                       HistGradientBoostingClassifier(max_iter=9)), MISSING, TWO),
    "clipped forest": (make_pipeline(MinMaxScaler(clip=True), MaxAbsScaler(), "passthrough",
                                     RandomForestClassifier(**FEW)), ROWS, THREE),
    "filled forest": (make_pipeline(SimpleImputer(add_indicator=True),
                                    RandomForestRegressor(**FEW)), MISSING, NUMBERS),
    "filled and scaled": (make_pipeline(SimpleImputer(strategy="constant", fill_value=-9.0),
                                        StandardScaler(), GradientBoostingClassifier(**FEW)),
                          MISSING, TWO),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def trio(request, tmp_path_factory):
    """A compiled model, its original of the same folder, and rows."""
    model, rows, labels = MODELS[request.param]
    folder = tmp_path_factory.mktemp("model")
    manifest = formats.save(model.fit(rows, labels), folder, example=rows[:5], parity=rows)
    assert manifest.compiled.get("kind") == "trees", manifest.compiled
    assert manifest.compiled["max_difference"] <= manifest.compiled["bound"] == 1e-9
    assert manifest.compiled["rows"] >= 400 + 1005 + 300
    fast, original = formats.load(folder), formats.load(folder, compiled=False)
    assert type(fast._predictor) is not type(original._predictor)
    return fast, original, rows


def agree(fast, original, rows):
    """Equal outputs, or both refuse."""
    try:
        with np.errstate(all="ignore"):
            expected = original.predict({"input": rows})
    except InvalidInputError:
        with pytest.raises(InvalidInputError, match="the model can't take these inputs"):
            fast.predict({"input": rows})
        return
    found = fast.predict({"input": rows})
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert formats.largest_difference(found[key], value) <= 1e-12


def test_equal_on_its_data(trio):
    fast, original, rows = trio
    agree(fast, original, rows)
    agree(fast, original, rows.astype(np.float32))
    agree(fast, original, np.nan_to_num(rows).astype(np.int64))
    agree(fast, original, rows > 0)
    agree(fast, original, np.asfortranarray(rows)[::2])
    each = [fast.predict({"input": rows[i : i + 1]})["predict"] for i in range(40)]
    many = fast.predict({"input": rows[:40]})["predict"]
    np.testing.assert_array_equal(np.concatenate(each), many)


@pytest.mark.parametrize("rows", [np.empty((0, 6)), np.zeros((2, 5)), np.zeros(6)])
def test_other_shapes_are_refused(trio, rows):
    with pytest.raises(InvalidInputError, match=r"the model takes \[-1, 6\], with at least one"):
        trio[0].predict({"input": rows})


NUMBER = st.one_of(
    st.floats(width=64),  # with NaN, infinities, denormals
    st.floats(-5, 5),
    st.integers(-2, 14).map(float),
    st.sampled_from([7.5, 18.0, 28.5, 300.0, 3.4e38, 3.5e38, -3.5e38, 5e-324, -0.0]),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equal_on_any_rows(trio, data):
    fast, original, _ = trio
    count = data.draw(st.integers(1, 3))
    rows = data.draw(st.lists(st.lists(NUMBER, min_size=6, max_size=6), min_size=count,
                              max_size=count))  # fmt: skip
    agree(fast, original, np.array(rows))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equal_at_thresholds(trio, data):
    """At each side of a threshold, in 64 and in 32 bits; where scalers moved it, nearby."""
    fast, original, rows = trio
    columns, splits = thresholds(original.native)
    if not len(splits):
        return  # of one leaf
    i = data.draw(st.integers(0, len(splits) - 1))
    column, split = int(columns[i]), splits[i]
    with np.errstate(over="ignore"):
        single = np.float32(split)
        made = [
            split, np.nextafter(split, np.inf), np.nextafter(split, -np.inf), single,
            np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf)),
        ]  # fmt: skip
    batch = np.repeat(rows[data.draw(st.integers(0, 399))][None], len(made), axis=0)
    if column < batch.shape[1]:
        batch[:, column] = made
    agree(fast, original, batch)


def thresholds(model):
    """Columns and thresholds as scikit-learn has them."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if hasattr(last, "_predictors"):
        nodes = np.concatenate([p.nodes for row in last._predictors for p in row])
        nodes = nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)]
        order = np.arange(6)
        if last.is_categorical_ is not None:
            order = np.r_[
                np.flatnonzero(last.is_categorical_), np.flatnonzero(~last.is_categorical_)
            ]
        return order[nodes["feature_idx"]], nodes["num_threshold"]
    trees = [t.tree_ for t in np.ravel(getattr(last, "estimators_", [last]))]
    feature = np.concatenate([t.feature for t in trees])
    return feature[feature >= 0], np.concatenate([t.threshold for t in trees])[feature >= 0]


def test_a_tie_of_a_boosting_is_its_second_class(tmp_path):
    """scikit-learn's own rule, `raw >= 0`; the largest probability would say the first."""
    rows, labels = np.zeros((4, 2)), [0, 1, 0, 1]
    model = GradientBoostingClassifier(n_estimators=2).fit(rows, labels)
    formats.save(model, tmp_path, example=rows)
    for compiled in (True, False):
        found = formats.load(tmp_path, compiled=compiled).predict({"input": rows})
        assert found["predict_proba"].tolist() == [[0.5, 0.5]] * 4
        assert found["predict"].tolist() == model.predict(rows).tolist() == [1] * 4


def test_columns_of_a_table_go_by_name(tmp_path):
    frame = pd.DataFrame(CODED, columns=list("abcdef"))
    model = HistGradientBoostingRegressor(max_iter=5, categorical_features=["b", "e"])
    manifest = formats.save(model.fit(frame, BY_CODE), tmp_path, example=frame[:5], parity=frame)
    assert manifest.compiled["kind"] == "trees"
    loaded = formats.load(tmp_path)
    shuffled = frame[list("fbdaec")]
    found = loaded.predict(loaded.inputs(shuffled))["predict"]
    np.testing.assert_array_equal(found, model.predict(frame))


@pytest.mark.parametrize(
    ("model", "rows", "labels", "reason"),
    [
        (RandomForestClassifier(**FEW), ROWS, np.c_[TWO, TWO], "several targets has no compiled"),
        (GradientBoostingRegressor(**FEW, init=LinearRegression()), ROWS, NUMBERS, "an init estimator"),
        (make_pipeline(SimpleImputer(missing_values=-1), DecisionTreeRegressor()), ROWS, NUMBERS,
         "SimpleImputer has no compiled form"),
    ],
    ids=["targets", "init", "imputer"],
)  # fmt: skip
def test_what_has_no_compiled_form(tmp_path, model, rows, labels, reason):
    manifest = formats.save(model.fit(rows, labels), tmp_path, example=rows[:5])
    assert reason in manifest.compiled["not"]
    found = formats.load(tmp_path).predict({"input": rows})["predict"]
    np.testing.assert_array_equal(found, model.predict(rows))


def test_a_model_of_too_many_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(_compile, "_MOST_NODES", 10)
    manifest = formats.save(DecisionTreeRegressor().fit(ROWS, NUMBERS), tmp_path, example=ROWS[:5])
    assert "nodes are more than the 10 of the limit" in manifest.compiled["not"]


@pytest.mark.parametrize("flaw", ["value", "split", "missing"])
def test_a_form_that_differs_is_not_used(tmp_path, monkeypatch, flaw):
    """A leaf of one tree, a threshold by one bit, the way of NaN: each is found."""
    from madang.development.experiments import _tree_graph

    real = _tree_graph.to_onnx

    def broken(trees):
        if flaw == "value":
            trees.value[trees.leaf] += 1e-8
        elif flaw == "split":
            trees.split[:] = np.nextafter(trees.split, np.inf)
        else:
            trees.missing[:] = ~trees.missing
        return real(trees)

    monkeypatch.setattr(_tree_graph, "to_onnx", broken)
    model = HistGradientBoostingRegressor(max_iter=5).fit(MISSING, NUMBERS)
    manifest = formats.save(model, tmp_path, example=MISSING[:5])
    assert manifest.compiled["not"].startswith("its outputs differ by")
    assert not list(tmp_path.glob("compiled.*"))


def without(monkeypatch, name):
    """As where a package is not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == name else real(n, *a)
    )
    monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_onnx_nothing_is_compiled(tmp_path, monkeypatch, package):
    without(monkeypatch, package)
    manifest = formats.save(DecisionTreeRegressor().fit(ROWS, NUMBERS), tmp_path, example=ROWS[:5])
    assert manifest.compiled["not"] == (
        f"a compiled form of trees needs the package {package!r}, which is not installed; "
        "run: pip install 'madang[onnx]'"
    )


def test_without_the_runtime_the_original_is_used_and_says_so(tmp_path, monkeypatch, caplog):
    model = DecisionTreeRegressor().fit(ROWS, NUMBERS)
    formats.save(model, tmp_path, example=ROWS[:5])
    without(monkeypatch, "onnxruntime")
    loaded = formats.load(tmp_path)
    assert "needs the package 'onnxruntime', which is not installed" in loaded.fallback
    assert loaded.fallback in caplog.text
    arm = WantedArm("m", 1, 1.0, "d")
    version = Version(WantedEndpoint("e", 1, log=False, arms=(arm,)), arm, loaded)
    assert version.metadata(["1"])["fallback"] == loaded.fallback
    np.testing.assert_array_equal(loaded.predict({"input": ROWS})["predict"], model.predict(ROWS))


def test_the_runtime_loads_neither_scikit_learn_nor_onnx(tmp_path):
    model = HistGradientBoostingClassifier(max_iter=5).fit(ROWS, TWO)
    formats.save(model, tmp_path, example=ROWS[:5])
    code = (
        "import sys, pathlib\n"
        "from madang.development.experiments import formats\n"
        "model = formats.load(pathlib.Path(sys.argv[1]))\n"
        "model.predict({'input': [[1, 2, 3, 4, 5, 6]]})\n"
        "found = {'sklearn', 'skops', 'onnx', 'pandas', 'polars', 'pyarrow', 'scipy'}\n"
        "found &= set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_runtime_reports_to_nobody(tmp_path):
    """ONNX Runtime's telemetry writes an id and a queue of events before it sends them."""
    formats.save(DecisionTreeRegressor().fit(ROWS, NUMBERS), tmp_path, example=ROWS[:5])
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys, pathlib\n"
        "from madang.development.experiments import formats\n"
        "model = formats.load(pathlib.Path(sys.argv[1]))\n"
        "assert not model.fallback\n"
        "model.predict({'input': [[1, 2, 3, 4, 5, 6]]})\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ORT_") and k != "CI"}
    places = {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, env=clean | places, cwd=home)
    assert not list(home.iterdir())


def test_native_is_scikit_learns(tmp_path):
    model = HistGradientBoostingClassifier(max_iter=5).fit(ROWS, TWO)
    formats.save(model, tmp_path, example=ROWS[:5])
    assert type(formats.load(tmp_path).native) is HistGradientBoostingClassifier
