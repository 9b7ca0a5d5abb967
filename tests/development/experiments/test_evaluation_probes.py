"""What a model uses, what it bears, and the whole report, also of registered models."""

from __future__ import annotations

import json
import math
import re

import lightgbm
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from madang.development.experiments.evaluation import evaluate, evaluate_registered
from madang.development.experiments.evaluation._inputs import Inputs
from madang.errors import NotFoundError, SchemaMismatchError

# shap imports matplotlib's colors in a way that matplotlib will end.
pytestmark = pytest.mark.filterwarnings("ignore:.*function will be dep:PendingDeprecationWarning")

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(600, 3)) * [1.0, 2.0, 3.0]
SLOPES = np.array([4.0, -1.0, 0.0])
NUMBERS = ROWS @ SLOPES + RANDOM.normal(size=600)


@pytest.fixture(scope="module")
def linear():
    return evaluate(LinearRegression().fit(ROWS, NUMBERS), ROWS, NUMBERS, explain=True, robust=True)


def test_importance_is_what_shuffling_a_linear_model_costs(linear):
    assert [one.feature for one in linear.importance] == ["x0", "x1", "x2"]
    rmse = linear.metrics["rmse"]
    # Shuffling x adds twice its explained variance to the mean squared error.
    expected = np.sqrt(rmse**2 + 2 * (4.0 * 1.0) ** 2) - rmse
    assert linear.importance[0].drop == pytest.approx(expected, rel=0.1)
    assert abs(linear.importance[2].drop) < 0.05


def test_dependence_of_a_linear_model_is_its_slope(linear):
    for one, slope in zip(linear.dependence, (4.0, -1.0), strict=False):
        found = np.polyfit(one.values, one.mean, 1)[0]
        assert found == pytest.approx(slope, abs=0.1)
        for curve in one.curves:
            assert np.polyfit(one.values, curve, 1)[0] == pytest.approx(found)


def test_attributions_of_a_linear_model(linear):
    found = linear.attributions
    assert (found.method, found.scale, found.rows) == ("linear", "output", 200)
    assert list(found.mean) == ["x0", "x1", "x2"]
    assert found.mean["x0"] == pytest.approx(4.0 * np.sqrt(2 / np.pi), rel=0.15)
    assert "SHAP: what each feature adds" in linear.to_html()


def test_shifts_and_noise_cost_a_linear_model_what_they_must(linear):
    found = {(c.feature, c.change): c for c in linear.robustness.changes}
    rmse = linear.metrics["rmse"]
    shifted = found["x0", "shift +3"]
    assert shifted.value == pytest.approx(np.sqrt(rmse**2 + (4.0 * 3) ** 2), rel=0.05)
    assert shifted.drop == pytest.approx(shifted.value - rmse)
    assert found["x0", "noise"].value == pytest.approx(np.sqrt(rmse**2 + 4.0**2), rel=0.1)
    assert abs(found["x2", "shift -3"].drop) < 0.1
    missing = found["x0", "missing"]
    assert missing.value is None
    assert "NaN" in missing.refused
    assert linear.robustness.changes[-1].value is None  # refusals last
    assert "Refuses rows when something is wrong with x0, x1, x2" in linear.to_html()


def colors(rows=400):
    random = np.random.default_rng(3)
    frame = pl.DataFrame(
        {"color": random.choice(["red", "blue"], rows), "size": random.normal(size=rows)}
    )
    truth = ((frame["color"] == "red").to_numpy() ^ (random.random(rows) < 0.1)).astype(int)
    return frame, truth


