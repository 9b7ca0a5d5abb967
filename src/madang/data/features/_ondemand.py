"""Views that are computed on demand: what stands in their definition, and how their function is called.

Training sets and online reads hand a function the same columns, in the types that the online store
gives, so that it can't tell one from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from madang.data.features._naming import outputs
from madang.data.features.contract import FeatureView, OnDemandView
from madang.errors import InvalidInputError, SchemaMismatchError

if TYPE_CHECKING:
    import pyarrow as pa


def check(view: OnDemandView) -> None:
    """Refuses a definition that can't work; its name was checked.

    Raises:
        InvalidInputError: Saying what is wrong and what is right.
    """
    import pyarrow as pa

    where = f"on-demand view {view.name!r}"
    typed: list[tuple[str, Any]] = [("features", view.features), ("request", view.request)]
    for what, named in typed:
        if not isinstance(named, Mapping) or not all(
            isinstance(name, str) and name and isinstance(type, pa.DataType)
            for name, type in named.items()
        ):
            raise InvalidInputError(f"{where}: {what} maps names to Arrow types, found {named!r}")
    if not view.features:
        raise InvalidInputError(f"{where}: it gives no features")
    inputs: Any = view.inputs
    if isinstance(inputs, str) or not all(isinstance(name, str) for name in inputs):
        raise InvalidInputError(
            f"{where}: inputs is a tuple of views or view:feature, found {inputs!r}"
        )
    if not view.inputs and not view.request:
        raise InvalidInputError(f"{where}: give inputs, request or both")
    if not callable(view.function):
        raise InvalidInputError(f"{where}: function must be one, found {view.function!r}")


def input_views(view: OnDemandView) -> list[str]:
    """The names of the stored views that it needs, in order."""
    return list(dict.fromkeys(name.partition(":")[0] for name in view.inputs))


def input_columns(
    view: OnDemandView, features: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, str]]:
    """For each input view, the features that are wanted and the columns that they become.

    Args:
        view: The on-demand view.
        features: All features of each input view, by its name.

    Raises:
        InvalidInputError: An input is not there, or is called as a column of the request.
    """
    named = outputs(features)
    wanted: dict[str, dict[str, str]] = {name: {} for name in features}
    for item in view.inputs:
        name, single, feature = item.partition(":")
        if single and feature not in named[name]:
            raise InvalidInputError(
                f"on-demand view {view.name!r} needs {item!r}, and the view {name!r} has no such "
                f"feature; it has: {', '.join(named[name])}"
            )
        wanted[name] |= {feature: named[name][feature]} if single else named[name]
    taken = sorted(set(view.request) & {c for names in wanted.values() for c in names.values()})
    if taken:
        raise InvalidInputError(
            f"on-demand view {view.name!r} has {', '.join(taken)} both as an input and in its "
            "request; rename one"
        )
    return wanted


def request_columns(
    view: OnDemandView, columns: Mapping[str, Any], count: int
) -> dict[str, pa.Array]:
    """The columns of the request, in the types that the view declares.

    Args:
        view: The on-demand view.
        columns: What came with the request: lists, or columns of the labels.
        count: How many rows there are, for a request of none.

    Raises:
        InvalidInputError: One is missing, or holds another type.
    """
    import pyarrow as pa

    found = {}
    for name, type in view.request.items():
        if name not in columns and count:
            raise InvalidInputError(
                f"on-demand view {view.name!r} needs the column {name!r} ({type}) with the "
                f"request; found: {', '.join(columns)}"
            )
        values = columns.get(name, ())
        try:
            found[name] = (
                values.cast(type)
                if isinstance(values, pa.ChunkedArray | pa.Array)
                else pa.array(values, type)
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InvalidInputError(
                f"on-demand view {view.name!r} needs {name!r} as {type}: {error}"
            ) from error
    return found


def as_online(view: OnDemandView, name: str, column: Any) -> Any:
    """A column of a history in the type that the same feature has when it is read online.

    Raises:
        InvalidInputError: It is a list, whose type only its values tell, or can't be online.
    """
    from madang.data.features._codec import arrow_type, kind_of

    kind = kind_of(column.type)
    type = None if kind is None else arrow_type(kind)
    if type is None:
        raise _unusable(view, name, str(column.type))
    return column.cast(type)


def check_kinds(view: OnDemandView, kinds: Mapping[str, str]) -> None:
    """Refuses inputs of kinds that have no type of their own."""
    for name, kind in kinds.items():
        if kind == "list":
            raise _unusable(view, name, kind)


def _unusable(view: OnDemandView, name: str, found: str) -> InvalidInputError:
    return InvalidInputError(
        f"on-demand view {view.name!r} can't take {name!r}, which is {found}; name the features "
        "that it needs one by one, as view:feature"
    )


def apply(view: OnDemandView, inputs: Mapping[str, Any], rows: int) -> pa.Table:
    """The features for the inputs, as the view declares them.

    Raises:
        SchemaMismatchError: The function gives something else; says what.
    """
    import pyarrow as pa

    where = f"the function of on-demand view {view.name!r}"
    try:
        result = view.function(pa.table(dict(inputs)))
    except Exception as error:
        error.add_note(f"in {where}, given {', '.join(inputs)}")
        raise
    if not hasattr(result, "__arrow_c_stream__"):
        raise SchemaMismatchError(
            f"{where} must return an Arrow table, found {type(result).__name__}"
        )
    table = result if isinstance(result, pa.Table) else pa.table(result)
    if table.num_rows != rows:
        raise SchemaMismatchError(
            f"{where} must give a row for each of {rows} rows, found {table.num_rows}"
        )
    for name, wanted in view.features.items():
        if name not in table.column_names:
            raise SchemaMismatchError(
                f"{where} must give {name!r}; found: {', '.join(table.column_names)}"
            )
        if table.schema.field(name).type != wanted:
            raise SchemaMismatchError(
                f"{where} must give {name!r} as {wanted}, found {table.schema.field(name).type}; "
                "cast it in the function"
            )
    return table.select(list(view.features))


class TrainingPlan:
    """Which columns a training set needs beside those that were asked for, and what is made of them.

    Args:
        resolved: The views that were asked for.
        named: Their features' names in the result.
        get: Gives a registered view.
    """

    def __init__(
        self,
        resolved: Sequence[FeatureView | OnDemandView],
        named: Mapping[str, Mapping[str, str]],
        get: Callable[[str], FeatureView],
    ) -> None:
        self._named = named
        self.demanded = [view for view in resolved if isinstance(view, OnDemandView)]
        self.stored = {view.name: view for view in resolved if isinstance(view, FeatureView)}
        self.columns = {name: dict(named[name]) for name in self.stored}
        self._inputs: list[dict[str, dict[str, str]]] = []
        for view in self.demanded:
            own = {name: self.stored.setdefault(name, get(name)) for name in input_views(view)}
            wanted = input_columns(view, {name: one.features for name, one in own.items()})
            self._inputs.append(wanted)
            for name, features in wanted.items():
                for feature in features:
                    # A column that no label and no feature can be called; dropped in the end.
                    hidden = f"\0{name}\0{feature}"
                    self.columns.setdefault(name, {}).setdefault(feature, hidden)

    def check_labels(self, labels: pa.Table) -> None:
        """Refuses labels that a demanded view can't be made for.

        Raises:
            InvalidInputError: They lack a column of a request, or have one called as a feature.
        """
        for view in self.demanded:
            request_columns(view, dict.fromkeys(labels.column_names, ()), 1)
            taken = sorted(set(self._named[view.name].values()) & set(labels.column_names))
            if taken:
                raise InvalidInputError(
                    f"on-demand view {view.name!r} gives {', '.join(taken)}, and the labels "
                    "already have such a column; rename or leave out one of them"
                )

    def finish(self, labels: pa.Table, joined: pa.Table) -> pa.Table:
        """The training set: with what is computed on demand, without what only that needed."""
        result = joined
        columns = {name: labels[name] for name in labels.column_names}
        for view, wanted in zip(self.demanded, self._inputs, strict=True):
            inputs = request_columns(view, columns, labels.num_rows)
            for name, features in wanted.items():
                for feature, column in features.items():
                    found = joined[self.columns[name][feature]]
                    inputs[column] = as_online(view, column, found)
            features = apply(view, inputs, labels.num_rows)
            for feature, column in self._named[view.name].items():
                result = result.append_column(column, features[feature])
        return result.select([name for name in result.column_names if not name.startswith("\0")])
