"""Slices: given ones by hand, found ones by simulation; and rates by group against tables."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from madang.development.experiments.evaluation import Gate, evaluate, fairness, find_slices
from madang.development.experiments.evaluation._groups import binned
from madang.development.experiments.evaluation._slices import holm, masks
from madang.errors import InvalidInputError


def table(rows, random):
    return pl.DataFrame(
        {
            "age": random.normal(40, 10, rows),
            "color": random.choice(["red", "green", "blue"], rows),
            "shop": random.choice([f"s{i}" for i in range(30)], rows),
            "visits": random.poisson(2, rows),
        }
    )


def test_pure_noise_gives_almost_none():
    found = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        found += bool(find_slices(table(1500, random), random.beta(1, 6, 1500), min_effect=0.0))
    assert found <= 11  # 5 % of 100 searches, with a binomial's slack (p < 0.003)


@pytest.mark.parametrize("condition", ["color = 'red' AND visits = 1", "age > 50"])
def test_a_planted_slice_is_found_first(condition):
    hits = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        frame = table(4000, random)
        losses = random.beta(1, 6, 4000)
        planted = masks(frame, [condition])[condition]
        losses[planted] += 0.08  # half a standard deviation
        best = find_slices(frame, losses)[0]
        inside = masks(frame, [best.name])[best.name]
        assert best.rows == inside.sum()
        assert best.loss == pytest.approx(losses[inside].mean())
        hits += (inside & planted).sum() / (inside | planted).sum() > 0.5
    assert hits == 20


def test_of_very_many_columns_pairs_are_made_of_those_that_stand_out():
    random = np.random.default_rng(0)
    codes = random.integers(0, 3, (3000, 120))
    frame = pl.DataFrame({f"c{i}": codes[:, i] for i in range(120)})
    losses = random.beta(1, 6, 3000)
    assert find_slices(frame, losses) == []
    losses[(codes[:, 70] == 1) & (codes[:, 99] == 2)] += 0.2
    best = find_slices(frame, losses)[0]
    assert best.name == "c70 = 1 AND c99 = 2"
    corrected = holm(np.array([0.001]), untested=49)[0]
    assert corrected == pytest.approx(0.05)


def test_a_pair_within_a_found_slice_must_be_worse_than_the_rest_of_it():
    random = np.random.default_rng(0)
    frame = table(6000, random)
    losses = random.beta(1, 6, 6000)
    losses[(frame["color"] == "red").to_numpy()] += 0.2
    assert [one.name for one in find_slices(frame, losses)] == ["color = 'red'"]


def test_the_test_is_welchs_corrected_by_holm():
    random = np.random.default_rng(0)
    frame = pl.DataFrame({"a": random.choice(["x", "y"], 400)})
    losses = random.random(400) + 0.2 * (frame["a"] == "y").to_numpy()
    one = find_slices(frame, losses)[0]
    y = (frame["a"] == "y").to_numpy()
    expected = stats.ttest_ind(losses[y], losses[~y], equal_var=False, alternative="greater")
    assert one.p_value == pytest.approx(2 * expected.pvalue)
    assert holm(np.array([0.01, 0.04, 0.03, np.nan])) == pytest.approx(
        [0.03, 0.06, 0.06, np.nan], nan_ok=True
    )


def test_groups_are_named_by_conditions_that_hold_for_their_rows_and_no_other():
    frame = pl.DataFrame(
        {
            "n": [*np.random.default_rng(0).normal(size=98).tolist(), None, None],
            'it\'s "q"': ["a'b", "c"] * 50,
            "flag": [True, False, None, True] * 25,
            "day": pl.Series([20_000, 20_001] * 50).cast(pl.Date),
            "kind": pl.Series(["u", "v"] * 50).cast(pl.Categorical),
            "big": [1_000_000_001, 1_000_000_002] * 50,
            "far": [math.inf, 1.0, -math.inf, 2.0] * 25,
            "price": [Decimal("1.5"), Decimal("2.25")] * 50,
            # Words of SQL's, one of which polars takes for a function, and two for a value.
            **dict.fromkeys(
                ["group", "order", "user", "end", "interval", "true", "null"], [0, 1] * 50
            ),
        }
    )
    for column in frame:
        codes, names = binned(column)
        assert len(names) >= 2
        for number, (name, mask) in enumerate(masks(frame, names).items()):
            assert name == names[number]
            assert (mask == (codes == number)).all(), name


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", timedelta(1)])
def test_what_sql_can_not_write_makes_no_slices(fitted, value):
    model, rows, truth, frame = fitted
    frame = frame.with_columns(pl.Series("odd", [value] * frame.height))
    found = evaluate(model, rows, truth, columns=frame, find_slices=True, resamples=0)
    assert not any("odd" in one.name for one in found.found_slices)
    with pytest.raises(InvalidInputError, match=r"the column 'odd' is .*, which makes no slices"):
        evaluate(model, rows, truth, columns=frame, slices=["odd"])
    with pytest.raises(InvalidInputError, match=r"'odd' is .*, whose values name no groups"):
        evaluate(model, rows, truth, columns=frame, groups=["odd"])


def test_a_found_slice_of_a_column_whose_name_is_a_word_of_sql(fitted):
    model, rows, truth, _ = fitted
    wrong = np.abs(model.predict_proba(rows)[:, 1] - truth) > 0.5
    columns = pl.DataFrame({"group": np.where(wrong, "bad", "good")})
    found = evaluate(model, rows, truth, columns=columns, find_slices=True, resamples=0)
    assert found.found_slices[0].name == "\"group\" = 'bad'"


@pytest.fixture(scope="module")
def fitted():
    random = np.random.default_rng(5)
    frame = table(1200, random)
    rows = frame.select("age", "visits").to_numpy().astype(float)
    truth = (random.random(1200) < 1 / (1 + np.exp(-(rows[:, 0] - 40) / 8))).astype(int)
    return LogisticRegression().fit(rows, truth), rows, truth, frame


def test_given_slices(fitted):
    model, rows, truth, frame = fitted
    found = evaluate(
        model, rows, truth, columns=frame,
        slices=["color", "x0 > 50 AND color <> 'red'", "shop = 'none such'"],
    )  # fmt: skip
    names = [one.name for one in found.slices]
    assert names[:3] == ["color = 'blue'", "color = 'green'", "color = 'red'"]
    assert names[3:] == ["x0 > 50 AND color <> 'red'", "shop = 'none such'"]
    chosen = (rows[:, 0] > 50) & (frame["color"] != "red").to_numpy()
    alone = evaluate(model, rows[chosen], truth[chosen])
    assert found.slices[3].metrics == pytest.approx(alone.metrics)
    assert set(found.slices[3].intervals) == set(alone.intervals)
    nothing = found.slices[4]
    assert (nothing.rows, nothing.loss, nothing.p_value, nothing.metrics) == (0, None, None, {})
    json.loads(found.to_json())
    assert "shop = &#39;none such&#39;" in found.to_html()


def test_a_slice_that_is_none_says_what_there_is(fitted):
    model, rows, truth, frame = fitted
    for text in ("colour = 'red'", "x0 >", "x0 + 1"):
        with pytest.raises(InvalidInputError, match=r"the slice "):
            evaluate(model, rows, truth, slices=[text], columns=frame)
    with pytest.raises(InvalidInputError, match="the columns are: x0, x1"):
        evaluate(model, rows, truth, slices=["color"])
    with pytest.raises(InvalidInputError, match="`columns` has 3 rows, and the features 1200"):
        evaluate(model, rows, truth, slices=["color"], columns=frame.head(3))


def test_missing_values_are_a_slice_of_their_own(fitted):
    model, rows, truth, _ = fitted
    gone = pa.table({"extra": pa.array([None, 1.0, float("nan"), 2.0] * 300)})
    found = evaluate(model, rows, truth, slices=["extra"], columns=gone)
    assert [(one.name, one.rows) for one in found.slices] == [
        ("extra = 1.0", 300), ("extra = 2.0", 300), ("extra IS NULL", 600),
    ]  # fmt: skip


def test_rates_by_group_equal_a_table_by_hand():
    #          group a: 2 of 4 selected      group b: 1 of 4 selected
    group = pl.Series("sex", ["a"] * 4 + ["b"] * 4)
    scores = np.array([0.9, 0.8, 0.2, 0.1, 0.9, 0.4, 0.3, 0.2])
    truth = np.array([1, 0, 1, 0, 1, 1, 1, 0], dtype=bool)
    found = fairness(group, scores, truth)
    a, b = found.groups
    assert (a.name, a.rows, b.name, b.rows) == ("a", 4, "b", 4)
    assert a.rates == pytest.approx(
        {"base_rate": 0.5, "calibration_gap": 0.0, "false_positive_rate": 0.5, "precision": 0.5,
         "selection_rate": 0.5, "true_positive_rate": 0.5}
    )  # fmt: skip
    assert b.rates == pytest.approx(
        {"base_rate": 0.75, "calibration_gap": -0.3, "false_positive_rate": 0.0, "precision": 1.0,
         "selection_rate": 0.25, "true_positive_rate": 1 / 3}
    )  # fmt: skip
    assert found.differences == pytest.approx(
        {"calibration_difference": 0.3, "demographic_parity_difference": 0.25,
         "demographic_parity_ratio": 0.5, "equal_opportunity_difference": 1 / 6,
         "equalized_odds_difference": 0.5}
    )  # fmt: skip


def test_a_group_without_positives_has_no_true_positive_rate():
    group = pl.Series("g", ["a", "a", "b", None])
    found = fairness(group, np.array([0.9, 0.1, 0.9, 0.2]), np.array([1, 0, 0, 0], dtype=bool))
    assert [one.name for one in found.groups] == ["a", "b", "missing"]
    assert "true_positive_rate" not in found.groups[1].rates
    assert set(found.differences) == {
        "calibration_difference", "demographic_parity_difference", "demographic_parity_ratio",
    }  # fmt: skip


def test_groups_that_can_not_be_compared_pass_no_gate(fitted):
    model, rows, truth, _ = fitted
    one = pl.DataFrame({"g": ["a"] * len(truth)})
    found = evaluate(model, rows, truth, groups=["g"], columns=one, resamples=10)
    assert found.fairness[0].differences == {}
    result = Gate(fairness={"demographic_parity_difference": 0.5}).check(found)
    assert result.reasons == ("demographic_parity_difference by g was not measured",)


def test_the_differences_interval_covers_a_difference_that_is_there():
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        group = random.choice(["a", "b"], 600)
        scores = (random.random(600) < np.where(group == "a", 0.6, 0.4)).astype(float)
        found = fairness(
            pl.Series("g", group), scores, random.random(600) < 0.5, random=random
        ).intervals["demographic_parity_difference"]
        covered += found[0] <= 0.2 <= found[1]
    assert 88 <= covered <= 100


def test_fairness_in_the_report(fitted):
    model, rows, truth, frame = fitted
    found = evaluate(model, rows, truth, groups=["color"], columns=frame)
    assert found.fairness[0].column == "color"
    assert "Fairness by color" in found.to_html()
    with pytest.raises(InvalidInputError, match="no column sex to group by; there are: x0, x1"):
        evaluate(model, rows, truth, groups=["sex"])
    with pytest.raises(InvalidInputError, match="'x0' has 1200 values; fairness is for at most 50"):
        evaluate(model, rows, truth, groups=["x0"])