@pytest.mark.parametrize("form", ["pandas", "polars", "arrow"])
def test_tables_of_every_kind(form):
    frame, truth = colors()
    data = {"pandas": frame.to_pandas, "polars": lambda: frame, "arrow": frame.to_arrow}[form]()
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["color"]), remainder="passthrough"
    )
    model = make_pipeline(encoder, LogisticRegression()).fit(frame.to_pandas(), truth)

    class Any:
        classes_ = model.classes_

        def predict_proba(self, rows):
            table = rows.to_pandas() if hasattr(rows, "to_pandas") else rows
            return model.predict_proba(table)

        def predict(self, rows):
            return (self.predict_proba(rows)[:, 1] > 0.5).astype(int)

    found = evaluate(Any(), data, truth, explain=True, robust=True, slices=["color"])
    assert found.importance[0].feature == "color"
    changes = {(c.feature, c.change): c for c in found.robustness.changes}
    assert changes["color", "unseen"].value == pytest.approx(0.5, abs=0.1)
    assert changes["color", "unseen"].drop > 0.3
    assert found.to_dict()["dependence"][0]["values"] == ["blue", "red"]
    # A class of one's own can't be stored, so that nothing explains it; the report says so.
    assert "can't be stored" in found.attributions.not_explained
    assert "No SHAP values: a model of type" in found.to_html()


def test_infinite_and_nested_inputs_are_probed_as_well():
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "x": random.normal(size=200),
            "far": [math.inf, 1.0] * 100,
            "never": [-math.inf, math.inf] * 100,
            "many": [math.inf, *range(199)],
            "list": [[1], [2]] * 100,
            "struct": [{"a": 1}, {"a": 2}] * 100,
        },
        strict=False,
    )

    class Model:
        def predict(self, rows):
            return rows["x"].fill_nan(0.0).fill_null(0.0).to_numpy()

    found = evaluate(Model(), frame, random.normal(size=200), explain=True, robust=True)
    json.loads(found.to_json())
    assert "Partial dependence" in found.to_html()


def test_columns_are_replaced_in_the_form_that_was_given():
    values = pl.Series("a", [9.0, 8.0])
    forms = (
        np.array([[1, 2], [3, 4]]),
        pd.DataFrame({"a": [1, 3], "b": [2, 4]}),
        pl.DataFrame({"a": [1, 3], "b": [2, 4]}),
        pa.table({"a": [1, 3], "b": [2, 4]}),
        {"a": np.array([1, 3]), "b": np.array([2, 4])},
    )
    for form in forms:
        inputs = Inputs(form, ["a", "b"])
        changed = inputs.replaced("a", values)
        assert type(changed) is type(form)
        assert Inputs(changed, ["a", "b"]).frame.rows() == [(9.0, 2), (8.0, 4)]
        assert inputs.frame.rows() == [(1, 2), (3, 4)]
        assert inputs.take(np.array([1])).frame.rows() == [(3, 4)]
        with pytest.raises(NotFoundError, match="no column 'c'; there are: a, b"):
            inputs.replaced("c", values)


def test_flags_days_and_unknown_columns_keep_their_types():
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "flag": random.random(200) < 0.5,
            "day": pl.Series(random.integers(20_000, 20_003, 200)).cast(pl.Date),
            "nothing": pl.Series([None] * 200, dtype=pl.Float64),
        }
    )

    class ByFlag:
        def predict(self, rows):
            assert rows.schema["day"] == pl.Date
            return rows["flag"].cast(pl.Boolean).fill_null(value=False).to_numpy() * 2.0

    truth = frame["flag"].to_numpy() + random.normal(0, 0.1, 200)
    found = evaluate(ByFlag(), frame, truth, explain=True, robust=True, find_slices=True)
    curves = {one.feature: one for one in found.dependence}
    assert set(curves) == {"flag", "day"}
    assert curves["flag"].mean == (0.0, 2.0)
    found.to_html()
    json.loads(found.to_json())


def test_more_classes_are_explained_by_all_outputs():
    truth = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 1)
    model = RandomForestClassifier(5, max_depth=4, random_state=0).fit(ROWS, truth)
    found = evaluate(model, ROWS, truth, explain=True, robust=True, champion=model)
    assert found.attributions.method == "tree"
    assert "SHAP: mean over all outputs" in found.charts
    assert found.comparison.metric == "log_loss"
    assert {one.feature for one in found.importance[:2]} == {"x0", "x1"}
    json.loads(found.to_json())


