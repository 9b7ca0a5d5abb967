"""Will a flight arrive more than 15 minutes late, asked at its scheduled departure?"""

from datetime import date, timedelta

import polars as pl
import pyarrow as pa
from features.flights import VIEWS

from madang import Stack, pipeline, step
from madang.development.tuning import Float, Int

KEYS = ("id", "sched_dep", "origin", "dest", "carrier", "late")
VALID_DAYS = 16


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


def matrix(table: pl.DataFrame) -> pa.Table:
    """The model's input: numbers, a column a feature."""
    return table.drop(KEYS, strict=False).cast(pl.Float64).to_arrow()


def parts(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The flights to learn from, and the later ones to judge by."""
    later = pl.col("sched_dep") > pl.col("sched_dep").max() - timedelta(days=VALID_DAYS)
    return table.filter(~later), table.filter(later)


def fit(table: pl.DataFrame, params: dict):
    """A fitted model; the same table and parameters give the same model."""
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(n_estimators=100, random_state=0, verbose=-1, n_jobs=1, **params)
    return model.fit(matrix(table), table["late"].to_numpy())


@step
def tune(stack: Stack, table: pl.DataFrame, trials: int) -> dict:
    """The parameters whose model has the lowest log loss on the later flights."""
    from sklearn.metrics import log_loss

    space = {
        "num_leaves": Int(8, 64, log=True),
        "learning_rate": Float(0.02, 0.2, log=True),
        "min_child_samples": Int(20, 500, log=True),
        "reg_lambda": Float(0.001, 30.0, log=True),
    }
    earlier, later = parts(table)

    def objective(params: dict) -> float:
        probability = fit(earlier, params).predict_proba(matrix(later))[:, 1]
        return float(log_loss(later["late"], probability))

    study = stack.tuning.tune(objective, space, name="flights", trials=trials, seed=0)
    return dict(study.best.params)


@step
def evaluation(table: pl.DataFrame, params: dict) -> tuple[dict, str]:
    """How a model of the earlier flights does on the later ones, which chose its parameters."""
    from madang.development.experiments.evaluation import evaluate

    earlier, later = parts(table)
    found = evaluate(fit(earlier, params), matrix(later), later["late"])
    return dict(found.metrics), found.to_html()


@step
def register(stack: Stack, table: pl.DataFrame, params: dict, metrics: dict, report: str) -> str:
    """The model of all flights, registered as the challenger."""
    version = stack.registry.register(
        "delay",
        fit(table, params),
        example=matrix(table.head(20)),
        evaluation=metrics,
        report=report.encode(),
        description="arrival more than 15 minutes late, asked at the scheduled departure",
    )
    stack.registry.set_alias("delay", "challenger", version.version)
    return version.ref


@pipeline
def train(start: date = date(2013, 1, 1), end: date = date(2013, 4, 1), trials: int = 8):
    """From datasets to a registered model version."""
    table = features(labels=labels(start=start, end=end))
    params = tune(table=table, trials=trials)
    metrics, report = evaluation(table, params)
    model = register(table=table, params=params, metrics=metrics, report=report)
    return {"model": model, "metrics": metrics}
