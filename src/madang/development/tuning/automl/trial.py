"""One trial: a candidate fitted on all parts but one, and judged on that one, for each part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from madang.development.tuning.automl import families, plan, scoring
from madang.development.tuning.contract import ActiveTrial
from madang.errors import InvalidInputError

Array = np.ndarray[Any, Any]


def candidate(params: Mapping[str, Any], trial: ActiveTrial, *, folder: str) -> float:
    """The metric of a candidate on the held-out rows; its predictions are kept in the folder."""
    place = Path(folder)
    data = plan.read(place)
    family = params["family"]
    own = families.names_of(params, family)
    features = data.features
    predicted: Array | None = None
    for part in range(data.plan.folds):
        held = data.fold == part
        model = fitted(data, features, family, own, ~held)
        found = outputs(model, features.filter(held), data.plan.classes)
        if predicted is None:
            predicted = np.full((len(data.labels), *found.shape[1:]), np.nan)
        predicted[held] = found
    if predicted is None:
        raise InvalidInputError("no rows are held out")
    predicted = predicted[data.held_out]
    if not np.isfinite(predicted).all():
        raise InvalidInputError("the model predicts NaN or infinity")
    _keep(plan.predictions(place, trial.number), predicted)
    return scoring.score(data.plan.metric, codes(data)[data.held_out], predicted)


def fitted(
    data: plan.Data, features: Any, family: str, params: Mapping[str, Any], rows: Array
) -> Any:
    """A model fitted on some rows."""
    chosen = features.filter(rows)
    plan_ = data.plan
    model = families.build(
        family, params, features, columns=plan_.columns, task=plan_.task, seed=plan_.seed
    )
    # Some families take no number of threads, and on a busy machine theirs wait for each other.
    with threadpool_limits(1, user_api="openmp"):
        return model.fit(chosen, data.labels[rows])


def outputs(model: Any, features: Any, classes: tuple[Any, ...]) -> Array:
    """Predictions of shape (rows,), or probabilities of shape (rows, classes) in their order."""
    if not classes:
        return np.asarray(model.predict(features), dtype=np.float64)
    proba = np.zeros((len(features), len(classes)))
    # A part may lack a class.
    places = [classes.index(name) for name in np.asarray(model.classes_).tolist()]
    proba[:, places] = model.predict_proba(features)
    # XGBoost's are float32, which don't sum to 1 in float64.
    return np.asarray(proba / proba.sum(axis=1, keepdims=True))


def codes(data: plan.Data) -> Array:
    """The labels as numbers: places among the classes, or the values of a regression."""
    if not data.plan.classes:
        return data.labels
    return np.searchsorted(np.asarray(data.plan.classes), data.labels)


def _keep(path: Path, predicted: Array) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, predicted, allow_pickle=False)
    os.replace(part, path)  # noqa: PTH105 - the same name is written again by a trial's second attempt
