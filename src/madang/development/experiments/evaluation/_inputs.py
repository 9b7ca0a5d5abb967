"""A model's input rows, whatever holds them, and what the model says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from madang.development.experiments.evaluation._bootstrap import Array
from madang.development.experiments.formats import LoadedModel
from madang.errors import InvalidInputError, NotFoundError

_ROUNDING = 1e-6  # of 32 bits
Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Predictions:
    """What a model says about rows, beside what happened.

    Attributes:
        task: `classification` or `regression`.
        truth: Labels; of a classification the index of each label's class. Shape (rows,).
        predicted: Predicted numbers, or the index of the likeliest class. Shape (rows,).
        proba: Shape (rows, classes); `None` for a regression.
        classes: In the order of `proba`.
    """

    task: Task
    truth: Array
    predicted: Array
    proba: Array | None = None
    classes: tuple[Any, ...] = ()

    @property
    def binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.classes) == 2

    @property
    def scores(self) -> Array:
        """The probability of the second of two classes."""
        assert self.proba is not None
        return self.proba[:, 1]

    def take(self, rows: Array) -> Predictions:
        """Some rows, by a mask or by numbers."""
        proba = None if self.proba is None else self.proba[rows]
        return Predictions(self.task, self.truth[rows], self.predicted[rows], proba, self.classes)

    def losses(self) -> Array:
        """What each row costs: squared error of the probabilities, or the absolute error."""
        if self.proba is None:
            return np.asarray(np.abs(self.predicted - self.truth))
        if self.binary:
            return np.asarray((self.scores - self.truth) ** 2)
        picked = self.proba[np.arange(len(self.truth)), self.truth]
        return np.asarray(np.einsum("ij,ij->i", self.proba, self.proba) - 2 * picked + 1)


def predictions(model: Any, features: Any, labels: Any, task: Task | None) -> Predictions:
    """What `model` says about `features`, checked against `labels`.

    Raises:
        InvalidInputError: See `evaluate`.
    """
    truth = np.asarray(labels)
    predicted, proba, classes = _outputs(model, features, task)
    if truth.ndim != 1 or len(truth) == 0 or len(truth) != len(predicted):
        raise InvalidInputError(
            f"evaluation needs one label a row: {len(predicted)} rows, labels of {truth.shape}"
        )
    task = task or ("regression" if proba is None else "classification")
    if task == "regression":
        numbers, truth = _numbers(predicted, "predictions"), _numbers(truth, "labels")
        return Predictions("regression", truth, numbers)
    if proba is None or classes is None:
        raise InvalidInputError(
            "a classification is evaluated by probabilities; the model has none"
        )
    proba = _numbers(proba, "probabilities")
    if proba.min() < -_ROUNDING or proba.max() > 1 + _ROUNDING:
        raise InvalidInputError(
            f"probabilities lie between 0 and 1, the model gives {proba.min():g} to {proba.max():g}"
        )
    proba = proba.clip(0.0, 1.0)
    if proba.ndim == 1:
        proba = np.column_stack([1 - proba, proba])
    return Predictions(
        "classification", _codes(truth, classes), proba.argmax(axis=1), proba,
        tuple(classes.tolist()),
    )  # fmt: skip


def _outputs(
    model: Any, features: Any, task: Task | None
) -> tuple[Array, Array | None, Array | None]:
    """Predictions, probabilities (or `None`), and the classes in the probabilities' order."""
    if isinstance(model, LoadedModel):
        outputs = model.predict(model.inputs(features))
        classes = model.manifest.facts.get("classes")
        if "predict" not in outputs:
            raise InvalidInputError(
                f"the model's outputs are {', '.join(outputs)}; to be evaluated it needs `predict`"
            )
        found = None if classes is None else np.array(classes)
        return outputs["predict"], outputs.get("predict_proba"), found
    if task == "regression" or not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(features)), None, None
    # A classification's guesses are taken from the probabilities, so that nothing is asked twice.
    proba = np.asarray(model.predict_proba(features))
    return proba, proba, np.asarray(model.classes_)


def _numbers(values: Array, what: str) -> Array:
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the {what} are no numbers: {error}") from error
    wrong = int((~np.isfinite(found)).sum())
    if wrong:
        raise InvalidInputError(
            f"{wrong} of {found.size} {what} are NaN or infinite, so that no metric is defined; "
            "leave these rows out, or mend the model"
        )
    return found


