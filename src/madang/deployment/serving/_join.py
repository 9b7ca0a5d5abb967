"""Features that a worker reads by entity and hands to the model, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from madang.deployment.serving._state import WantedFeatures
from madang.development.experiments._tensors import DATATYPES, MATRIX, Array, Arrays
from madang.development.experiments.contract import TensorSpec
from madang.errors import InvalidInputError, MadangError, UnavailableError

if TYPE_CHECKING:
    from madang.data.features import OnlineStore
    from madang.data.features.definitions import AnyView
    from madang.data.features.reader import OnlineReader

Find = Callable[[str, str], "AnyView"]
"""The definition of a view's name and hash."""

_KEYS = {
    "bool": "BOOL", "date": "BYTES", "float32": "FP64", "float64": "FP64", "string": "BYTES",
    "timestamp": "BYTES",
}  # fmt: skip
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
}


class Answer(dict[str, Array]):
    """A prediction's outputs, with the feature values that it was made from.

    Attributes:
        features: Column to values, and `VIEW__timestamp` since when they are known.
    """

    features: Arrays

    @classmethod
    def of(cls, outputs: Mapping[str, Array], features: Arrays) -> Answer:
        """The outputs with their features."""
        made = cls(outputs)
        made.features = features
        return made

    def rows(self, start: int, end: int) -> Answer:
        """Some rows of it."""
        return Answer.of(
            {name: array[start:end] for name, array in self.items()},
            {name: array[start:end] for name, array in self.features.items()},
        )


