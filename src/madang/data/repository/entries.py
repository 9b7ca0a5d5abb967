"""What the repository finds: datasets, views, feature views, topics, models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("dataset", "view", "feature_view", "topic", "model")
"""The kinds of things, in the order in which equally good finds are listed."""


@dataclass(frozen=True)
class Column:
    """A column of a dataset or view, or a feature: its name, type and description, where known."""

    name: str
    type: str = ""
    description: str = ""


@dataclass(frozen=True)
class Entry:
    """One thing that a project has.

    Attributes:
        kind: One of `KINDS`.
        name: Its name; unique in its kind.
        description: What it is.
        owner: Whom to ask.
        tags: Anything else, by name.
        columns: In order; empty where there are none or they are not known.
        version: The newest version of a dataset or model; the definition's hash of a view.
    """

    kind: str
    name: str
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    version: str = ""


@dataclass(frozen=True)
class Match:
    """A find.

    Attributes:
        entry: What was found.
        score: How well it fits; comparable within one search.
        where: Where the words were found: `name`, `column delay`, `description`, `owner`, `tag team`.
    """

    entry: Entry
    score: float
    where: tuple[str, ...]
