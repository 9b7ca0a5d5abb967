"""What MLflow takes as names and values, and how many at once (mlflow.utils.validation)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

from madang.development.experiments.mlflow_messages import Pair, Point
from madang.errors import InvalidInputError

MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_ITEMS = 1000, 100, 100, 1000
MAX_PARAM, MAX_TAG = 6000, 8000
"""Longer values are cut, as MLflow's server cuts them."""

RUN_NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"

_NAME = re.compile(r"[/\w.\- :]{1,250}")


def check(what: str, names: Iterable[str]) -> None:
    """Raises `InvalidInputError` for a name that MLflow would not keep as a file's path."""
    for name in names:
        climbs = name == "." or name.startswith(("..", "/"))
        if not _NAME.fullmatch(name) or posixpath.normpath(name) != name or climbs:
            raise InvalidInputError(
                f"{what} has a name of 1 to 250 letters, digits, spaces, _ - . : and /, that is no "
                f"absolute path and has no empty part, . or ..; found {name!r}"
            )


def params(pairs: Sequence[Pair]) -> dict[str, str]:
    """Parameters by name.

    Raises:
        InvalidInputError: A name is not usable, or stands there twice with different values.
    """
    check("a parameter", (pair.key for pair in pairs))
    found: dict[str, str] = {}
    for pair in pairs:
        value = pair.value[:MAX_PARAM]
        if found.setdefault(pair.key, value) != value:
            raise InvalidInputError(
                f"the parameter {pair.key!r} stands in the request with two values"
            )
    return found


def tags(pairs: Sequence[Pair]) -> dict[str, str]:
    """Tags by name.

    Raises:
        InvalidInputError: A name is not usable.
    """
    check("a tag", (pair.key for pair in pairs))
    return {pair.key: pair.value[:MAX_TAG] for pair in pairs}


def check_batch(metrics: Sequence[Point], given: Sequence[Pair], labels: Sequence[Pair]) -> None:
    """Raises `InvalidInputError` for a batch with more than MLflow takes."""
    counts: Mapping[str, tuple[int, int]] = {
        "metrics": (len(metrics), MAX_METRICS),
        "params": (len(given), MAX_PARAMS),
        "tags": (len(labels), MAX_TAGS),
        "items in all": (len(metrics) + len(given) + len(labels), MAX_ITEMS),
    }
    for what, (found, limit) in counts.items():
        if found > limit:
            raise InvalidInputError(
                f"a batch has at most {limit} {what}, found {found}; send it in parts"
            )
