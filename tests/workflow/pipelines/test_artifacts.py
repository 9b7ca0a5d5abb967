"""What goes from one step to another comes out as it went in."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import types
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.errors import IntegrityError, InvalidInputError, NotFoundError
from madang.workflow.pipelines import Figure
from madang.workflow.pipelines.artifacts import INLINE_BYTES, dump, load, resolve
from madang.workflow.scheduling import Argument


@pytest.fixture
def storage(stack):
    return lambda: stack.storage


def no_storage():
    raise AssertionError("a small value needs no storage")


def there_and_back(value, storage=no_storage, wanted=None):
    artifact = dump(value, storage)
    assert dump(value, storage) == artifact
    return load(artifact, storage, wanted)


# -- tables ----------------------------------------------------------------------------------------

TABLES = {
    "empty": pa.table({"x": pa.array([], pa.int64())}),
    "no columns": pa.table({}),
    "nulls": pa.table({"n": pa.nulls(3), "x": [1, None, 3]}),
    "nested": pa.table({"l": [[1, 2], None, []], "s": [{"a": 1, "b": [{"c": "x"}]}] * 3}),
    "maps": pa.table({"m": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))}),
    "times": pa.table(
        {
            "d": [dt.date(2026, 1, 1)],
            "ns": pa.array([1], pa.timestamp("ns")),
            "z": pa.array([1], pa.timestamp("us", tz="Asia/Seoul")),
            "dur": pa.array([5], pa.duration("ms")),
        }
    ),
    "decimals": pa.table({"d": [decimal.Decimal("1.50")]}),
    "dictionary": pa.table({"c": pa.array(["a", "b", "a"]).dictionary_encode()}),
    "unicode": pa.table({"이름": ["마당", "💥", ""]}),
    "binary": pa.table({"b": [b"\0\xff", None]}),
    "small types": pa.table({"u": pa.array([255], pa.uint8()), "f": pa.array([1.5], pa.float32())}),
    "metadata": pa.table({"x": [1]}).replace_schema_metadata({"k": "v"}),
    "chunked": pa.concat_tables([pa.table({"x": [1]}), pa.table({"x": [2]})]),
    "not a number": pa.table({"x": [float("nan"), float("inf"), -0.0]}),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    table = TABLES[name]
    found = there_and_back(table)
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found.num_rows == table.num_rows
    if name == "not a number":
        np.testing.assert_array_equal(found["x"], table["x"])
    else:
        assert found.equals(table)
    found.validate(full=True)


def test_a_big_table_is_an_object_that_is_mapped(stack, storage):
    table = pa.table({"x": np.random.default_rng(0).normal(size=50_000)})
    before = pa.total_allocated_bytes()
    artifact = dump(table, storage)
    assert artifact.inline is None
    assert stack.storage.get(artifact.key)[:6] == b"ARROW1"
    found = load(artifact, storage)
    assert found.equals(table)
    del found
    assert pa.total_allocated_bytes() < before + 1_000_000


def test_polars_and_pandas_by_annotation():
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    assert there_and_back(frame, wanted=pl.DataFrame).equals(frame)
    assert isinstance(there_and_back(frame), pa.Table)
    pandas = pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]}, index=[10, 20])
    pd.testing.assert_frame_equal(there_and_back(pandas, wanted=pd.DataFrame), pandas)
    assert there_and_back(pandas, wanted=pl.DataFrame)["b"].to_list() == ["x", "y"]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["r1", "r2"], name="row"),
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"]),
        pd.date_range("2026-01-01", periods=2, tz="UTC", name="t").as_unit("us")._with_freq(None),
    ],
    ids=["named", "multi", "times"],
)
def test_a_pandas_frame_keeps_its_index(index):
    frame = pd.DataFrame({"v": [1, 2]}, index=index)
    pd.testing.assert_frame_equal(there_and_back(frame, wanted=pd.DataFrame), frame)


# -- plain values ----------------------------------------------------------------------------------

VALUES = [
    None, True, False, 0, -1, 2**63 - 1, 2**64 - 1, -(2**63), 10**40, 1.5, 1e308, -0.0, [], {}, [1, [2, [None]]],
    {"a": 1}, {"a": 1.5, "b": 2}, {"a": True}, {"이름": ["마당"]}, {"": ""},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_json_values(value):
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", ["", "text", "마당 💥\n\0\r\n", b"", b"\0\xff", b"x" * 100])
def test_text_and_bytes(value):
    assert there_and_back(value) == value


def test_kinds():
    kinds = {
        "text": "x", "bytes": b"x", "json": [1], "metrics": {"auc": 0.9, "n": 3}, "array": np.ones(3),
        "table": pa.table({"x": [1]}), "figure": Figure("image/svg+xml", b"<svg/>"),
    }  # fmt: skip
    assert {kind: dump(value, no_storage).kind for kind, value in kinds.items()} == {
        kind: kind for kind in kinds
    }
    assert dump({"flag": True}, no_storage).kind == "json"
    assert dump({}, no_storage).kind == "json"


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_json_value(value):
    artifact = dump(value, lambda: pytest.fail("small"))
    assert load(artifact, no_storage) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "can't hold NaN"),
        ({"a": [float("inf")]}, "can't hold NaN"),
        ((1, float("-inf")), "can't hold NaN"),
        ({(1, 2): 3}, "can't hand on this dict"),
        ([object()], "can't hand on this list"),
        ("\ud800", "can't hand on this str"),
        (object(), "can't hand on a builtins.object; it can hand on tables"),
        (lambda: 1, "can't hand on a builtins.function"),
        (np.array([object()]), "array of Python objects"),
    ],
    # An object's repr has its address, and both workers of a parallel run must see the same names.
    ids=["nan", "inside", "infinity", "key", "list", "surrogate", "object", "lambda", "array"],
)
def test_what_can_not_be_handed_on_says_so(value, message):
    with pytest.raises(InvalidInputError) as told:
        dump(value, no_storage)
    assert message in str(told.value)


# -- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3), np.array(5.0), np.zeros((0, 4), np.float32), np.array(["a", "마당"]),
        np.array([True]), np.array(["2026-01-01"], "datetime64[D]"), np.asfortranarray(np.ones((3, 2))),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.array([1 + 2j]), np.array([np.nan]),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)  # fmt: skip
def test_arrays(array):
    found = there_and_back(array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_numpy_scalars_are_numbers():
    assert there_and_back(np.float64(1.5)) == 1.5
    assert there_and_back(np.int64(7)) == 7
    assert there_and_back({"auc": np.float64(0.5), "n": np.int32(3)}) == {"auc": 0.5, "n": 3}
    assert there_and_back(np.bool_(True)) is True
    assert dump({"auc": np.float32(0.5)}, no_storage).kind == "metrics"
    with pytest.raises(InvalidInputError, match="can't hold NaN"):
        dump({"auc": np.float32("nan")}, no_storage)


def test_dates_and_dataclasses_are_json():
    assert there_and_back([dt.date(2026, 1, 1)]) == ["2026-01-01"]


# -- figures ---------------------------------------------------------------------------------------


def test_figures():
    figure = Figure("image/svg+xml", b"<svg/>")
    assert there_and_back(figure) == figure
    artifact = dump(figure, no_storage)
    assert (artifact.kind, artifact.media_type) == ("figure", "image/svg+xml")


def _drawn(library, method):
    """What that library's figures look like to us, where it is not installed."""

    def savefig(self, file, *, format, metadata):
        assert metadata == {"Date": None}  # equal charts are equal bytes
        file.write(f"<svg>{format}</svg>".encode())

    body = {"savefig": savefig} if method == "savefig" else {"to_html": lambda self: "<html>"}
    kind = types.new_class("Figure", exec_body=lambda space: space.update(body))
    kind.__module__ = f"{library}.figure"
    return kind()