class Join:
    """Reads features and makes a model's inputs of them. Safe for many threads.

    Attributes:
        inputs: What the client sends.
        computes: Whether a read calls functions of the project.
    """

    def __init__(
        self,
        wanted: WantedFeatures,
        online: OnlineStore,
        find: Find,
        inputs: Sequence[TensorSpec],
        columns: Sequence[str],
    ) -> None:
        """Checks that the views have what the model takes.

        Args:
            wanted: Which features.
            online: Where they are.
            find: See `Find`.
            inputs: What the model takes.
            columns: The names of its matrix input's columns.

        Raises:
            NotFoundError: Nothing of a view is online, or it has no such feature.
            InvalidInputError: A column of the model is in no view, or of another type.
        """
        self._wanted, self._specs = wanted, tuple(inputs)
        self._columns = tuple(columns)
        self._online = online
        self._reader = _reader(wanted, online, find)
        self.computes = self._reader.computes
        self._views = list(dict.fromkeys(self._reader.origins.values()))
        self._taken = self._covered()
        self._entity = self._reader.entity
        own = {spec.name: spec for spec in self._specs}
        self.inputs = (
            *(
                TensorSpec(name, _datatype(name, kind), (-1,))
                for name, kind in self._entity.items()
            ),
            *(
                own.get(name) or TensorSpec(name, "FP64", (-1,))
                for name in wanted.request
                if name not in self._entity
            ),
        )

    def _covered(self) -> dict[str, str]:
        """Each column that the model takes, and the datatype that it has there."""
        needed: dict[str, str] = {}
        for spec in self._specs:
            if spec.name == MATRIX and len(spec.shape) == 2:
                if len(self._columns) != spec.shape[1]:
                    raise InvalidInputError(
                        "the model's columns have no names, so that no features can be joined to "
                        "them; register it with a table as example, fitted on named columns"
                    )
                needed |= dict.fromkeys(self._columns, "FP64")
            else:
                needed[spec.name] = spec.datatype
        given = [*self._reader.origins, *self._wanted.request]
        lacking = [name for name in needed if name not in given]
        if lacking:
            raise InvalidInputError(
                f"the model takes {', '.join(lacking)}, which no view gives; the views give "
                f"{', '.join(self._reader.origins)}; name what the client sends in request"
            )
        useless = [name for name in self._wanted.request if name not in needed]
        if useless:
            raise InvalidInputError(
                f"request names {', '.join(useless)}, which the model does not take; it takes "
                f"{', '.join(needed)}"
            )
        for name, kind in self._reader.kinds.items():
            if name in needed and not _fits(kind, needed[name]):
                raise InvalidInputError(
                    f"the feature {name!r} of view {self._reader.origins[name]!r} is of type "
                    f"{kind}, and the model takes {needed[name]}"
                )
        return needed

    def __call__(self, sent: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
        """The model's inputs, and the features as used, with since when they are known.

        Raises:
            InvalidInputError: A key is of another type; or a value is missing that must not be.
            UnavailableError: The features can't be read now.
        """
        keys = {name: _keys(name, kind, sent[name]) for name, kind in self._entity.items()}
        try:
            found = self._reader.arrays(keys, freshness=True)
        except InvalidInputError:
            raise
        except MadangError as error:
            raise UnavailableError(f"the features can't be read: {error}") from error
        self._check_there(found)
        columns = {
            name: sent[name] if name in self._wanted.request else self._values(name, found[name])
            for name in self._taken
        }
        inputs = {
            spec.name: np.column_stack([columns[name] for name in self._columns])
            if spec.name == MATRIX and len(spec.shape) == 2
            else columns[spec.name]
            for spec in self._specs
        }
        used = {name: found[name] for name in self._taken if name not in self._wanted.request}
        used |= {f"{view}__timestamp": found[f"{view}__timestamp"] for view in self._views}
        return inputs, used

    def _check_there(self, found: Arrays) -> None:
        """Tells a view that is gone from one that knows none of the entities."""
        for view in self._views:
            if np.isnat(found[f"{view}__timestamp"]).all() and self._online.describe(view) is None:
                raise UnavailableError(
                    f"nothing of the view {view!r} is online any more; materialize it, or deploy "
                    "the endpoint without it"
                )

    def _values(self, name: str, array: Array) -> Array:
        """A feature as the datatype that the model takes."""
        kind = np.dtype(DATATYPES[self._taken[name]]).kind
        missing = _missing(array)
        if missing.any() and (kind != "f" or self._wanted.on_missing == "error"):
            row = int(missing.argmax())
            view = self._reader.origins[name]
            raise InvalidInputError(
                f"the feature {name!r} of view {view!r} is not known for row {row}, or older than "
                "the view's ttl"
                + ("" if kind == "f" else f"; the model's {self._taken[name]} has no NaN")
            )
        return array.astype(np.str_ if kind == "U" else DATATYPES[self._taken[name]])


def _reader(wanted: WantedFeatures, online: OnlineStore, find: Find) -> OnlineReader:
    from madang.data.features._demand_reader import open_reader

    asked = parsed(wanted.columns)
    exact = [f"{view}@{wanted.pinned[view]}" if view in wanted.pinned else view for view in asked]
    everything = open_reader(online, exact, None, find)
    chosen = []
    for view, features in asked.items():
        names = everything.named[view]
        unknown = [feature for feature in features if feature not in names]
        if unknown:
            raise InvalidInputError(
                f"the view {view!r} has no feature {unknown[0]!r}; features: {', '.join(names)}"
            )
        chosen += [names[feature] for feature in features or names]
    return open_reader(online, exact, chosen, find)


def parsed(columns: Sequence[str]) -> dict[str, list[str]]:
    """View to its features; to none where all are meant."""
    found: dict[str, list[str]] = {}
    for reference in columns:
        view, _, feature = reference.partition(":")
        if not view or (reference.endswith(":")):
            raise InvalidInputError(f"features are VIEW or VIEW:FEATURE: {reference!r}")
        known = found.get(view)
        if known is not None and (not known or not feature):
            raise InvalidInputError(f"name the view {view!r} once, or each of its features")
        found.setdefault(view, []).extend([feature] if feature else [])
    if not found:
        raise InvalidInputError("features name at least one view")
    return found


def _missing(array: Array) -> Array:
    if array.dtype == object:
        return np.array([value is None for value in array.tolist()])
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(len(array), bool)


def _datatype(name: str, kind: str) -> str:
    if kind.startswith(("int", "uint")):
        return "INT64"
    if kind not in _KEYS:
        raise InvalidInputError(
            f"the entity column {name!r} is of type {kind}, which the protocol can't carry"
        )
    return _KEYS[kind]


def _fits(kind: str, datatype: str) -> bool:
    """Whether a feature of that kind can be an input of that datatype."""
    target = np.dtype(DATATYPES[datatype]).kind
    if target == "U":
        return kind == "string"
    whole = kind.startswith(("int", "uint"))
    if target == "f":
        return whole or kind == "bool" or kind.startswith("float")
    return whole if target in "iu" else kind == "bool"


def _keys(name: str, kind: str, array: Array) -> list[Any]:
    values: list[Any] = array.tolist()
    convert = _FROM_TEXT.get(kind)
    if convert is None:
        return values
    try:
        return [convert(value) for value in values]
    except ValueError as error:
        raise InvalidInputError(f"{name!r} is a {kind} in ISO 8601: {error}") from error
