"""scikit-learn estimators and pipelines, stored by skops: a zip of JSON and arrays, no pickle."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.base import is_classifier
from sklearn.feature_extraction.text import _VectorizerMixin
from skops.io.exceptions import UnsupportedTypeException

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import MATRIX, Arrays, from_example
from madang.development.experiments.formats import Format, Predictor
from madang.errors import (
    IntegrityError,
    InvalidInputError,
    MissingDependencyError,
    UnsafeModelError,
)

_FILE = "model.skops"

TRUSTED = frozenset(
    {
        "functools.partial",  # of what is trusted itself
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils.validation.check_array",
    }
)
"""Types beyond skops' own list that are always loaded: scikit-learn's containers of fitted numbers
and its check of an input, which call nothing that the file names."""

LIGHTGBM = frozenset(
    {
        "collections.OrderedDict",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRanker",
        "lightgbm.sklearn.LGBMRegressor",
    }
)
"""What MLflow keeps a LightGBM estimator in. The booster's text is all that is taken from it."""

_DAMAGED = (
    AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, RecursionError,
    TypeError, ValueError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What skops raises when a file is not what it wrote."""
_SMALL_BYTES = 64 << 20
_EXPANSION = 100

# Their `predict` is the class of the largest `predict_proba`, so that one call gives both outputs.
_ARGMAX = frozenset(
    {
        "DecisionTreeClassifier", "ExtraTreesClassifier", "GaussianNB",
        "HistGradientBoostingClassifier", "LogisticRegression", "RandomForestClassifier",
    }
)  # fmt: skip


class SkopsFormat(Format):
    """Fitted scikit-learn estimators and pipelines."""

    packages = ("polars", "scikit-learn", "skops")  # Polars carries the columns' names

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        return from_example(example, feature_names(model))

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        return SklearnPredictor(model, columns)

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        _refuse_readers_of_files(model)
        try:
            skops.io.dump(model, folder / _FILE)
        except UnsupportedTypeException as error:
            raise InvalidInputError(f"skops can't store this model: {error}") from error
        _canonicalize(folder / _FILE)
        _refuse_untrusted(folder / _FILE, trusted)
        classes = getattr(model, "classes_", None)
        return {} if classes is None else {"classes": np.asarray(classes).tolist()}

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        return SklearnPredictor(load_skops(folder / _FILE, trusted), manifest.columns)

    def compile(
        self, model: Any, folder: Path, inputs: Arrays, parity: Arrays | None
    ) -> dict[str, Any]:
        from madang.development.experiments._compile import compile_sklearn

        return compile_sklearn(model, folder, inputs, parity)


class SklearnPredictor:
    """Calls an estimator; safe for many threads, because predicting changes nothing in it."""

    def __init__(self, model: Any, columns: tuple[str, ...]) -> None:
        self.native = model
        self._columns = columns if feature_names(model) else ()
        last = model.steps[-1][1] if hasattr(model, "steps") else model
        self._proba = is_classifier(model) and hasattr(model, "predict_proba")
        self._argmax = (
            self._proba
            and type(last).__module__.startswith("sklearn.")
            and type(last).__name__ in _ARGMAX
            and np.ndim(model.classes_) == 1
        )

    def __call__(self, inputs: Arrays) -> Arrays:
        rows = self.rows(inputs)
        try:
            outputs = self._predict(rows)
        except (ValueError, TypeError) as error:
            raise InvalidInputError(f"the model can't take these inputs: {error}") from error
        return {key: _plain(value) for key, value in outputs.items()}

    def _predict(self, rows: Any) -> Arrays:
        if not self._proba:
            return {"predict": self.native.predict(rows)}
        proba = self.native.predict_proba(rows)
        if isinstance(proba, list):  # one array for each of several targets
            return {"predict": self.native.predict(rows)}
        labels = (
            self.native.classes_[np.argmax(proba, axis=1)]
            if self._argmax
            else self.native.predict(rows)
        )
        return {"predict": labels, "predict_proba": proba}

    def rows(self, inputs: Arrays) -> Any:
        """The inputs as what the estimator was fitted on: a matrix, or a table with its columns."""
        if not self._columns and MATRIX in inputs:
            return inputs[MATRIX]
        # Polars is in the core install and scikit-learn reads column names from it; pandas isn't.
        import polars as pl

        if MATRIX in inputs and len(inputs) == 1:
            return pl.DataFrame(inputs[MATRIX], schema=list(self._columns))
        return pl.DataFrame(dict(inputs))


def _canonicalize(path: Path) -> None:
    """Rewrites a skops file without times and memory addresses, so that equal models are equal.

    skops names each object, and the array that belongs to it, by its address (`id`); only their
    being the same or not has a meaning.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}

    def renumber(node: dict[str, Any]) -> dict[str, Any]:
        if isinstance(node.get("__id__"), int):
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
        if node.get("file") in members:
            old = node["file"]
            node["file"] = names.setdefault(old, f"{len(names) + 1}{Path(old).suffix}")
        return node

    schema = json.loads(members.pop("schema.json"), object_hook=renumber)
    content = {"schema.json": json.dumps(schema, indent=1).encode()}
    content |= {names[old]: data for old, data in members.items() if old in names}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in sorted(content.items()):
            archive.writestr(zipfile.ZipInfo(name), data)  # its date is always 1980


