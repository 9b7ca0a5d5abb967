"""MLflow's filter language: text to clauses, checked against what can be searched.

Its grammar and names are those of mlflow.utils.search_utils (MLflow 3.17).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from madang.errors import InvalidInputError

Entity = Literal["attribute", "dataset", "metric", "param", "tag"]
Value = str | int | float | tuple[str, ...] | None

_ENTITIES: Mapping[str, Entity] = {
    "attr": "attribute",
    "attribute": "attribute",
    "attributes": "attribute",
    "dataset": "dataset",
    "datasets": "dataset",
    "metric": "metric",
    "metrics": "metric",
    "param": "param",
    "parameter": "param",
    "parameters": "param",
    "params": "param",
    "run": "attribute",
    "tag": "tag",
    "tags": "tag",
}
NUMERIC = ("=", "!=", "<", "<=", ">", ">=")
TEXT = ("=", "!=", "LIKE", "ILIKE")
LISTS = ("IN", "NOT IN")
NULLS = ("IS NULL", "IS NOT NULL")
_DATASET_KEYS = ("context", "digest", "name")

# What the databases can take, with room: SQLite's statements join 64 tables, have 32,766 values,
# and patterns of 50,000 bytes (https://sqlite.org/limits.html).
MAX_FILTER = 1_000_000
_MAX_CLAUSES = 100
_MAX_LISTED = 20_000
_MAX_PATTERN = 10_000
_MAX_ORDERS = 30
_SHOWN = 200

_SPACE = re.compile(r"\s*")
_PART = r"`[^`]+`|\"[^\"]+\""
_IDENTIFIER = re.compile(rf"(?:(?P<entity>\w+|`\w+`)\.)?(?P<key>{_PART}|[A-Za-z_][\w.]*)")
_OPERATOR = re.compile(
    r"<=|>=|!=|=|<|>|(?:NOT\s+IN|IN|LIKE|ILIKE|IS\s+NOT\s+NULL|IS\s+NULL)(?!\w)", re.IGNORECASE
)
_TEXT = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w)")
_AND = re.compile(r"AND(?!\w)", re.IGNORECASE)
_DIRECTION = re.compile(r"(ASC|DESC)(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Clause:
    """One comparison."""

    entity: Entity
    key: str
    operator: str
    value: Value


@dataclass(frozen=True)
class Order:
    """One key of an order."""

    entity: Entity
    key: str
    ascending: bool = True


@dataclass(frozen=True)
class Language:
    """What can be searched and ordered.

    Attributes:
        texts: Attributes that are texts.
        numbers: Attributes that are numbers or times in milliseconds.
        entities: What else than attributes a filter may name.
        ordered: What else than attributes an order may name.
        aliases: Other names of attributes.
    """

    texts: Collection[str]
    numbers: Collection[str]
    entities: tuple[Entity, ...] = ("tag",)
    ordered: tuple[Entity, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    def clauses(self, text: str) -> list[Clause]:
        """The comparisons of a filter, joined by AND.

        Raises:
            InvalidInputError: The filter can't be understood; says where and why.
        """
        found: list[Clause] = []
        if len(text) > MAX_FILTER:
            raise InvalidInputError(
                f"a filter has at most {MAX_FILTER:,} characters, found {len(text):,}"
            )
        if "\0" in text:
            raise _invalid(text, text.index("\0"), "a filter holds no NUL character")
        at = _skip(text, 0)
        while at < len(text):
            if len(found) == _MAX_CLAUSES:
                raise InvalidInputError(f"a filter has at most {_MAX_CLAUSES} comparisons")
            if found:
                and_ = _AND.match(text, at)
                if and_ is None:
                    raise _invalid(text, at, "comparisons are joined by AND alone")
                at = _skip(text, and_.end())
            clause, at = self._clause(text, at)
            found.append(clause)
            at = _skip(text, at)
        return found

    def _clause(self, text: str, at: int) -> tuple[Clause, int]:
        entity, key, at = self._identifier(text, at, ("attribute", *self.entities))
        at = _skip(text, at)
        match = _OPERATOR.match(text, at)
        if match is None:
            raise _invalid(text, at, f"a comparison of {key!r} is expected here")
        operator = re.sub(r"\s+", " ", match.group().upper())
        self._check_operator(entity, key, operator)
        at = _skip(text, match.end())
        if operator in NULLS:
            return Clause(entity, key, operator, None), at
        if operator in LISTS:
            texts, at = _list(text, at)
            return Clause(entity, key, operator, texts), at
        if self._is_numeric(entity, key):
            number, at = _number(text, at, key)
            # A metric is a float, whatever the database would make of a large integer.
            exact = float(number) if entity == "metric" else number
            return Clause(entity, key, operator, exact), at
        value, at = _text(text, at, key)
        if operator in ("LIKE", "ILIKE") and len(value) > _MAX_PATTERN:
            raise InvalidInputError(
                f"a pattern of {operator} has at most {_MAX_PATTERN:,} characters, that of {key!r} "
                f"has {len(value):,}"
            )
        return Clause(entity, key, operator, value), at

    def _identifier(
        self, text: str, at: int, allowed: Collection[Entity]
    ) -> tuple[Entity, str, int]:
        match = _IDENTIFIER.match(text, at)
        if match is None or match["key"].endswith("."):
            raise _invalid(
                text, at, "a name is expected here, such as metrics.loss or params.`my name`"
            )
        entity: Entity = "attribute"
        if match["entity"]:
            named = match["entity"].strip("`")
            if named not in _ENTITIES or _ENTITIES[named] not in allowed:
                names = sorted(n for n, e in _ENTITIES.items() if e in allowed)
                raise InvalidInputError(
                    f"Invalid entity type {named!r}. Valid values are {', '.join(names)}"
                )
            entity = _ENTITIES[named]
        key = match["key"]
        key = key[1:-1] if key[0] in '`"' else key
        if entity == "attribute":
            key = self._attribute(key)
        if entity == "dataset" and key not in _DATASET_KEYS:
            raise InvalidInputError(
                f"Invalid dataset key {key!r}. Valid keys are {', '.join(_DATASET_KEYS)}"
            )
        return entity, key, match.end()

    def _attribute(self, key: str) -> str:
        key = self.aliases.get(key, key)
        if key not in self.texts and key not in self.numbers:
            valid = ", ".join(sorted({*self.texts, *self.numbers}))
            raise InvalidInputError(f"Invalid attribute key {key!r}. Valid keys are {valid}")
        return key

    def _is_numeric(self, entity: Entity, key: str) -> bool:
        return entity == "metric" or (entity == "attribute" and key in self.numbers)

    def _check_operator(self, entity: Entity, key: str, operator: str) -> None:
        if self._is_numeric(entity, key):
            valid: tuple[str, ...] = NUMERIC
        elif entity in ("param", "tag"):
            valid = (*TEXT, *NULLS)
        else:
            valid = (*TEXT, *LISTS)
        if operator not in valid:
            raise InvalidInputError(
                f"Invalid comparator {operator!r} for {entity} {key!r}; it takes {', '.join(valid)}"
            )

    def orders(self, texts: Sequence[str]) -> list[Order]:
        """The keys of an order.

        Raises:
            InvalidInputError: A key can't be understood, or stands there twice.
        """
        if len(texts) > _MAX_ORDERS:
            raise InvalidInputError(f"an order has at most {_MAX_ORDERS} keys, found {len(texts)}")
        found = [self._order(text) for text in texts]
        if len({(order.entity, order.key) for order in found}) < len(found):
            raise InvalidInputError(
                f"`order_by` contains duplicate fields: {_shown(', '.join(texts))}"
            )
        return found

    def _order(self, text: str) -> Order:
        entity, key, at = self._identifier(text, _skip(text, 0), ("attribute", *self.ordered))
        at = _skip(text, at)
        match = _DIRECTION.match(text, at)
        if match:
            at = _skip(text, match.end())
        if at < len(text):
            raise InvalidInputError(
                f"Invalid order_by clause {_shown(text)}. Write a name and ASC or DESC, such as "
                "metrics.loss DESC"
            )
        return Order(entity, key, match is None or match[1].upper() == "ASC")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _invalid(text: str, at: int, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"Invalid clause(s) in filter string: {_shown(text[at:] or 'its end')} at {at} of "
        f"{_shown(text)}: {why}"
    )


def _shown(text: str) -> str:
    """A text as errors show it: not all of a long one."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _text(text: str, at: int, key: str) -> tuple[str, int]:
    match = _TEXT.match(text, at)
    if match is None:
        raise _invalid(text, at, f"Expected a quoted string value for {key!r} (e.g. 'my-value')")
    value = match.group()
    inner = value[1:-1]
    return (inner.replace("''", "'") if value[0] == "'" else inner), match.end()


def _number(text: str, at: int, key: str) -> tuple[int | float, int]:
    match = _NUMBER.match(text, at)
    if match is None:
        raise _invalid(text, at, f"Expected numeric value type for {key!r}")
    value = match.group()
    number = int(value) if re.fullmatch(r"[+-]?\d{1,18}", value) else float(value)
    return number, match.end()


def _list(text: str, at: int) -> tuple[tuple[str, ...], int]:
    if text[at : at + 1] != "(":
        raise _invalid(text, at, "a list of quoted string values in parentheses is expected here")
    values: list[str] = []
    at = _skip(text, at + 1)
    while True:
        value, at = _text(text, at, "a list")
        values.append(value)
        if len(values) > _MAX_LISTED:
            raise InvalidInputError(f"a list has at most {_MAX_LISTED:,} values; search in parts")
        at = _skip(text, at)
        if text[at : at + 1] == ")":
            return tuple(values), at + 1
        if text[at : at + 1] != ",":
            raise _invalid(text, at, "`,` or `)` is expected here")
        at = _skip(text, at + 1)
