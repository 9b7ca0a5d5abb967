"""Which rules may hold for an input: those whose bodies ask for texts that it has."""

from __future__ import annotations

from typing import Any

from madang.security.policy.rego.syntax import (
    Call,
    Const,
    Holds,
    Ref,
    Rule,
    Term,
    Unify,
    Var,
)
from madang.security.policy.rego.values import lookup


class Index:
    """Which rules may hold, by what their bodies demand some text of the input to be.

    Like OPA's rule index, but one path at a time: the one that tells most rules apart comes first,
    and rules that don't name it are looked up by the next.
    """

    def __init__(self, path: tuple[str, ...], rules: dict[int, dict[tuple[str, ...], str]]) -> None:
        self._path = path
        self._by_text: dict[str, list[int]] = {}
        rest: dict[int, dict[tuple[str, ...], str]] = {}
        for number, demands in rules.items():
            if path in demands:
                self._by_text.setdefault(demands[path], []).append(number)
            else:
                rest[number] = demands
        self._always: list[int] = []
        self._rest = Index._build(rest)
        if self._rest is None:
            self._always = list(rest)

    @staticmethod
    def of(rules: list[Rule]) -> Index | None:
        """An index, where there are rules enough for one."""
        return Index._build(dict(enumerate(map(_demands, rules))))

    @staticmethod
    def _build(rules: dict[int, dict[tuple[str, ...], str]]) -> Index | None:
        texts: dict[tuple[str, ...], set[str]] = {}
        for demands in rules.values():
            for path, text in demands.items():
                texts.setdefault(path, set()).add(text)
        if len(rules) < 4 or not texts:
            return None
        return Index(max(texts, key=lambda path: len(texts[path])), rules)

    def find(self, input: Any) -> list[int]:
        """The numbers of the rules that may hold, in their order."""
        return sorted(self._found(input))

    def _found(self, input: Any) -> list[int]:
        value = input
        for key in self._path:
            value = lookup(value, key)
        hits = self._by_text.get(value, []) if type(value) is str else []
        rest = self._always if self._rest is None else self._rest._found(input)
        return hits + rest


def _demands(rule: Rule) -> dict[tuple[str, ...], str]:
    """The texts that the input must have for a rule's body to hold: path to text."""
    found: dict[tuple[str, ...], str] = {}
    if len(rule.branches) > 1:
        return found
    for statement in rule.branches[0].body:
        node, pair = statement.node, tuple[Term, ...]()
        if statement.withs:
            continue
        if isinstance(node, Unify):
            pair = (node.left, node.right)
        elif (
            isinstance(node, Holds) and isinstance(node.term, Call) and node.term.name == ("equal",)
        ):
            pair = node.term.args
        for one, other in (pair, pair[::-1]) if pair else ():
            if (
                isinstance(one, Ref)
                and one.head == Var("input")
                and all(isinstance(k, Const) and isinstance(k.value, str) for k in one.path)
                and isinstance(other, Const)
                and isinstance(other.value, str)
            ):
                path = tuple(k.value for k in one.path if isinstance(k, Const))
                found.setdefault(path, other.value)
    return found
