"""Turns resolved rules into Python closures: a decision then runs without looking at the tree.

A body is a chain of steps. Each gets the frame (the variables' slots) and calls the next one for
every way in which its expression holds; a step that gives True ends the search. Slot 0 of a frame
is the `Asked`, slot 1 what the rule has given so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from madang.errors import PolicyError
from madang.security.policy.rego.builtins import FUNCTIONS, BuiltinError
from madang.security.policy.rego.order import Names, Plan, check_bound, ordered
from madang.security.policy.rego.resolve import all_vars
from madang.security.policy.rego.syntax import (
    Array,
    Call,
    Comprehension,
    Const,
    Every,
    Holds,
    Not,
    Object,
    Ref,
    SomeIn,
    Statement,
    Term,
    Unify,
    Var,
    Virtual,
)
from madang.security.policy.rego.values import UNDEFINED, RegoSet, equal, lookup, members

if TYPE_CHECKING:
    from madang.security.policy.rego.compile import Program

Frame = list[Any]
Step = Callable[[Frame], bool]
Value = Callable[[Frame], Any]


class Asked:
    """One question: the documents that it is put to, and the rules evaluated so far."""

    __slots__ = ("data", "input", "known", "mocks", "program")

    def __init__(
        self, program: Program, input: Any, data: Any, mocks: dict[tuple[str, ...], Any]
    ) -> None:
        self.program = program
        self.input = input
        self.data = data
        self.mocks = mocks
        self.known: dict[tuple[str, ...], Any] = {}

    def rule(self, path: tuple[str, ...]) -> Any:
        """What the rules of one name give."""
        found = self.known.get(path, self)
        if found is self:
            if path in self.mocks:
                found = self.mocks[path]
            else:
                found = self.program.groups[path].value(self)
            self.known[path] = found
        return found


def put(found: dict[str, Any], name: Any, value: Any, where: str) -> None:
    """Keeps a key of an object that rules or a comprehension make.

    Raises:
        PolicyError: It is no string, or has another value already.
    """
    if type(name) is not str:
        raise PolicyError(f"{where}: an object's keys are strings in the embedded engine")
    if name in found and not equal(found[name], value):
        raise PolicyError(f"{where}: two values for the key {name!r}")
    found[name] = value


class Unit:
    """What shares a frame: one rule with its nested bodies."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.size = 2
        self._slots: dict[str, int] = {}

    def value_slot(self) -> int:
        """A slot that no variable has."""
        self.size += 1
        return self.size - 1

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            self._slots[name] = self.value_slot()
        return self._slots[name]

    # -- statements ---------------------------------------------------------------------------

    def chain(self, plans: list[Plan], last: Step) -> Step:
        """The steps of a body, from the last to the first."""
        step = last
        for plan in reversed(plans):
            step = self._step(plan.statement, plan.bound, step)
        return step

    def body(self, body: Iterable[Statement], bound: Names, last: Step) -> Step:
        """A nested body."""
        plans, _ = ordered(body, bound, self.file)
        return self.chain(plans, last)

    def _step(self, statement: Statement, bound: Names, after: Step) -> Step:
        if not statement.withs:
            return self._plain_step(statement, bound, after)
        targets = [(target, self.value(value)) for target, value in statement.withs]
        slot = self.value_slot()

        def restored(frame: Frame) -> bool:
            replaced, frame[0] = frame[0], frame[slot]
            try:
                return after(frame)
            finally:
                frame[0] = replaced

        inner = self._plain_step(statement, bound, restored)

        def replaced(frame: Frame) -> bool:
            asked = frame[0]
            other = _replaced(asked, [(target, value(frame)) for target, value in targets])
            if other is None:
                return False
            outer, frame[slot], frame[0] = frame[slot], asked, other
            try:
                return inner(frame)
            finally:
                frame[slot], frame[0] = outer, asked

        return replaced

    def _plain_step(self, statement: Statement, bound: Names, after: Step) -> Step:
        node = statement.node
        if isinstance(node, Holds):
            return self._holds(node.term, bound, after)
        if isinstance(node, Unify):
            match = self.match(node.left, bound)
            return self._each(node.right, bound, lambda f, v: match(f, v) and after(f))
        if isinstance(node, SomeIn):
            return self._some_in(node, bound, after)
        if isinstance(node, Not):
            inner = self.body(node.body, bound, _found)
            return lambda frame: not inner(frame) and after(frame)
        assert isinstance(node, Every)
        return self._every(node, bound, after)

    def _holds(self, term: Term, bound: Names, after: Step) -> Step:
        if isinstance(term, Ref) and any(_is_open(step, bound) for step in term.path):
            return self._each(term, bound, lambda f, v: v is not False and after(f))
        value = self.value(term)

        def step(frame: Frame) -> bool:
            found = value(frame)
            return found is not UNDEFINED and found is not False and after(frame)

        return step

    def _some_in(self, node: SomeIn, bound: Names, after: Step) -> Step:
        domain = self.value(node.domain)
        key = None if node.key is None else self.match(node.key, bound)
        inner = bound | (frozenset(all_vars([node.key])) if node.key is not None else frozenset())
        value = self.match(node.value, inner)

        def step(frame: Frame) -> bool:
            for name, item in members(domain(frame)):
                if (key is None or key(frame, name)) and value(frame, item) and after(frame):
                    return True
            return False

        return step

    def _every(self, node: Every, bound: Names, after: Step) -> Step:
        domain = self.value(node.domain)
        value = self._slot(node.value)
        key = None if node.key is None else self._slot(node.key)
        own = {node.value} | ({node.key} if node.key else set())
        inner = self.body(node.body, bound | own, _found)

        def step(frame: Frame) -> bool:
            found = domain(frame)
            if type(found) not in (list, dict, RegoSet):
                return False
            for name, item in members(found):
                frame[value] = item
                if key is not None:
                    frame[key] = name
                if not inner(frame):
                    return False
            return after(frame)

        return step

    # -- patterns and references ----------------------------------------------------------------

    def match(self, pattern: Term, bound: Names) -> Callable[[Frame, Any], bool]:
        """Whether a value fits a pattern; gives the pattern's variables their values."""
        if isinstance(pattern, Var):
            slot = self._slot(pattern.name)
            if pattern.name in bound:
                return lambda frame, found: equal(frame[slot], found)

            def bind(frame: Frame, found: Any) -> bool:
                frame[slot] = found
                return True

            return bind
        if isinstance(pattern, Array) and _has_open(pattern, bound):
            return self._match_array(pattern, bound)
        if isinstance(pattern, Object) and _has_open(pattern, bound):
            return self._match_object(pattern, bound)
        value = self.value(pattern)

        def same(frame: Frame, found: Any) -> bool:
            wanted = value(frame)
            return wanted is not UNDEFINED and equal(wanted, found)

        return same

    def _match_array(self, pattern: Array, bound: Names) -> Callable[[Frame, Any], bool]:
        parts = []
        for item in pattern.items:
            parts.append(self.match(item, bound))
            bound |= frozenset(all_vars([item]))

        def fits(frame: Frame, found: Any) -> bool:
            return (
                type(found) is list
                and len(found) == len(parts)
                and all(part(frame, item) for part, item in zip(parts, found, strict=True))
            )

        return fits

    def _match_object(self, pattern: Object, bound: Names) -> Callable[[Frame, Any], bool]:
        parts = []
        for key, item in pattern.items:
            parts.append((self.value(key), self.match(item, bound)))
            bound |= frozenset(all_vars([item]))

        def fits(frame: Frame, found: Any) -> bool:
            if type(found) is not dict or len(found) != len(parts):
                return False
            for key, part in parts:
                item = lookup(found, key(frame))
                if item is UNDEFINED or not part(frame, item):
                    return False
            return True

        return fits

    def _each(self, term: Term, bound: Names, use: Callable[[Frame, Any], bool]) -> Step:
        """Calls `use` with every value that a term has."""
        if not isinstance(term, Ref) or not any(_is_open(step, bound) for step in term.path):
            value = self.value(term)

            def once(frame: Frame) -> bool:
                found = value(frame)
                return found is not UNDEFINED and use(frame, found)

            return once
        base = self.value(Ref(term.head, ())) if _is_document(term.head) else self.value(term.head)
        walk = use
        befores = []
        for step in term.path:
            befores.append(bound)
            bound |= frozenset(all_vars([step]))
        for step, before in reversed(list(zip(term.path, befores, strict=True))):
            walk = self._walk(step, before, walk)

        def start(frame: Frame) -> bool:
            found = base(frame)
            return found is not UNDEFINED and walk(frame, found)

        return start

    def _walk(
        self, step: Term, bound: Names, use: Callable[[Frame, Any], bool]
    ) -> Callable[[Frame, Any], bool]:
        if _is_open(step, bound):
            assert isinstance(step, Var)
            slot = self._slot(step.name)

            def every(frame: Frame, found: Any) -> bool:
                for name, item in members(found):
                    frame[slot] = name
                    if use(frame, item):
                        return True
                return False

            return every
        key = self.value(step)

        def one(frame: Frame, found: Any) -> bool:
            item = lookup(found, key(frame))
            return item is not UNDEFINED and use(frame, item)

        return one

    # -- values -------------------------------------------------------------------------------

    def value(self, term: Term) -> Value:
        """The one value of a term whose variables are bound."""
        if isinstance(term, Const):
            constant = term.value
            return lambda _: constant
        if isinstance(term, Var):
            slot = self._slot(term.name)
            return lambda frame: frame[slot]
        if isinstance(term, Virtual):
            path = term.path
            return lambda frame: frame[0].rule(path)
        if isinstance(term, Ref):
            return self._ref_value(term)
        if isinstance(term, Call):
            return self._call(term)
        if isinstance(term, Comprehension):
            return self._comprehension(term)
        if isinstance(term, Object):
            return self._object(term)
        parts = [self.value(item) for item in term.items]
        make: Callable[[list[Any]], Any] = list if isinstance(term, Array) else RegoSet

        def collected(frame: Frame) -> Any:
            found = [part(frame) for part in parts]
            return UNDEFINED if any(item is UNDEFINED for item in found) else make(found)

        return collected

    def _object(self, term: Object) -> Value:
        pairs = [(self.value(key), self.value(item)) for key, item in term.items]

        def collected(frame: Frame) -> Any:
            found: dict[str, Any] = {}
            for key, item in pairs:
                name, value = key(frame), item(frame)
                if name is UNDEFINED or value is UNDEFINED:
                    return UNDEFINED
                put(found, name, value, self.file)
            return found

        return collected

    def _ref_value(self, term: Ref) -> Value:
        base: Value
        if term.head == Var("input"):
            base = _input
        elif term.head == Var("data"):
            base = _data
        else:
            base = self.value(term.head)
        if all(isinstance(step, Const) for step in term.path):
            constants = [step.value for step in term.path if isinstance(step, Const)]

            def fixed(frame: Frame) -> Any:
                found = base(frame)
                for key in constants:
                    found = lookup(found, key)
                return found

            return fixed
        keys = [self.value(step) for step in term.path]

        def walked(frame: Frame) -> Any:
            found = base(frame)
            for key in keys:
                found = lookup(found, key(frame))
            return found

        return walked

    def _call(self, term: Call) -> Value:
        args = [self.value(arg) for arg in term.args]
        if term.name[0] == "data":
            path = term.name[1:]

            def called(frame: Frame) -> Any:
                given = tuple(arg(frame) for arg in args)
                if any(item is UNDEFINED for item in given):
                    return UNDEFINED
                asked = frame[0]
                return asked.program.groups[path].call(asked, given)

            return called
        name, where = term.name[0], f"{self.file}:{term.line}"
        function = FUNCTIONS[name]

        def builtin(frame: Frame) -> Any:
            given = [arg(frame) for arg in args]
            for item in given:
                if item is UNDEFINED:
                    return UNDEFINED
            try:
                return function(*given)
            except (BuiltinError, OverflowError) as error:
                raise PolicyError(f"{where}: {name}: {error}") from error

        return builtin

    def _comprehension(self, term: Comprehension) -> Value:
        # What a nested body reads of the outer one is bound: the order of the outer body saw to it.
        bound = frozenset(all_vars([term])) - term.owned
        slot = self.value_slot()
        key = None if term.key is None else self.value(term.key)
        value = self.value(term.value)

        def keep(frame: Frame) -> bool:
            found = value(frame)
            if found is UNDEFINED:
                return False
            if key is not None:
                name = key(frame)
                if name is not UNDEFINED:
                    put(frame[slot], name, found, self.file)
            elif term.kind == "set":
                frame[slot].add(found)
            else:
                frame[slot].append(found)
            return False

        plans, after = ordered(term.body, bound, self.file)
        check_bound((term.key, term.value), after, self.file, term.body[0].line)
        run = self.chain(plans, keep)
        make: Callable[[], Any] = {"set": RegoSet, "array": list, "object": dict}[term.kind]

        def collected(frame: Frame) -> Any:
            frame[slot] = made = make()
            run(frame)
            return made

        return collected


def _is_document(head: Term) -> bool:
    return head in (Var("input"), Var("data"))


def _is_open(step: Term, bound: Names) -> bool:
    return isinstance(step, Var) and step.name not in bound


def _has_open(pattern: Term, bound: Names) -> bool:
    return bool(frozenset(all_vars([pattern])) - bound)


def _found(_: Frame) -> bool:
    return True


def _input(frame: Frame) -> Any:
    return frame[0].input


def _data(frame: Frame) -> Any:
    return frame[0].data


def _replaced(asked: Asked, changes: list[tuple[Ref, Any]]) -> Asked | None:
    """The question with other documents; `None` when a value for them is undefined."""
    input, data, mocks = asked.input, asked.data, dict(asked.mocks)
    for target, value in changes:
        if value is UNDEFINED:
            return None
        path = [step.value for step in target.path if isinstance(step, Const)]
        if isinstance(target.head, Virtual):
            mocks[target.head.path] = value
        elif target.head == Var("input"):
            input = _patched(input, path, value)
        else:
            data = _patched(data, path, value)
    return Asked(asked.program, input, data, mocks)


def _patched(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    found = dict(document) if type(document) is dict else {}
    found[path[0]] = _patched(found.get(path[0]), path[1:], value)
    return found
