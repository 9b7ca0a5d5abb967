"""Rego's syntax tree, as far as the embedded engine has it.

`owned` names the variables that belong to a nested body alone; resolution fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, Union


@dataclass(frozen=True)
class Const:
    """A scalar."""

    value: Any


@dataclass(frozen=True)
class Var:
    """A name: a local variable, or after resolution none but those."""

    name: str


@dataclass(frozen=True)
class Ref:
    """`head[path]…`; the head `Var("data")` or `Var("input")` is global after resolution."""

    head: Term
    path: tuple[Term, ...]


@dataclass(frozen=True)
class Array:
    """`[…]`."""

    items: tuple[Term, ...]


@dataclass(frozen=True)
class Object:
    """`{…: …}`."""

    items: tuple[tuple[Term, Term], ...]


@dataclass(frozen=True)
class SetOf:
    """`{…}` or `set()`."""

    items: tuple[Term, ...]


@dataclass(frozen=True)
class Call:
    """A builtin's or a function's call; operators have the names that OPA gives them."""

    name: tuple[str, ...]
    args: tuple[Term, ...]
    line: int = 0


@dataclass(frozen=True)
class Comprehension:
    """`[value | body]`, `{value | body}` or `{key: value | body}`."""

    kind: Literal["array", "set", "object"]
    key: Term | None
    value: Term
    body: tuple[Statement, ...]
    owned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Virtual:
    """What the rules of one name give, by the name's whole path; made by resolution."""

    path: tuple[str, ...]


Term: TypeAlias = Union[Const, Var, Ref, Array, Object, SetOf, Call, Comprehension, Virtual]  # noqa: UP007 - names classes further down


@dataclass(frozen=True)
class Holds:
    """A term that must be neither undefined nor false."""

    term: Term


@dataclass(frozen=True)
class Unify:
    """`left = right`, and `left := right` when `declares`."""

    left: Term
    right: Term
    declares: bool = False


@dataclass(frozen=True)
class Some:
    """`some x, y`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class SomeIn:
    """`some key, value in domain`."""

    key: Term | None
    value: Term
    domain: Term


@dataclass(frozen=True)
class Every:
    """`every key, value in domain { body }`."""

    key: str | None
    value: str
    domain: Term
    body: tuple[Statement, ...]
    owned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Not:
    """`not …`, whose expression may have become several."""

    body: tuple[Statement, ...]
    owned: frozenset[str] = frozenset()


Node: TypeAlias = Holds | Unify | Some | SomeIn | Every | Not


@dataclass(frozen=True)
class Statement:
    """One expression of a body.

    Attributes:
        withs: What `input` or `data` is replaced by while it is evaluated: target and value.
    """

    node: Node
    line: int
    withs: tuple[tuple[Ref, Term], ...] = ()


@dataclass(frozen=True)
class Branch:
    """A body and what the rule is if it holds; the first, or one of `else`."""

    key: Term | None
    value: Term
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Rule:
    """One rule as written.

    Attributes:
        path: Its name: one part, or several for `a.b.c`.
        kind: Whether it gives a value, a set's member, an object's, or a function's value.
        args: A function's.
    """

    path: tuple[str, ...]
    kind: Literal["complete", "set", "object", "function"]
    args: tuple[Term, ...]
    branches: tuple[Branch, ...]
    is_default: bool
    line: int


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        package: Without `data`.
        imports: Name to what it stands for.
    """

    file: str
    package: tuple[str, ...]
    imports: dict[str, Ref] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
