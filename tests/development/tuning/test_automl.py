from __future__ import annotations

import json
import math
from datetime import date

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from threadpoolctl import threadpool_info

from madang.cli import cli
from madang.data.validation import Check, Column, DataContract
from madang.data.validation.contract_file import contract_path, write_contract
from madang.development.tuning.automl import automl, columns, ensemble, families, plan, scoring
from madang.errors import InvalidInputError, NotFoundError

ROWS = 400
FAST = ["linear", "lightgbm"]


@pytest.fixture
def table():
    """Whether a flight is late depends on the distance, the carrier, and the hour's category."""
    random = np.random.default_rng(0)
    distance = random.normal(size=ROWS)
    carrier = random.choice(["AA", "UA", "DL"], ROWS)
    hour = random.integers(0, 4, ROWS)
    score = distance + (carrier == "AA") + 2.0 * (hour == 2)
    late = (score + 0.5 * random.normal(size=ROWS) > 1).astype(int)
    return pl.DataFrame(
        {
            "id": [f"flight-{i}" for i in range(ROWS)],
            "distance": np.where(random.random(ROWS) < 0.1, np.nan, distance),
            "carrier": [None if random.random() < 0.05 else c for c in carrier],
            "hour": hour,
            "same": ["x"] * ROWS,
            "time": pl.datetime_range(
                pl.datetime(2013, 1, 1),
                pl.datetime(2013, 1, 1) + pl.duration(hours=ROWS - 1),
                "1h",
                eager=True,
            ),
            "late": late,
        }
    )


