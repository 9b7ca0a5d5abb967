"""Orders a body so that every variable has a value where it is needed, as OPA does.

What can't be ordered is refused: an unsafe variable would leave its rule undefined, and a rule that
was to deny would be silent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from madang.errors import InvalidInputError
from madang.security.policy.rego.resolve import all_vars, pattern_names
from madang.security.policy.rego.syntax import (
    Array,
    Call,
    Comprehension,
    Every,
    Holds,
    Node,
    Not,
    Object,
    Ref,
    SetOf,
    SomeIn,
    Statement,
    Term,
    Unify,
    Var,
)

Names = frozenset[str]


@dataclass(frozen=True)
class Plan:
    """A statement and the variables that have a value before it."""

    statement: Statement
    bound: Names


def ordered(body: Iterable[Statement], bound: Names, file: str) -> tuple[list[Plan], Names]:
    """The body's statements in an order in which each can be evaluated, and what is bound at last.

    Raises:
        InvalidInputError: There is no such order.
    """
    left, found = list(body), list[Plan]()
    while left:
        for statement in left:
            ready = _ready(statement, bound)
            if ready is not None:
                node, gives = ready
                found.append(Plan(Statement(node, statement.line, statement.withs), bound))
                bound |= gives
                left.remove(statement)
                break
        else:
            first = left[0]
            names = sorted({name.partition("#")[0] for name in _all(first) - bound})
            shown = [name for name in names if name not in ("ref", "key", "_")]
            raise InvalidInputError(
                f"{file}:{first.line}: unsafe: nothing gives a value to "
                f"{', '.join(shown) or 'a variable of this expression'}"
            )
    return found, bound


def check_bound(terms: Iterable[Term | None], bound: Names, file: str, line: int) -> None:
    """Raises `InvalidInputError` where a rule's head has a variable without a value."""
    for term in terms:
        if term is not None:
            for name in free(term) - bound:
                raise InvalidInputError(
                    f"{file}:{line}: unsafe: nothing gives a value to {name.partition('#')[0]}"
                )


def _all(statement: Statement) -> Names:
    return frozenset(all_vars([statement]))


def free(item: Term | Node | Statement) -> Names:
    """The variables that must have a value from outside, if nothing in `item` is enumerated."""
    found = frozenset(all_vars([item]))
    return found - _owned(item)


def _owned(item: object) -> Names:
    if isinstance(item, tuple):
        return frozenset().union(*map(_owned, item))
    if not hasattr(item, "__dataclass_fields__"):
        return frozenset()
    own = item.owned if isinstance(item, Comprehension | Every | Not) else frozenset()
    return own.union(*map(_owned, vars(item).values()))


def _ready(statement: Statement, bound: Names) -> tuple[Node, Names] | None:
    """The node as it can be evaluated now and what it gives a value to; `None`: it can't."""
    if any(free(value) - bound for _, value in statement.withs):
        return None
    node = statement.node
    if isinstance(node, Holds):
        return (node, _outputs(node.term)) if not _needs(node.term) - bound else None
    if isinstance(node, Unify):
        for one in (node, Unify(node.right, node.left)):
            if isinstance(one.left, Ref) and any(isinstance(step, Var) for step in one.left.path):
                continue
            if not (_needs(one.right) | _fixed(one.left)) - bound:
                return one, _outputs(one.right) | frozenset(pattern_names(one.left))
        return None
    if isinstance(node, SomeIn):
        patterns = [term for term in (node.key, node.value) if term is not None]
        needs = free(node.domain).union(*map(_fixed, patterns))
        gives = frozenset(name for term in patterns for name in pattern_names(term))
        return (node, gives) if not needs - bound else None
    return (node, frozenset()) if not free(node) - bound else None


def _needs(term: Term) -> Names:
    """What must be bound to evaluate a term that stands alone: a reference's keys need not be."""
    if not isinstance(term, Ref):
        return free(term)
    return free(term.head).union(*(free(step) for step in term.path if not isinstance(step, Var)))


def _outputs(term: Term) -> Names:
    if not isinstance(term, Ref):
        return frozenset()
    return frozenset(step.name for step in term.path if isinstance(step, Var))


def _fixed(pattern: Term) -> Names:
    """What must be bound to match a pattern: all but what it gives a value to."""
    if isinstance(pattern, Var):
        return frozenset()
    if isinstance(pattern, Array):
        return frozenset().union(*map(_fixed, pattern.items))
    if isinstance(pattern, Object):
        return frozenset().union(*(free(key) | _fixed(value) for key, value in pattern.items))
    return free(pattern)


__all__ = ["Call", "Plan", "SetOf", "check_bound", "free", "ordered"]