def _plain(array: Any) -> Any:
    array = np.asarray(array)
    return array.astype(np.str_) if array.dtype == object else array


def feature_names(model: Any) -> tuple[str, ...]:
    """The columns that an estimator was fitted on; empty when they had no names."""
    return tuple(str(name) for name in getattr(model, "feature_names_in_", ()))


def load_skops(file: Path, trusted: Iterable[str] = ()) -> Any:
    """What a skops file holds, if all its types are trusted.

    Raises:
        UnsafeModelError: Some are not; lists them.
        IntegrityError: The file is damaged, or would expand to more than its size explains.
    """
    try:
        _refuse_bomb(file)
        _refuse_untrusted(file, trusted)
        return skops.io.load(file, trusted=sorted(TRUSTED | set(trusted)))
    except UnsafeModelError:
        raise
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        raise MissingDependencyError(f"the model in {file.name}", module, module) from error
    except _DAMAGED as error:
        raise IntegrityError(f"{file.name} can't be read by skops: {error!r}") from error


def _refuse_bomb(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        expanded = sum(member.file_size for member in archive.infolist())
    if expanded > max(_SMALL_BYTES, _EXPANSION * file.stat().st_size):
        raise IntegrityError(
            f"{file.name} has {file.stat().st_size} bytes and says that it expands to {expanded}; "
            "it is not read: no model is so repetitive"
        )


def _refuse_readers_of_files(model: Any) -> None:
    """Raises `UnsafeModelError` for vectorizers that open the files which a request names."""
    for part in _parts(model):
        if isinstance(part, _VectorizerMixin) and part.input in ("filename", "file"):
            raise UnsafeModelError(
                f"the model's {type(part).__name__} with input={part.input!r} opens the files that "
                "a request names; fit it on the texts themselves (input='content')"
            )


def _parts(model: Any) -> Iterator[Any]:
    """An estimator and all that it holds: fitted parts need not be those of its parameters."""
    seen: dict[int, Any] = {}  # which are kept, so that no number is given twice
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | None):
            continue
        seen[id(part)] = part
        yield part
        if isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else []
        elif isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += part
        else:
            waiting += getattr(part, "__dict__", {}).values()


def _refuse_untrusted(file: Path, trusted: Iterable[str]) -> None:
    """Raises `UnsafeModelError` for types that are neither skops', nor ours, nor the caller's."""
    found = set(skops.io.get_untrusted_types(file=file)) - TRUSTED - set(trusted)
    if found:
        names = sorted(found)
        raise UnsafeModelError(
            f"the model holds types that are not trusted to load: {', '.join(names)}; if you know "
            f"what their code does, allow them: register(…, trusted={names})"
        )