def test_a_classification_from_table_to_registered_model(stack, table):
    stack.storage.write("flights", table.to_arrow())
    result = automl(stack, "flights", "late", seconds=600, trials=5, only=FAST)
    assert (result.task, result.metric, result.direction) == (
        "classification",
        "log_loss",
        "minimize",
    )
    assert result.stopped == "trials"
    assert result.rows == {"learn": 320, "validate": 320, "test": 80}
    assert result.evaluation.rows == 80
    assert result.best_evaluation.metrics["auc"] > 0.8
    scores = [candidate.score for candidate in result.leaderboard]
    assert scores == sorted(scores)
    assert result.best.candidate == result.leaderboard[0]
    assert sum(member.weight for member in result.members) == pytest.approx(1)
    assert result.ensemble_score <= scores[0] + 1e-12
    # Each candidate is a run of the study.
    runs = {run.id: run for run in stack.experiments.runs(parent_id=result.run_id)}
    assert {candidate.run_id for candidate in result.leaderboard} == set(runs)
    (version,) = result.register("late")
    assert version.inputs[:2] == (f"run:{result.best.candidate.run_id}", "dataset:flights@0")
    assert version.evaluation == result.best_evaluation.metrics
    loaded = stack.registry.load("late")
    features = plan.prepared(table, result.columns)
    expected = result.best.model.predict_proba(features)
    found = loaded.predict(loaded.inputs(features))["predict_proba"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_all_members_of_an_ensemble_are_registered_with_their_shares(stack, table):
    result = automl(stack, table, "late", seconds=600, trials=6, only=FAST)
    versions = result.register("late", ensemble=True)
    shares = [float(version.tags["madang.weight"]) for version in versions]
    assert shares == pytest.approx([member.weight for member in result.members])
    proba = sum(
        share * model.predict(model.inputs(plan.prepared(table, result.columns)))["predict_proba"]
        for share, model in zip(shares, (stack.registry.load("late", v.version) for v in versions))
    )
    np.testing.assert_allclose(result.predict(table)["predict_proba"], proba, atol=1e-5)


def test_a_regression(stack, table):
    random = np.random.default_rng(1)
    rows = table.with_columns(delay=pl.col("distance").fill_nan(0) * 10 + random.normal(size=ROWS))
    result = automl(stack, rows, "delay", seconds=600, trials=3, only=["linear"], metric="r2")
    assert (result.task, result.direction) == ("regression", "maximize")
    assert result.best_evaluation.metrics["r2"] > 0.9
    assert "predict_proba" not in result.predict(rows)


def test_the_same_seed_gives_the_same(stack, table):
    results = [
        automl(stack, table, "late", seconds=600, trials=4, only=FAST, seed=3) for _ in range(2)
    ]
    first, second = ([(c.family, c.params, c.score) for c in r.leaderboard] for r in results)
    assert first == second
    assert results[0].evaluation.metrics == results[1].evaluation.metrics


def test_candidates_in_processes(stack, table):
    result = automl(stack, table, "late", seconds=600, trials=4, only=FAST, workers=2)
    assert [c.error for c in result.leaderboard] == [""] * 4


def test_by_time_no_model_sees_the_future(stack, table):
    shuffled = table.sample(fraction=1, shuffle=True, seed=1)
    result = automl(
        stack, shuffled, "late", seconds=600, trials=2, only=["linear"], time_column="time"
    )
    assert result.rows == {"learn": 320, "validate": 64, "test": 80}
    labels = table["late"]
    fold, parts = plan.split(labels, "classification", 0, table["time"])
    assert parts == 1
    assert table["time"].filter(fold == -1).max() < table["time"].filter(fold == 0).min()
    uses = {use.name: use.role for use in result.columns}
    assert uses["time"] == "excluded"


def test_a_failing_family_is_on_the_leaderboard(stack, table, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    def broken(*_args, **_kwargs):
        raise ValueError("it does not converge")

    monkeypatch.setattr(LogisticRegression, "fit", broken)
    result = automl(stack, table, "late", seconds=600, trials=2, only=FAST)
    last = result.leaderboard[-1]
    assert (last.family, last.score) == ("linear", None)
    assert "it does not converge" in last.error
    assert "it does not converge" in result.to_html()


def test_the_report_tells_everything_as_data_and_as_a_page(stack, table):
    rows = table.rename({"carrier": "<script>"})
    result = automl(stack, rows, "late", seconds=600, trials=2, only=["linear"])
    content = json.loads(json.dumps(result.to_dict()))
    assert len(content["leaderboard"]) == 2
    assert {c["name"]: c["role"] for c in content["columns"]}["<script>"] == "category"
    page = result.to_html("A <title>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page


def test_nothing_is_left_behind(stack, table):
    automl(stack, table, "late", seconds=600, trials=1, only=["linear"])
    assert list((stack.home / "tmp").iterdir()) == []


# -- columns -----------------------------------------------------------------------------------


def test_what_becomes_of_columns(table):
    uses = {use.name: use for use in columns.roles(table, "late", None, ["hour"])}
    roles = {name: use.role for name, use in uses.items()}
    assert roles == {
        "id": "excluded",
        "distance": "number",
        "carrier": "category",
        "hour": "excluded",
        "same": "excluded",
        "time": "excluded",
    }
    assert uses["id"].reason == "text with 400 different values"
    assert uses["same"].reason == "it has one value only"
    assert uses["hour"].reason == "asked for"


def test_the_contract_says_what_identifies_and_what_is_of_a_set(stack, table):
    contract = DataContract(
        "flights",
        (Column("hour", pa.int64()), Column("distance", pa.float64())),
        (
            Check("in_set", "hour", arguments={"values": [0, 1, 2, 3]}),
            Check("unique", None, arguments={"columns": ["distance"]}),
        ),
    )
    uses = {use.name: use for use in columns.roles(table, "late", contract, [])}
    assert uses["hour"].role == "category"
    assert uses["distance"].reason == "it identifies a row, says the contract"


def test_the_projects_contract_is_found(stack, table):
    numbers = table.select("hour", "distance", "late")
    stack.storage.write("flights", numbers.to_arrow())
    columns_ = tuple(Column(f.name, f.type) for f in numbers.to_arrow().schema)
    check = Check("in_set", "hour", arguments={"values": [0, 1, 2, 3]})
    write_contract(
        DataContract("flights", columns_, (check,)), contract_path(stack.root, "flights")
    )
    result = automl(stack, "flights", "late", seconds=600, trials=1, only=["linear"])
    assert {use.name: use.role for use in result.columns}["hour"] == "category"


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"label": "nope"}, "no column 'nope'; it has: id, distance"),
        ({}, {"metric": "rmse"}, "no metric 'rmse' for a classification; it has: log_loss, auc"),
        ({}, {"only": ["nets"]}, "can't try nets; here it has: linear, hist_gradient_boosting"),
        ({}, {"exclude": ["nope"]}, "no column nope"),
        ({}, {"test_fraction": 1.5}, "between 0 and 1, found 1.5"),
        ({}, {"exclude": ["distance", "carrier", "hour"]}, "no column is left to learn late from"),
        ({"late": None}, {}, "missing or infinite in 400 of 400 rows"),
        ({"late": 1}, {}, "has one value only"),
        ({}, {"seconds": math.nan}, "seconds is 0 or more, found nan"),
        ({}, {"time_column": "late"}, "'late' can't be both the label and the time column"),
        ({}, {"test_fraction": 0.99}, "4 rows to learn from and 396 to test by are too few"),
        ({}, {"test_fraction": 0.001}, "test_fraction 0.001 doesn't fit the rows"),
        ({}, {"test_fraction": 0.001, "time_column": "id"}, "and 0 to test by are too few"),
    ],
)
def test_what_is_refused(stack, table, change, arguments, message):
    rows = table.with_columns(**{name: pl.lit(value, pl.Int64) for name, value in change.items()})
    with pytest.raises(InvalidInputError, match=message):
        automl(stack, rows, **{"label": "late", "seconds": 5, "trials": 1, **arguments})
    assert stack.tuning.studies() == []


