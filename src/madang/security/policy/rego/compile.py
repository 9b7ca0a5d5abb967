"""Turns resolved rules into Python closures: a decision then runs without looking at the tree.

A body is a chain of steps. Each gets the frame (the variables' slots) and calls the next one for
every way in which its expression holds; a step that gives True ends the search. Slot 0 of a frame
is the `Asked`, slot 1 what the rule has given so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from madang.errors import PolicyError
from madang.security.policy.rego.builtins import FUNCTIONS, BuiltinError
from madang.security.policy.rego.order import Names, Plan, check_bound, ordered
from madang.security.policy.rego.resolve import Group, all_vars, is_ground
from madang.security.policy.rego.syntax import (
    Array,
    Branch,
    Call,
    Comprehension,
    Const,
    Every,
    Holds,
    Not,
    Object,
    Ref,
    Rule,
    SomeIn,
    Statement,
    Term,
    Unify,
    Var,
    Virtual,
)
from madang.security.policy.rego.values import UNDEFINED, RegoSet, equal, lookup, members

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
            self._default = _Unit("").value(group.default.branches[0].value)
        self._index = _Index.of([rule for _, rule in group.rules])
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


class _Index:
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
        self._rest = _Index._build(rest)
        if self._rest is None:
            self._always = list(rest)

    @staticmethod
    def of(rules: list[Rule]) -> _Index | None:
        """An index, where there are rules enough for one."""
        return _Index._build(dict(enumerate(map(_demands, rules))))

    @staticmethod
    def _build(rules: dict[int, dict[tuple[str, ...], str]]) -> _Index | None:
        texts: dict[tuple[str, ...], set[str]] = {}
        for demands in rules.values():
            for path, text in demands.items():
                texts.setdefault(path, set()).add(text)
        if len(rules) < 4 or not texts:
            return None
        return _Index(max(texts, key=lambda path: len(texts[path])), rules)

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


class _CompiledRule:
    """One rule: its branches are tried in turn until one gives something."""

    def __init__(self, rule: Rule, file: str) -> None:
        self._unit = unit = _Unit(file)
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


def _give(kind: str, unit: _Unit, branch: Branch, where: str) -> Step:
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
            _put(frame[1], name, found, where)
        return False

    return {"set": member, "object": pair}.get(kind, one)


def _put(found: dict[str, Any], name: Any, value: Any, where: str) -> None:
    if type(name) is not str:
        raise PolicyError(f"{where}: an object's keys are strings in the embedded engine")
    if name in found and not equal(found[name], value):
        raise PolicyError(f"{where}: two values for the key {name!r}")
    found[name] = value


class _Unit:
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
                _put(found, name, value, self.file)
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
                    _put(frame[slot], name, found, self.file)
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
