"""Will a flight arrive more than 15 minutes late, asked at its scheduled departure?"""

from datetime import date, timedelta

import lightgbm as lgb
import polars as pl
from features.flights import VIEWS
from sklearn.metrics import log_loss

from madang import Stack, pipeline, step
from madang.development.experiments.evaluation import evaluate
from madang.development.tuning import Float, Int

KEYS = ("id", "sched_dep", "origin", "dest", "carrier", "late")


@step
def labels(stack: Stack, start: date, end: date) -> pl.DataFrame:
    """Flights that were to depart from `start` on and before `end`, and whether they were late."""
    return pl.DataFrame(
        stack.processing.query(
            """SELECT s.id, s.sched_dep, s.origin, s.dest, s.carrier, s.distance, s.duration,
                      hour(s.sched_dep) AS hour, dayofweek(s.sched_dep) AS weekday,
                      (a.arr_delay > 15)::INT AS late
               FROM schedule s JOIN arrivals a USING (id)
               WHERE s.sched_dep >= ? AND s.sched_dep < ? ORDER BY s.sched_dep, s.id""",
            parameters=[start, end],
        )
    )


@step
def features(stack: Stack, labels: pl.DataFrame) -> pl.DataFrame:
    """The labels with what was known at each flight's scheduled departure."""
    return pl.DataFrame(stack.features.training_set(labels, VIEWS, timestamp="sched_dep"))


def matrix(table: pl.DataFrame) -> pl.DataFrame:
    """The model's input: numbers, a column a feature."""
    return table.drop(KEYS, strict=False).cast(pl.Float64)


def fit(table: pl.DataFrame, params: dict) -> lgb.LGBMClassifier:
    """A fitted model; the same table and parameters give the same model."""
    fixed = {"n_estimators": 120, "random_state": 0, "verbose": -1, "n_jobs": 1}
    rows = matrix(table)
    return lgb.LGBMClassifier(**fixed, **params).fit(rows.to_pandas(), table["late"].to_numpy())


@step
def tune(stack: Stack, train: pl.DataFrame, valid: pl.DataFrame, trials: int) -> dict:
    """The parameters whose model has the lowest log loss on the later flights."""
    space = {
        "num_leaves": Int(8, 64, log=True),
        "learning_rate": Float(0.02, 0.2, log=True),
        "min_child_samples": Int(20, 500, log=True),
        "reg_lambda": Float(0.001, 30.0, log=True),
    }

    def objective(params: dict) -> float:
        model = fit(train, params)
        probability = model.predict_proba(matrix(valid).to_pandas())[:, 1]
        return float(log_loss(valid["late"], probability))

    study = stack.tuning.tune(objective, space, name="flights", trials=trials, seed=0)
    return dict(study.best.params)


@step
def evaluation(train: pl.DataFrame, valid: pl.DataFrame, params: dict) -> tuple[dict, str]:
    """How a model that saw only the earlier flights does on the later ones."""
    found = evaluate(fit(train, params), matrix(valid), valid["late"])
    return dict(found.metrics), found.to_html()


@step
def register(stack: Stack, table: pl.DataFrame, params: dict, metrics: dict, report: str) -> str:
    """The model of all flights, registered as the challenger."""
    version = stack.registry.register(
        "delay",
        fit(table, params),
        example=matrix(table.head(20)).to_pandas(),
        evaluation=metrics,
        report=report.encode(),
        description="arrival more than 15 minutes late, asked at the scheduled departure",
    )
    stack.registry.set_alias("delay", "challenger", version.version)
    return version.ref


@pipeline
def train(start: date = date(2013, 1, 1), end: date = date(2013, 4, 1), trials: int = 10):
    """From datasets to a registered model version."""
    split = end - timedelta(days=16)
    early = features(labels=labels(start=start, end=split))
    late = features(labels=labels(start=split, end=end))
    whole = features(labels=labels(start=start, end=end))
    params = tune(train=early, valid=late, trials=trials)
    metrics, report = evaluation(early, late, params)
    return {
        "model": register(table=whole, params=params, metrics=metrics, report=report),
        "metrics": metrics,
    }