@pytest.fixture(scope="module")
def wide():
    """Everything at once, on many rows and columns."""
    random = np.random.default_rng(0)
    names = [f"a rather long name of a column, number {i}" for i in range(15)]
    frame = pl.DataFrame({name: random.normal(size=20_000) for name in names})
    rows = frame.to_numpy()
    truth = (rows[:, 0] + random.normal(size=20_000) > 0).astype(int)
    options = {"n_estimators": 10, "num_threads": 1, "verbose": -1}
    model = lightgbm.LGBMClassifier(**options).fit(rows[:2000], truth[:2000])
    other = lightgbm.LGBMClassifier(**options | {"n_estimators": 3}).fit(rows[:2000], truth[:2000])
    extra = pl.DataFrame({"shop": random.choice([f"<b>{i}</b>" for i in range(200)], 20_000)})
    return evaluate(
        model, rows, truth, slices=["shop", "x0"], groups=[], find_slices=True, columns=extra,
        explain=True, robust=True, champion=other, resamples=50,
    )  # fmt: skip


def test_the_page_is_small_and_needs_nothing_whatever_the_data(wide):
    page = wide.to_html("<script>alert(1)</script>")
    assert len(page.encode()) < 2_000_000
    assert "<script" not in page
    assert "<b>1" not in page
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)
    assert len(wide.to_json()) < 2_000_000


def test_the_tables_hold_the_figures(wide):
    tables = wide.tables()
    assert set(tables) == {
        "attributions", "calibration", "comparison", "dependence", "importance", "metrics",
        "robustness", "slices", "thresholds",
    }  # fmt: skip
    metrics = {row["metric"]: row for row in tables["metrics"].to_pylist()}
    assert metrics["auc"]["value"] == wide.metrics["auc"]
    assert (metrics["auc"]["low"], metrics["auc"]["high"]) == wide.intervals["auc"]
    assert tables["comparison"].filter(tables["comparison"]["slice"].is_null()).num_rows == 4
    assert tables["robustness"].num_rows == 15 * 6


def test_a_part_that_is_added_changes_no_figure_of_another(wide):
    model = LinearRegression().fit(ROWS, NUMBERS)
    alone = evaluate(model, ROWS, NUMBERS)
    more = evaluate(model, ROWS, NUMBERS, find_slices=True, robust=True, slices=["x0"])
    assert (alone.metrics, alone.intervals) == (more.metrics, more.intervals)


# -- registered models ---------------------------------------------------------------------------


def test_a_registered_version_beside_its_champion(stack):
    frame, truth = colors()
    table = frame.with_columns(
        late=pl.Series(truth), noise=pl.Series(RANDOM.normal(size=400)), one=(frame["color"] == "red").cast(pl.Float64)
    ).to_arrow()  # fmt: skip
    good = LogisticRegression().fit(table.select(["one", "size"]).to_pandas(), truth)
    bad = LogisticRegression().fit(table.select(["noise"]).to_pandas(), truth)
    example = table.slice(0, 3)
    stack.registry.register("m", bad, example=example.select(["noise"]), evaluation={"auc": 0.5})
    stack.registry.set_alias("m", "champion", 1)
    stack.registry.register("m", good, example=example.select(["one", "size"]))
    found = evaluate_registered(
        stack.registry, "m", table, "late", compare="champion", slices=["color"], robust=True
    )
    assert found.comparison.verdict == "better"
    assert found.metrics["accuracy"] == pytest.approx(0.9, abs=0.03)
    assert {one.name for one in found.slices} == {"color = 'blue'", "color = 'red'"}
    changed = {one.feature for one in found.robustness.changes}
    assert changed == {"one", "size"}  # not the label, nor what only slices or the champion use
    with pytest.raises(SchemaMismatchError, match="no column 'early' to take as label; there are"):
        evaluate_registered(stack.registry, "m", table, "early")
    with pytest.raises(NotFoundError, match="no alias 'best'"):
        evaluate_registered(stack.registry, "m@best", table, "late")
    version = stack.registry.register(
        "m", good, example=example.select(["one", "size"]), report=found
    )
    kept = json.loads(stack.storage.get(f"{version.location}/evaluation.json"))
    assert kept["comparison"]["verdict"] == "better"
    assert version.evaluation == found.metrics
    assert b"Against the champion" in stack.storage.get(f"{version.location}/report.html")
