"""Views: named queries and table functions, kept with the project's code.

A project keeps them in `views/`: one file `views/NAME.sql` for each query, with what describes it in
a comment at its top, and functions under `@view` in `views/*.py`.

    -- description: Delays of each carrier and day.
    -- owner: data team
    -- tags: team=delays, tier=gold
    SELECT carrier, day, avg(delay) AS delay FROM flights GROUP BY carrier, day

A definition's hash covers all that decides its rows: the SQL text, or the function's code with what
that code refers to; not the description, owner and tags.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from madang.data.features.definitions import fingerprint, load_module
from madang.errors import AlreadyExistsError, InvalidInputError
from madang.ledger import canonical

Per = Literal["tables", "batch", "streams"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_COMMENT = re.compile(r"--\s*(\w+)\s*:\s*(.*)")
_KEYS = ("description", "into", "owner", "tags")


@dataclass(frozen=True)
class View:
    """A named query or table function over datasets and other views.

    Attributes:
        name: What queries call it; no dataset may have this name.
        sql: One SELECT; or
        function: a table function over `sources`; see `Processing.apply` for what it is given.
        per: How the function takes its sources: all at once (`"tables"`), batch by batch
            (`"batch"`), or as streams (`"streams"`).
        sources: The datasets and views that the function reads (for `sql` they are found in it).
        schema: The columns that the function gives, if it says so: then they are checked, and
            queries over the view have a lineage by column.
        into: The dataset that it is materialized into; default: `NAME_materialized`.
        description: For people.
        owner: Whom to ask.
        tags: Anything else, by name.
    """

    name: str
    sql: str | None = None
    function: Callable[..., Any] | None = None
    per: Per = "tables"
    sources: tuple[str, ...] = ()
    schema: pa.Schema | None = None
    into: str = ""
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The dataset that it is materialized into."""
        return self.into or f"{self.name}_materialized"


def view(
    *sources: str,
    name: str | None = None,
    per: Per = "tables",
    schema: pa.Schema | None = None,
    into: str = "",
    description: str = "",
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], View]:
    """Makes a table function a view; arguments as the attributes of `View`.

    The name is the function's, and the description is the first line of its docstring, unless
    they are given.
    """

    def make(function: Callable[..., Any]) -> View:
        text = (function.__doc__ or "").strip().partition("\n")[0]
        return View(
            name=name or function.__name__,
            function=function,
            per=per,
            sources=sources,
            schema=schema,
            into=into,
            description=description or text,
            owner=owner,
            tags=dict(tags or {}),
        )

    return make


def check(one: View) -> None:
    """Refuses a definition that can't work.

    Raises:
        InvalidInputError: Saying what is wrong and what is right.
    """
    where = f"view {one.name!r}"
    if not isinstance(one.name, str) or not _NAME.fullmatch(one.name):
        raise InvalidInputError(
            f"{where}: a name starts with a letter and has letters, digits and _, at most 63"
        )
    if (one.sql is None) == (one.function is None):
        raise InvalidInputError(f"{where}: give either sql or a function")
    if one.function is not None and not one.sources:
        raise InvalidInputError(f"{where}: name the datasets that its function reads")
    if one.per not in ("tables", "batch", "streams"):
        raise InvalidInputError(f"{where}: per is 'tables', 'batch' or 'streams', not {one.per!r}")
    if one.per == "batch" and len(one.sources) != 1:
        raise InvalidInputError(
            f"{where}: a function per batch reads one source, found {', '.join(one.sources)}; "
            "join them in SQL first, or take tables"
        )
    if one.dataset == one.name:
        raise InvalidInputError(f"{where}: into must be another name than the view's own")


def describe(one: View) -> dict[str, Any]:
    """The definition as JSON; a function by the fingerprint of its code."""
    return {
        "name": one.name,
        "sql": one.sql,
        "function": None if one.function is None else fingerprint(one.function),
        "per": one.per,
        "sources": list(one.sources),
        "schema": None if one.schema is None else str(one.schema.remove_metadata()),
        "into": one.into,
        "description": one.description,
        "owner": one.owner,
        "tags": dict(one.tags),
    }


def hash_of(one: View) -> str:
    """16 hex digits that name what decides the view's rows."""
    definition = describe(one)
    for key in ("description", "owner", "tags", "into"):
        del definition[key]
    return hashlib.sha256(canonical(definition)).hexdigest()[:16]


def load(folder: Path) -> dict[str, tuple[View, Path]]:
    """The views that the files of `folder` define, by name, with their files.

    Raises:
        InvalidInputError: A file can't be read, or a view in it can't work; names the file.
        AlreadyExistsError: Two views have one name; names both files.
    """
    found: dict[str, tuple[View, Path]] = {}
    for file in sorted([*folder.glob("*.sql"), *folder.glob("*.py")]):
        for one in [read_sql(file)] if file.suffix == ".sql" else _in_module(file):
            try:
                check(one)
            except InvalidInputError as error:
                raise InvalidInputError(f"{file}: {error}") from error
            if one.name in found:
                raise AlreadyExistsError(
                    f"{file}: a view {one.name!r} is already defined in {found[one.name][1]}; "
                    "rename one of them"
                )
            found[one.name] = (one, file)
    return found


def _in_module(file: Path) -> Sequence[View]:
    values = vars(load_module(file)).values()
    return list({id(value): value for value in values if isinstance(value, View)}.values())


def read_sql(file: Path) -> View:
    """The view of a `.sql` file: its name is the file's.

    Raises:
        InvalidInputError: It is not UTF-8, or its comment says something unknown.
    """
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8: {error}") from error
    said, lines = dict.fromkeys(_KEYS, ""), text.splitlines()
    while lines and (match := _COMMENT.fullmatch(lines[0].strip())):
        key = match[1].casefold()
        if key not in said:
            raise InvalidInputError(
                f"{file}: unknown {key!r} in its comment; known are: {', '.join(_KEYS)}"
            )
        said[key] = match[2].strip()
        lines.pop(0)
    return View(
        name=file.stem,
        sql="\n".join(lines).strip().rstrip(";").rstrip(),
        into=said["into"],
        description=said["description"],
        owner=said["owner"],
        tags=_tags(said["tags"], file),
    )


def _tags(text: str, file: Path) -> dict[str, str]:
    tags = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        key, separator, value = part.partition("=")
        if not separator or not key.strip():
            raise InvalidInputError(f"{file}: tags are written as name=value, …; found {part!r}")
        tags[key.strip()] = value.strip()
    return tags
