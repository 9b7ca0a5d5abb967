"""Compiled rules by path: what is asked, of which rules, and which of them give the answer.

Rules become Python closures (`unit.py`), so that a decision runs without looking at the tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from madang.errors import PolicyError
from madang.security.policy.rego.index import Index
from madang.security.policy.rego.order import Names, check_bound, ordered
from madang.security.policy.rego.resolve import Group, all_vars, is_ground
from madang.security.policy.rego.syntax import (
    Branch,
    Call,
    Const,
    Rule,
    Virtual,
)
from madang.security.policy.rego.unit import Asked, Frame, Step, Unit, Value, put
from madang.security.policy.rego.values import UNDEFINED, RegoSet, equal


class Program:
    """Compiled rules by path."""

    def __init__(self, groups: dict[tuple[str, ...], Group], data: dict[str, Any]) -> None:
        _check_recursion(groups)
        self.data = data
        self.groups = {path: CompiledGroup(group) for path, group in groups.items()}

    def ask(self, path: tuple[str, ...], input: Any) -> Any:
        """What the rules of one name give for `input`; `UNDEFINED` when none holds.

        Raises:
            PolicyError: A rule can't be evaluated.
        """
        asked = Asked(self, input, self.data, {})
        try:
            return asked.rule(path) if path in self.groups else UNDEFINED
        except RecursionError as error:
            raise PolicyError(f"data.{'.'.join(path)}: nested too deeply") from error


class CompiledGroup:
    """The rules of one name."""

    def __init__(self, group: Group) -> None:
        self.name = group.name
        self.kind = group.kind
        self._rules = [_CompiledRule(rule, file) for file, rule in group.rules]
        self._default: Value | None = None
        if group.default is not None:
            check_bound([group.default.branches[0].value], frozenset(), "", group.default.line)
            self._default = Unit("").value(group.default.branches[0].value)
        self._index = Index.of([rule for _, rule in group.rules])
        self._is_true_only = all(rule.is_true_only for rule in self._rules)

    def value(self, asked: Asked) -> Any:
        """What the rules give together."""
        if self.kind == "complete":
            return self._one(asked, ())
        found: Any = RegoSet() if self.kind == "set" else {}
        for rule in self._candidates(asked):
            rule.run(asked, (), found)
        return found

    def call(self, asked: Asked, args: tuple[Any, ...]) -> Any:
        """A function's value."""
        return self._one(asked, args)

    def _one(self, asked: Asked, args: tuple[Any, ...]) -> Any:
        found: list[Any] = []
        for rule in self._candidates(asked):
            rule.run(asked, args, found)
            if found and self._is_true_only:
                return True
        if not found:
            return UNDEFINED if self._default is None else self._default([asked])
        first = found[0]
        for other in found:
            if other is not first and not equal(first, other):
                raise PolicyError(f"{self.name}: rules give different values for one input")
        return first

    def _candidates(self, asked: Asked) -> Iterable[_CompiledRule]:
        if self._index is None:
            return self._rules
        return [self._rules[number] for number in self._index.find(asked.input)]


class _CompiledRule:
    """One rule: its branches are tried in turn until one gives something."""

    def __init__(self, rule: Rule, file: str) -> None:
        self._unit = unit = Unit(file)
        bound = frozenset(all_vars([rule.args]))
        args = [unit.value_slot() for _ in rule.args]
        self._args = args
        matches = []
        before: Names = frozenset()
        for slot, arg in zip(args, rule.args, strict=True):
            matches.append((slot, unit.match(arg, before)))
            before |= frozenset(all_vars([arg]))
        self._matches = matches
        self._branches = [self._branch(branch, rule, bound) for branch in rule.branches]
        self.is_true_only = all(map(_is_true, rule.branches))

    def _branch(self, branch: Branch, rule: Rule, bound: Names) -> Step:
        unit = self._unit
        plans, after = ordered(branch.body, bound, unit.file)
        check_bound((branch.key, branch.value), after, unit.file, rule.line)
        give = _give(rule.kind, unit, branch, f"{unit.file}:{rule.line}")
        return unit.chain(plans, give)

    def run(self, asked: Asked, args: tuple[Any, ...], found: Any) -> None:
        """Puts what the rule gives into `found`."""
        frame: Frame = [None] * self._unit.size
        frame[0], frame[1] = asked, found
        for (slot, match), value in zip(self._matches, args, strict=True):
            frame[slot] = value
            if not match(frame, value):
                return
        before = len(found)
        for branch in self._branches:
            branch(frame)
            if len(self._branches) > 1 and len(found) > before:
                return


def _is_true(branch: Branch) -> bool:
    return isinstance(branch.value, Const) and branch.value.value is True  # 1 == True in Python


def _give(kind: str, unit: Unit, branch: Branch, where: str) -> Step:
    """The step at a body's end, which keeps what the rule gives."""
    value = unit.value(branch.value)
    is_const = is_ground(branch.value)
    key = None if branch.key is None else unit.value(branch.key)

    def one(frame: Frame) -> bool:
        found = value(frame)
        if found is UNDEFINED:
            return False
        frame[1].append(found)
        return is_const

    def member(frame: Frame) -> bool:
        assert key is not None
        found = key(frame)
        if found is not UNDEFINED:
            frame[1].add(found)
        return False

    def pair(frame: Frame) -> bool:
        assert key is not None
        name, found = key(frame), value(frame)
        if name is not UNDEFINED and found is not UNDEFINED:
            put(frame[1], name, found, where)
        return False

    return {"set": member, "object": pair}.get(kind, one)


def _check_recursion(groups: dict[tuple[str, ...], Group]) -> None:
    """Refuses rules that are defined by themselves, as OPA does."""
    done: set[tuple[str, ...]] = set()

    def visit(path: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        if path in above:
            names = " -> ".join("data." + ".".join(part) for part in (*above, path))
            raise PolicyError(f"rules are recursive: {names}")
        if path in done:
            return
        for used in _uses([rule for _, rule in groups[path].rules]):
            if used in groups:
                visit(used, (*above, path))
        done.add(path)

    for path in groups:
        visit(path, ())


def _uses(item: Any) -> Iterable[tuple[str, ...]]:
    if isinstance(item, Virtual):
        yield item.path
    elif isinstance(item, Call) and item.name[0] == "data":
        yield item.name[1:]
    if isinstance(item, tuple | list):
        for part in item:
            yield from _uses(part)
    elif hasattr(item, "__dataclass_fields__"):
        for part in vars(item).values():
            yield from _uses(part)
