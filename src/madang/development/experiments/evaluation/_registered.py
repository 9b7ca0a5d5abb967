"""Evaluates models that are registered, on rows of a table; for the command line and for steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.development.experiments.evaluation._evaluate import evaluate
from madang.development.experiments.evaluation._values import Evaluation
from madang.errors import SchemaMismatchError

if TYPE_CHECKING:
    from madang.development.experiments.contract import ModelVersion, Registry
    from madang.development.experiments.formats import LoadedModel


def evaluate_registered(
    registry: Registry,
    model: str,
    table: pa.Table,
    label: str,
    *,
    compare: str | None = None,
    **options: Any,
) -> Evaluation:
    """Loads a version, and evaluates it on a table.

    Args:
        registry: Where the model is.
        model: `NAME@VERSION` or `NAME@ALIAS`; `NAME` alone is the newest version.
        table: The model's input columns, the label, and whatever slices and groups need.
        label: The column of what happened.
        compare: Another version to compare with: a number or an alias of the same model, or
            `NAME@VERSION` of another one.
        **options: Of `evaluate`.

    Raises:
        NotFoundError: There is no such model or version.
        SchemaMismatchError: The label or an input column is missing.
        InvalidInputError: As `evaluate`.
    """
    if label not in table.column_names:
        raise SchemaMismatchError(
            f"there is no column {label!r} to take as label; there are: "
            f"{', '.join(table.column_names)}"
        )
    loaded = load(registry, model)
    champion = None
    if compare is not None:
        own = model.partition("@")[0]
        champion = load(registry, compare if "@" in compare else f"{own}@{compare}")
    features = table.drop_columns([label])
    return evaluate(loaded, features, table[label], champion=champion, **options)


def keep_evaluation(
    registry: Registry, model: str, found: Evaluation, *, compare: str | None = None
) -> None:
    """Keeps an evaluation with the version that it is of; arguments as `evaluate_registered`."""
    version = _version(registry, model)
    other = None
    if compare is not None:
        own = model.partition("@")[0]
        other = _version(registry, compare if "@" in compare else f"{own}@{compare}").ref
    registry.set_evaluation(version.name, version.version, found, compared_with=other)


def _version(registry: Registry, model: str) -> ModelVersion:
    name, _, version = model.partition("@")
    return registry.get(name, version or None)


def load(registry: Registry, model: str) -> LoadedModel:
    """The version that `NAME@VERSION` or `NAME@ALIAS` means."""
    name, _, version = model.partition("@")
    return registry.load(name, version or None)