def test_charts_of_libraries_are_recognized_without_importing_them():
    found = there_and_back(_drawn("matplotlib", "savefig"))
    assert found == Figure("image/svg+xml", b"<svg>svg</svg>")
    for library in ("plotly", "altair"):
        assert there_and_back(_drawn(library, "to_html")) == Figure("text/html", b"<html>")
    with pytest.raises(InvalidInputError):
        dump(_drawn("somebody", "to_html"), no_storage)


# -- models ----------------------------------------------------------------------------------------


def _fitted(kind):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    labels = (rows.sum(axis=1) > 0).astype(int)
    if kind == "pipeline":
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows
    if kind == "forest":
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(max_iter=5).fit(rows, labels), rows
    if kind == "lightgbm":
        lightgbm = pytest.importorskip("lightgbm")
        return lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, labels), rows
    xgboost = pytest.importorskip("xgboost")
    return xgboost.XGBClassifier(n_estimators=3).fit(rows, labels), rows


@pytest.mark.parametrize("kind", ["pipeline", "forest", "lightgbm", "xgboost"])
def test_models(kind, storage):
    model, rows = _fitted(kind)
    artifact = dump(model, storage)
    assert (artifact.kind, artifact.media_type) == ("model", "application/zip")
    assert dump(model, storage).digest == artifact.digest  # equal models are equal artifacts
    found = load(artifact, storage)
    np.testing.assert_allclose(found.predict_proba(rows), model.predict_proba(rows))
    if kind in ("pipeline", "forest"):
        again = load(dump(found, storage), storage)
        np.testing.assert_allclose(again.predict_proba(rows), model.predict_proba(rows))


