"""What each feature adds to single predictions: SHAP values, summed up over rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments import formats
from madang.development.experiments.evaluation._bootstrap import Array
from madang.development.experiments.evaluation._charts import lanes, swarm
from madang.development.experiments.evaluation._inputs import Inputs
from madang.errors import InvalidInputError, MissingDependencyError

_ROWS = 200
_BACKGROUND = 100
_PERMUTATIONS = 16
_SHOWN = 12


@dataclass(frozen=True)
class Attributions:
    """Mean absolute SHAP values.

    Attributes:
        method: `linear`, `tree` or `sampling`; see `madang.development.experiments.explain`.
        scale: What the values add up to: `output`, `probability`, `log_odds` or `raw_score`.
        rows: How many rows were explained.
        mean: Feature to the mean over rows and outputs of the absolute value, the largest first.
        not_explained: Why there are none, in which case all else is empty.
    """

    method: str = ""
    scale: str = ""
    rows: int = 0
    mean: Mapping[str, float] = field(default_factory=dict)
    not_explained: str = ""


def attributions(model: Any, inputs: Inputs, seed: int) -> tuple[Attributions, dict[str, str]]:
    """SHAP values of at most 200 of the rows, and their chart by title.

    An estimator that was not loaded is stored and loaded first, because SHAP's exact ways go by the
    stored format. One of no supported format, or whose rows can't be explained, is not explained.
    """
    from madang.development.experiments.explain import explain

    few = inputs.take(np.arange(min(_ROWS, len(inputs))))
    background = inputs.take(np.arange(len(inputs))[-_BACKGROUND:])
    try:
        with tempfile.TemporaryDirectory(prefix="madang-evaluation-") as folder:
            loaded = _loaded(model, few, Path(folder))
            found = explain(
                loaded, few.data, background=background.data, permutations=_PERMUTATIONS, seed=seed
            )
    except (InvalidInputError, MissingDependencyError) as error:
        return Attributions(not_explained=str(error)), {}
    size = np.abs(found.values).mean(axis=(0, 2))
    order = np.argsort(-size, kind="stable")
    names = _names(found.columns, few)
    result = Attributions(
        found.method, found.scale, len(found.values),
        {names[i]: float(size[i]) for i in order},
    )  # fmt: skip
    return result, _chart(found.values, found.scale, names, order[:_SHOWN], few)


def _loaded(model: Any, rows: Inputs, folder: Path) -> formats.LoadedModel:
    if isinstance(model, formats.LoadedModel):
        return model
    manifest = formats.save(model, folder, example=rows.take(np.arange(min(20, len(rows)))).data)
    return formats.load(folder, digest=manifest.digest)


def _names(columns: tuple[str, ...], inputs: Inputs) -> list[str]:
    """The evaluation's names of the columns: a matrix's are `x0`, `x1`, …."""
    known = set(columns) <= set(inputs.names) or len(columns) != len(inputs.names)
    return list(columns) if known else list(inputs.names)


def _chart(
    values: Array, scale: str, names: list[str], order: Array, inputs: Inputs
) -> dict[str, str]:
    what = scale.replace("_", " ")
    if values.shape[2] > 1:
        size = np.abs(values).mean(axis=(0, 2))
        means = [(names[i], float(size[i]), float(size[i]), float(size[i])) for i in order]
        return {"SHAP: mean over all outputs": lanes(means, f"mean absolute SHAP value ({what})")}
    rows = [(names[i], values[:, i, 0], _levels(inputs, names[i])) for i in order]
    title = "SHAP: what each feature adds (blue: low values of it, pink: high)"
    return {title: swarm(rows, f"SHAP value ({what})")}


def _levels(inputs: Inputs, name: str) -> Array:
    """Each row's place among the feature's values, from 0 to 1; 0.5 for what has no order."""
    if name not in inputs.names or not inputs.frame[name].dtype.is_numeric():
        return np.full(len(inputs), 0.5)
    ranks = inputs.frame[name].rank("average").fill_null(1.0).to_numpy()
    return np.asarray((ranks - 1) / max(1, len(ranks) - 1))