def test_rare_classes_few_rows_and_missing_datasets(stack, table):
    rare = table.with_columns(late=pl.when(pl.int_range(pl.len()) < 3).then(7).otherwise("late"))
    with pytest.raises(InvalidInputError, match="values with fewer than 5 rows: 7"):
        automl(stack, rare, "late", trials=1)
    with pytest.raises(InvalidInputError, match="at least 50 rows to judge by, found 10"):
        automl(stack, table.head(10), "late", trials=1)
    with pytest.raises(NotFoundError, match="nothing"):
        automl(stack, "nothing", "late", trials=1)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            pl.lit(date(2013, 1, 1)),
            "the label 'late' is Date; a label is numbers, text or true and",
        ),
        (pl.lit(None), "the label 'late' is Null"),
        (pl.concat_list("hour"), "the label 'late' is List"),
        (pl.lit(math.inf), "missing or infinite in 400 of 400 rows"),
        (pl.lit(math.nan), "missing or infinite in 400 of 400 rows"),
    ],
)
def test_labels_that_can_not_be_learnt(stack, table, label, message):
    with pytest.raises(InvalidInputError, match=message):
        automl(stack, table.with_columns(late=label), "late", trials=1)
    assert stack.tuning.studies() == []


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (pl.int_range(pl.len()) >= 350, "the labels 0 only; those to test by also 1"),
        (
            pl.when(pl.int_range(pl.len()) >= 390).then(2).otherwise(pl.int_range(pl.len()) % 2),
            "the labels 0, 1 only; those to test by also 2",
        ),
    ],
)
def test_a_class_that_comes_too_late_is_found_before_the_search(stack, table, late, message):
    rows = table.with_columns(late=late, moment=pl.int_range(pl.len()))
    with pytest.raises(InvalidInputError, match=message):
        automl(stack, rows, "late", trials=1, time_column="moment")
    assert stack.tuning.studies() == []


def test_doubled_rows_and_a_budget_that_was_exceeded_are_noted(stack, table):
    doubled = pl.concat([table.head(50)] * 4)
    result = automl(stack, doubled, "late", seconds=0, only=["linear"], exclude=["id"])
    assert "40 of 40 test rows have the same inputs as rows that were learnt" in result.notes[0]
    assert "instead of 0 s: a candidate that began is not ended" in result.notes[1]
    assert len(result.leaderboard) == 1


def test_a_candidate_is_fitted_by_one_thread(stack, table, monkeypatch):
    seen = []

    def build(*_, **__):
        class Watched:
            classes_ = np.array([0, 1])

            def fit(self, *_):
                seen.extend(
                    one["num_threads"] for one in threadpool_info() if one["user_api"] == "openmp"
                )
                return self

            def predict_proba(self, features):
                return np.full((len(features), 2), 0.5)

        return Watched()

    monkeypatch.setattr(families, "build", build)
    automl(stack, table, "late", seconds=600, trials=1, only=["linear"])
    assert set(seen) == {1}


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_ensemble_whose_scores_are_all_infinite_has_a_member():
    truth = np.array([0.0, 1e300])
    shares, score = ensemble.select("rmse", "minimize", truth, {0: np.zeros(2)})
    assert (shares, score) == ({0: 1.0}, np.inf)


def test_labels_that_are_words_leave_out_xgboost(stack, table):
    words = table.with_columns(
        late=pl.when(pl.col("late") == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))
    )
    result = automl(stack, words, "late", seconds=600, trials=2, only=["linear", "xgboost"])
    assert {c.family for c in result.leaderboard} == {"linear"}
    assert "xgboost takes the classes 0, 1" in result.notes[0]
    assert set(result.predict(words)["predict"]) == {"yes", "no"}


# -- the ensemble ------------------------------------------------------------------------------


def test_an_ensemble_takes_what_helps():
    random = np.random.default_rng(0)
    truth = random.normal(size=2000)
    noisy = {n: truth + random.normal(size=2000) for n in range(3)}
    useless = {9: random.normal(size=2000) * 10}
    shares, score = ensemble.select("rmse", "minimize", truth, {**noisy, **useless})
    assert set(shares) == {0, 1, 2}
    assert score < min(scoring.score("rmse", truth, array) for array in noisy.values())
    mean = sum(share * noisy[n] for n, share in shares.items())
    assert score == pytest.approx(scoring.score("rmse", truth, mean))


def test_an_ensemble_of_equal_models_is_one():
    truth = np.arange(10.0)
    same = {0: truth + 1, 1: truth + 1}
    shares, score = ensemble.select("mae", "minimize", truth, same)
    assert (shares, score) == ({0: 1.0}, 1.0)


def test_the_command(stack, table):
    stack.storage.write("flights", table.to_arrow())
    page = stack.root / "report.html"
    arguments = [
        "automl",
        "flights",
        "late",
        "--seconds",
        "1",
        "--only",
        "linear",
        "--register",
        "late",
    ]
    found = CliRunner().invoke(
        cli, ["--project", str(stack.root), *arguments, "--html", str(page)], catch_exceptions=False
    )
    assert found.exit_code == 0
    assert "registered model:late@1" in found.output
    assert "<h2>Leaderboard</h2>" in page.read_text()