def test_a_model_that_holds_untrusted_code_is_refused(storage):
    from sklearn.preprocessing import FunctionTransformer

    model = FunctionTransformer(_double).fit(np.ones((2, 2)))
    with pytest.raises(InvalidInputError, match="not trusted to load"):
        dump(model, storage)


def _double(x):
    return x * 2


def test_a_model_goes_from_one_step_to_another(stack):
    from madang.testing.pipelines import define

    flow = define(
        stack,
        """
        import numpy as np

        @step
        def train(n: int) -> Any:
            from sklearn.linear_model import LinearRegression
            rows = np.arange(float(n)).reshape(-1, 1)
            return LinearRegression().fit(rows, 3 * rows[:, 0])

        @step
        def use(model: Any) -> float:
            return round(float(model.predict([[7.0]])[0]), 6)

        @pipeline
        def flow():
            return use(train(10))
        """,
    ).flow
    run = flow.run(stack)
    assert stack.pipelines.load(run.results["result"]) == 21.0
    assert run.steps[0].outputs[0].kind == "model"


# -- integrity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "text" * INLINE_BYTES, b"x" * (INLINE_BYTES + 1), list(range(INLINE_BYTES)), np.zeros(INLINE_BYTES),
        pa.table({"x": np.zeros(INLINE_BYTES)}), Figure("image/svg+xml", b"x" * (INLINE_BYTES + 1)),
    ],
    ids=["text", "bytes", "json", "array", "table", "figure"],
)  # fmt: skip
def test_a_tampered_or_missing_object_is_found(stack, storage, value):
    artifact = dump(value, storage)
    assert artifact.inline is None
    data = bytearray(stack.storage.get(artifact.key))
    data[len(data) // 2] ^= 1
    stack.storage.put(artifact.key, bytes(data))
    with pytest.raises(IntegrityError, match=artifact.digest):
        load(artifact, storage)
    stack.storage.delete(artifact.key)
    with pytest.raises(NotFoundError):
        load(artifact, storage)


def test_a_tampered_model_is_found(storage):
    model, _ = _fitted("pipeline")
    artifact = dump(model, storage)
    data = storage().get(artifact.key) if artifact.inline is None else artifact.inline
    assert zipfile.is_zipfile(io.BytesIO(data))
    changed = artifact.__class__(
        artifact.digest, "model", artifact.media_type, len(data), data[:-1]
    )
    with pytest.raises(IntegrityError):
        load(changed, storage)


# -- arguments -------------------------------------------------------------------------------------


def test_arguments_of_arguments():
    one = Argument(artifact=dump("one", no_storage))
    nested = Argument(fields={"a": Argument(items=(one, Argument(value=2))), "b": Argument(value=None)})  # fmt: skip
    assert resolve(nested, no_storage) == {"a": ["one", 2], "b": None}
    assert resolve(Argument(value="2026-01-01"), no_storage, dt.date) == dt.date(2026, 1, 1)  # fmt: skip
    with pytest.raises(InvalidInputError, match="is not a"):
        resolve(Argument(value="x"), no_storage, int)
