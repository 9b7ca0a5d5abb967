"""Faster forms of scikit-learn's and XGBoost's models, made and verified at registration.

scikit-learn's checks cost some 400 to 900 µs a call whatever the number of rows; the compiled
forms cost some 5 to 30. A compiled form is a `compiled.npz`, and for trees a `compiled.onnx`,
beside the model's own file:

    linear    scalers and a linear model as one matrix product in NumPy
    trees     scalers, imputers and trees, forests or boostings; the trees run in ONNX Runtime,
              XGBoost's too (some 15 instead of 180 µs)

It is written only if its outputs equal the original's on the example, on the rows that the caller
gives, on random rows around them, and on rows made to tell them apart: NaN, infinities, huge and
tiny values, values at thresholds and next to them. What the original refuses it must refuse too.
The manifest says on how many rows and how far they differed, or why there is no compiled form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments._linear import LinearHead, probabilities
from madang.development.experiments._steps import Step, apply, from_arrays
from madang.development.experiments._tensors import MATRIX, Array, Arrays

FILE = "compiled.npz"
GRAPH = "compiled.onnx"
BOUND = 1e-9
"""Allowed `|a - b| / max(1, |b|)` between the compiled form's and the original's outputs."""
_GATHERED = 1 << 20  # numbers that a forest's leaves take at once


class CompiledModel:
    """Predicts with the compiled form; the library's object is loaded only if asked for.

    Args:
        folder: The model's folder.
        kind: Which form it is, as the manifest says: it vouches for no file that is not of it.
        original: Loads the library's object.
    """

    def __init__(self, folder: Path, kind: str, original: Callable[[], Any]) -> None:
        with np.load(folder / FILE, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        graph = (folder / GRAPH).read_bytes() if kind == "trees" else None
        self._form = Form.of(arrays, graph)
        self._original = original
        self._native: Any = None

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._form(inputs)

    @property
    def product(self) -> Mapping[str, Array] | None:
        """`shift`, `weights` and `bias` if that is all that it does before its link."""
        return self._form.arrays if self._form.kind == "linear" and not self._form.steps else None

    @property
    def native(self) -> Any:
        """The library's own object."""
        if self._native is None:
            self._native = self._original().native
        return self._native


class TreeHead:
    """Runs trees in ONNX Runtime, and makes outputs of their scores.

    Its arrays: `link`; `divisor` (how many trees a mean is over); `leaves` (of shape (nodes,
    values), when a score is a node's number and not what it adds); `classes`; `factor` and `ties`
    of two classes: the score's factor in the link, and which class a score of 0 is; `single`:
    probabilities have 32 bits.
    """

    def __init__(self, arrays: Mapping[str, Array], graph: bytes) -> None:
        from madang.development.experiments._onnx import session

        self._session = session(graph, arena=False)
        self._link = str(arrays["link"])
        self._divisor = int(arrays.get("divisor", 1))
        self._factor = float(arrays.get("factor", 1.0))
        self._ties = int(arrays.get("ties", 0))
        self._single = "single" in arrays
        self._leaves = arrays.get("leaves")
        self._classes = arrays.get("classes")

    def __call__(self, rows: Array) -> Arrays:
        scores = self._session.run(None, {"rows": np.ascontiguousarray(rows)})[0]
        if self._leaves is not None:
            scores = _gathered(self._leaves, scores)
        if self._divisor != 1:
            scores /= self._divisor
        if self._classes is None:
            values = self._values(scores)
            return {"predict": values[:, 0] if values.shape[1] == 1 else values}
        if self._link == "votes":
            return {"predict": self._classes[scores.argmax(axis=1)], "predict_proba": scores}
        proba = self._probabilities(scores)
        chosen = proba.argmax(axis=1)
        if self._ties:
            chosen = np.where(scores[:, 0] == 0.0, 1, chosen)
        return {"predict": self._classes[chosen], "predict_proba": proba}

    def _values(self, scores: Array) -> Array:
        if self._link == "exp":
            return np.exp(scores)
        if self._link == "identity":
            return scores
        proba = self._probabilities(scores)
        return proba[:, 1:] if self._link == "sigmoid" else proba

    def _probabilities(self, scores: Array) -> Array:
        proba = probabilities(scores * self._factor, self._link)
        return proba.astype(np.float32) if self._single else proba


def _gathered(leaves: Array, numbers: Array) -> Array:
    """The sum over trees of what stands in each one's leaf: shape (rows, values)."""
    at = numbers.astype(np.intp)
    step = max(1, _GATHERED // (at.shape[1] * leaves.shape[1]))
    sums = [leaves[at[i : i + step].T].sum(axis=0) for i in range(0, len(at), step)]
    return sums[0] if len(sums) == 1 else np.concatenate(sums)


@dataclass(frozen=True)
class Form:
    """A compiled form.

    Attributes:
        kind: `linear` or `trees`.
        steps: What it does to the rows first.
        head: What makes outputs of them.
        arrays: What `compiled.npz` holds.
        graph: What `compiled.onnx` holds.
    """

    kind: str
    steps: tuple[Step, ...]
    head: Callable[[Array], Arrays]
    arrays: Mapping[str, Array]
    graph: bytes | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, Array], graph: bytes | None = None) -> Form:
        """The form that has these arrays, and with a graph the form of trees."""
        head = LinearHead(arrays) if graph is None else TreeHead(arrays, graph)
        kind = "linear" if graph is None else "trees"
        return cls(kind, from_arrays(arrays), head, arrays, graph)

    def __call__(self, inputs: Arrays) -> Arrays:
        return self.head(apply(self.steps, inputs[MATRIX]))

    @property
    def native(self) -> None:
        """It has no object of a library's own."""

    def write(self, folder: Path) -> None:
        """Writes its files."""
        np.savez(folder / FILE, allow_pickle=False, **self.arrays)
        if self.graph is not None:
            (folder / GRAPH).write_bytes(self.graph)
