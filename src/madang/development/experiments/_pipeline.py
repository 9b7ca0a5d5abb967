"""scikit-learn pipelines that end with another library's model: each part in its own safe format.

model.skops     the transformers
model.…         the last step, as its own format stores it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._skops import SklearnPredictor, SkopsFormat, feature_names
from madang.development.experiments._tensors import MATRIX, Array, Arrays, from_example
from madang.development.experiments.formats import Format, Predictor, format_named, format_of
from madang.errors import InvalidInputError


class PipelineFormat(Format):
    """`Pipeline([…transformers, (name, LGBMClassifier())])`, and the like."""

    packages: tuple[str, ...] = ("polars", "scikit-learn", "skops")

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        return from_example(example, feature_names(model))

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        return SklearnPredictor(model, columns)

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        *transformers, (name, last) = model.steps
        inner = format_named(format_of(last))
        SkopsFormat().write(Pipeline(transformers), folder, trusted)
        facts = inner.write(last, folder, trusted)
        self.packages = (*self.packages, *inner.packages)
        found: dict[str, Any] = {"last": {"format": format_of(last), "name": name, "facts": facts}}
        return found | ({"classes": facts["classes"]} if "classes" in facts else {})

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        last = manifest.facts["last"]
        transformers = SkopsFormat().read(folder, manifest, trusted).native
        inner = replace(manifest, format=last["format"], facts=last["facts"], columns=())
        predictor = format_named(last["format"]).read(folder, inner, trusted)
        return PipelinePredictor(transformers, last["name"], predictor, manifest.columns)


class PipelinePredictor:
    """Transforms rows, and hands them to the last step's own predictor."""

    def __init__(
        self, transformers: Any, name: str, last: Predictor, columns: tuple[str, ...]
    ) -> None:
        self._transformers = transformers
        self._name = name
        self._last = last
        self._rows = SklearnPredictor(transformers, columns).rows

    def __call__(self, inputs: Arrays) -> Arrays:
        try:
            made = self._transformers.transform(self._rows(inputs))
        except (ValueError, TypeError) as error:
            raise InvalidInputError(f"the model can't take these inputs: {error}") from error
        return self._last({MATRIX: _dense(made)})

    @property
    def native(self) -> Any:
        """The whole pipeline."""
        return Pipeline([*self._transformers.steps, (self._name, self._last.native)])


def _dense(made: Any) -> Array:
    array = made.toarray() if hasattr(made, "toarray") else made
    return np.ascontiguousarray(array, dtype=np.float64)