def _codes(truth: Array, classes: Array) -> Array:
    """Each label's index in `classes`."""
    # Labels of several types, such as a text and None, can't be sorted.
    there = truth if truth.dtype == object else np.unique(truth)
    unknown = sorted(set(there.tolist()) - set(classes.tolist()), key=str)
    if unknown:
        raise InvalidInputError(
            f"the labels {', '.join(map(repr, unknown[:5]))} are none of the model's classes: "
            f"{', '.join(map(repr, classes[:20].tolist()))}"
        )
    if len(classes) < 2:
        raise InvalidInputError(
            f"the model knows one class only, {classes.tolist()!r}: there is nothing to measure"
        )
    order = np.argsort(classes)
    return np.asarray(order[np.searchsorted(classes[order], truth)])


def frame_of(data: Any) -> pl.DataFrame:
    """Columns as Polars; a matrix's are `x0`, `x1`, …; texts are one column `x0`."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, Mapping):
        return pl.DataFrame({str(key): np.asarray(value) for key, value in data.items()})
    if hasattr(data, "__arrow_c_stream__"):
        frame = pl.DataFrame(data)
        # pandas hands its index over as a column of this name when it is not 0, 1, 2, …
        return frame.select(c for c in frame.columns if not c.startswith("__index_level_"))
    matrix = np.asarray(data)
    columns = matrix[:, None] if matrix.ndim == 1 else matrix
    return pl.DataFrame({f"x{i}": columns[:, i] for i in range(columns.shape[1])})


def with_columns(frame: pl.DataFrame, columns: Any) -> pl.DataFrame:
    """The frame with further columns, and null for NaN, so that IS NULL finds both.

    Raises:
        InvalidInputError: `columns` has another number of rows.
    """
    if columns is not None:
        more = frame_of(columns)
        if more.height != frame.height:
            raise InvalidInputError(
                f"`columns` has {more.height} rows, and the features {frame.height}"
            )
        frame = frame.with_columns(more)
    return frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


class Inputs:
    """Input rows in the form that the model takes, with columns that can be changed.

    Attributes:
        data: The rows as they were handed in.
        frame: All columns; those of a matrix have the given names, or `x0`, `x1`, ….
        names: The columns that the model uses: of a table those of the given names that it has.
    """

    def __init__(self, data: Any, names: Sequence[str] = ()) -> None:
        self.data = data
        self._matrix = not isinstance(data, Mapping) and not hasattr(data, "__arrow_c_stream__")
        frame = frame_of(data)
        if self._matrix and len(names) == frame.width:
            frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
        self.frame = frame
        self.names = [name for name in frame.columns if name in names] or frame.columns

    def __len__(self) -> int:
        return self.frame.height

    def take(self, rows: Array) -> Inputs:
        """Some rows, by number."""
        if isinstance(self.data, Mapping):
            return Inputs({k: np.asarray(v)[rows] for k, v in self.data.items()}, self.names)
        if hasattr(self.data, "iloc"):
            return Inputs(self.data.iloc[rows], self.names)
        if hasattr(self.data, "take") and not self._matrix:
            return Inputs(self.data.take(rows), self.names)
        data = self.data if hasattr(self.data, "__arrow_c_stream__") else np.asarray(self.data)
        return Inputs(data[rows], self.names)

    def replaced(self, name: str, values: pl.Series) -> Any:
        """The rows in their own form, with another column `name`."""
        if name not in self.names:
            raise NotFoundError(f"no column {name!r}; there are: {', '.join(self.names)}")
        if self._matrix:
            matrix = np.array(self.data)
            if matrix.dtype.kind in "iub":
                matrix = matrix.astype(float)
            column = values.to_numpy()
            if matrix.ndim == 1:
                return column
            matrix[:, self.names.index(name)] = column
            return matrix
        if isinstance(self.data, Mapping):
            return {**self.data, name: values.to_numpy()}
        if isinstance(self.data, pl.DataFrame):
            return self.data.with_columns(values.alias(name))
        if hasattr(self.data, "assign"):
            return self.data.assign(**{name: values.to_numpy()})
        column = values.to_arrow()
        return self.data.set_column(self.data.column_names.index(name), name, column)


def named_inputs(model: Any, features: Any) -> Inputs:
    """The inputs with the names that the model knows."""
    names: Sequence[str] = ()
    if isinstance(model, LoadedModel):
        names = model.manifest.columns or [spec.name for spec in model.signature.inputs]
    elif hasattr(model, "feature_names_in_"):
        names = [str(name) for name in model.feature_names_in_]
    return Inputs(features, names)
