"""Gives every name its meaning: a local variable of one body, a rule, `input` or base data.

After resolution each variable has a name of its own (`x#3`), so that a nested body's variable can't
be taken for an outer one. References that may have many values stand alone in a statement; where
they were part of another term, a new variable stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from madang.errors import InvalidInputError
from madang.security.policy.rego.builtins import ARITY, REFUSED
from madang.security.policy.rego.syntax import (
    Array,
    Branch,
    Call,
    Comprehension,
    Const,
    Every,
    Holds,
    Module,
    Node,
    Not,
    Object,
    Ref,
    Rule,
    SetOf,
    Some,
    SomeIn,
    Statement,
    Term,
    Unify,
    Var,
    Virtual,
)


@dataclass
class Group:
    """All rules of one name.

    Attributes:
        kind: As `Rule.kind`.
        arity: A function's number of arguments.
        rules: Resolved, in the order of files and lines, with the file.
        default: The value where no rule gives one.
    """

    path: tuple[str, ...]
    kind: str
    arity: int
    rules: list[tuple[str, Rule]] = field(default_factory=list)
    default: Rule | None = None

    @property
    def name(self) -> str:
        """As Rego writes it."""
        return ".".join(("data", *self.path))


def resolve(modules: Iterable[Module], data: dict[str, Any]) -> dict[tuple[str, ...], Group]:
    """The rules of all files by their path, resolved.

    Raises:
        InvalidInputError: A name has no meaning or two, or a builtin is not there.
    """
    modules = list(modules)
    groups: dict[tuple[str, ...], Group] = {}
    for module in modules:
        for rule in module.rules:
            _add(groups, module, rule)
    _check_paths(groups, data)
    for module in modules:
        names = _Names(module, groups, modules)
        for rule in module.rules:
            resolved = _Resolver(names).rule(rule)
            group = groups[(*module.package, *rule.path)]
            if rule.is_default:
                group.default = resolved
            else:
                group.rules.append((module.file, resolved))
    return groups


def _add(groups: dict[tuple[str, ...], Group], module: Module, rule: Rule) -> None:
    path = (*module.package, *rule.path)
    found = groups.setdefault(path, Group(path, rule.kind, len(rule.args)))
    where = f"{module.file}:{rule.line}: {'.'.join(rule.path)}"
    if (found.kind, found.arity) != (rule.kind, len(rule.args)):
        raise InvalidInputError(
            f"{where} is a {rule.kind} rule here and a {found.kind} rule before"
        )
    if rule.is_default:
        if found.default is not None:
            raise InvalidInputError(f"{where} has two defaults")
        found.default = rule


def _check_paths(groups: dict[tuple[str, ...], Group], data: dict[str, Any]) -> None:
    for path in groups:
        for length in range(1, len(path)):
            if path[:length] in groups:
                raise InvalidInputError(
                    f"data.{'.'.join(path[:length])} is a rule and the package of another, "
                    f"data.{'.'.join(path)}"
                )
        found: Any = data
        for part in path:
            if not isinstance(found, dict):
                raise InvalidInputError(f"data.json has a value where data.{'.'.join(path)} is")
            if part not in found:
                break
            found = found[part]
        else:
            raise InvalidInputError(f"data.json and a rule both say what data.{'.'.join(path)} is")


class _Names:
    """What a file's global names stand for."""

    def __init__(
        self, module: Module, groups: dict[tuple[str, ...], Group], modules: list[Module]
    ) -> None:
        self.file = module.file
        self.groups = groups
        self.package = module.package
        self.packages = {other.package for other in modules}
        self.imports = module.imports
        self.own = {
            rule.path[0]
            for other in modules
            if other.package == module.package
            for rule in other.rules
        }
        for name in self.imports:
            if name in self.own:
                raise InvalidInputError(
                    f"{self.file}: {name} is imported, and a rule of this package"
                )

    def has(self, name: str) -> bool:
        return name in self.imports or name in self.own or name in ("input", "data")

    def expand(self, name: str) -> tuple[str, tuple[Term, ...]]:
        """`input` or `data`, and the path there."""
        if name in self.imports:
            found = self.imports[name]
            assert isinstance(found.head, Var)
            return found.head.name, found.path
        if name in self.own:
            return "data", (*map(Const, self.package), Const(name))
        return name, ()


class _Resolver:
    """Resolves one rule."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self._count = 0
        self._line = 0

    def _fail(self, what: str) -> NoReturn:
        raise InvalidInputError(f"{self._names.file}:{self._line}: {what}")

    def _fresh(self, name: str) -> str:
        self._count += 1
        return f"{name}#{self._count}"

    def rule(self, rule: Rule) -> Rule:
        self._line = rule.line
        env: dict[str, str] = {}
        for arg in rule.args:
            for name in _pattern_names(arg):
                env[name] = self._fresh(name)
        lifts: list[Statement] = []
        args = tuple(self._term(arg, env, lifts) for arg in rule.args)
        if lifts:
            self._fail("a function's arguments are variables, arrays of them, or values")
        branches = tuple(self._branch(branch, env) for branch in rule.branches)
        if rule.is_default and (branches[0].body or not is_ground(branches[0].value)):
            self._fail("a default is a value without variables")
        return Rule(rule.path, rule.kind, args, branches, rule.is_default, rule.line)

    def _branch(self, branch: Branch, env: dict[str, str]) -> Branch:
        body, inner, _ = self._body(branch.body, env)
        lifts: list[Statement] = []
        key = None if branch.key is None else self._term(branch.key, inner, lifts)
        value = self._term(branch.value, inner, lifts)
        return Branch(key, value, (*body, *lifts))

    # -- bodies -------------------------------------------------------------------------------

    def _body(
        self, body: tuple[Statement, ...], env: dict[str, str]
    ) -> tuple[tuple[Statement, ...], dict[str, str], frozenset[str]]:
        """The body resolved, the names that are known in it, and the variables it owns."""
        inner, first = dict(env), self._count
        self._declare(body, inner)
        for statement in body:
            for name in _direct_names(statement):
                if name not in inner and not self._names.has(name):
                    inner[name] = self._fresh(name)
        found: list[Statement] = []
        for statement in body:
            self._line = statement.line
            found += self._statement(statement, inner)
        owned = frozenset(
            name for name in _all_vars(found) if int(name.rpartition("#")[2]) > first
        ) | {name for name in inner.values() if int(name.rpartition("#")[2]) > first}
        return tuple(found), inner, owned

    def _declare(self, body: tuple[Statement, ...], inner: dict[str, str]) -> None:
        declared: set[str] = set()
        used: set[str] = set()
        for statement in body:
            self._line = statement.line
            for name in _declared_names(statement.node):
                if name in ("input", "data"):
                    self._fail(f"{name} can't be declared: it is what Rego reads from")
                if name in declared:
                    self._fail(f"var {name} assigned above")
                if name in used:
                    self._fail(f"var {name} referenced above")
                declared.add(name)
                inner[name] = self._fresh(name)
            used.update(_direct_names(statement))

    def _statement(self, statement: Statement, env: dict[str, str]) -> Iterator[Statement]:
        lifts: list[Statement] = []
        nodes = self._node(statement.node, env, lifts)
        withs = []
        for target, value in statement.withs:
            withs.append((self._target(target), self._term(value, env, lifts)))
        for lift in lifts:
            yield Statement(lift.node, statement.line, tuple(withs))
        for node in nodes:
            yield Statement(node, statement.line, tuple(withs))

    def _target(self, target: Ref) -> Ref:
        if not isinstance(target.head, Var) or not self._names.has(target.head.name):
            self._fail("`with` replaces input, data or a rule; for functions use opa://")
        root, before = self._names.expand(target.head.name)
        path = (*before, *target.path)
        if not all(isinstance(part, Const) and isinstance(part.value, str) for part in path):
            self._fail("what `with` replaces is named without variables")
        if root == "data" and not path:
            self._fail("`with` can't replace the whole of data; name a part")
        found = Ref(Var(root), path)
        if root == "input":
            return found
        keys = _constants(path)
        for path_of, group in self._names.groups.items():
            if path_of == keys and group.kind != "function":
                return Ref(Virtual(keys), ())
            if path_of[: len(keys)] == keys or keys[: len(path_of)] == path_of:
                self._fail(
                    f"`with` can't replace data.{'.'.join(keys)} in the embedded engine: "
                    f"it replaces input, base data and whole rules; use opa:// for more"
                )
        return found

    def _node(self, node: Node, env: dict[str, str], lifts: list[Statement]) -> list[Node]:
        if isinstance(node, Some):
            return []
        if isinstance(node, Holds):
            return [Holds(self._term(node.term, env, lifts, alone=True))]
        if isinstance(node, Unify):
            left = self._term(node.left, env, lifts)
            right = self._term(node.right, env, lifts, alone=True)
            return list(_decomposed(left, right))
        if isinstance(node, SomeIn):
            key = None if node.key is None else self._term(node.key, env, lifts)
            value = self._term(node.value, env, lifts)
            return [SomeIn(key, value, self._term(node.domain, env, lifts))]
        if isinstance(node, Not):
            first = self._count
            inner = [found for part in node.body for found in self._statement(part, env)]
            own = {name for name in _all_vars(inner) if int(name.rpartition("#")[2]) > first}
            return [Not(tuple(inner), frozenset(own))]
        return [self._every(node, env, lifts)]

    def _every(self, node: Every, env: dict[str, str], lifts: list[Statement]) -> Every:
        domain = self._term(node.domain, env, lifts)
        inner = dict(env)
        value = inner[node.value] = self._fresh(node.value)
        key = None
        if node.key is not None:
            key = inner[node.key] = self._fresh(node.key)
        body, _, owned = self._body(node.body, inner)
        return Every(key, value, domain, body, owned | {value} | ({key} if key else set()))

    # -- terms --------------------------------------------------------------------------------

    def _term(
        self, term: Term, env: dict[str, str], lifts: list[Statement], *, alone: bool = False
    ) -> Term:
        if isinstance(term, Const):
            return term
        if isinstance(term, Var):
            return self._ref(Ref(term, ()), env, lifts, alone=alone)
        if isinstance(term, Ref):
            return self._ref(term, env, lifts, alone=alone)
        if isinstance(term, Array):
            return Array(tuple(self._term(item, env, lifts) for item in term.items))
        if isinstance(term, SetOf):
            return SetOf(tuple(self._term(item, env, lifts) for item in term.items))
        if isinstance(term, Object):
            pairs = [(self._term(k, env, lifts), self._term(v, env, lifts)) for k, v in term.items]
            for key, _ in pairs:
                if isinstance(key, Const) and not isinstance(key.value, str):
                    self._fail(f"an object's keys are strings in the embedded engine: {key.value}")
            return Object(tuple(pairs))
        if isinstance(term, Call):
            return self._call(term, env, lifts)
        assert isinstance(term, Comprehension)
        body, inner, owned = self._body(term.body, env)
        heads: list[Statement] = []
        first = self._count
        value = self._term(term.value, inner, heads)
        name = None if term.key is None else self._term(term.key, inner, heads)
        more = {name for name in _all_vars(heads) if int(name.rpartition("#")[2]) > first}
        return Comprehension(term.kind, name, value, (*body, *heads), owned | more)

    def _call(self, term: Call, env: dict[str, str], lifts: list[Statement]) -> Call:
        args = tuple(self._term(arg, env, lifts) for arg in term.args)
        head, *rest = term.name
        if head not in env and self._names.has(head):
            root, path = self._names.expand(head)
            found = self._names.groups.get((*_constants(path), *rest)) if root == "data" else None
            if found is None or found.kind != "function":
                self._fail(f"there is no function {'.'.join(term.name)}")
            if found.arity != len(args):
                self._fail(f"{found.name} takes {found.arity} arguments, found {len(args)}")
            return Call(("data", *found.path), args, self._line)
        name = ".".join(term.name)
        if name in REFUSED or name not in ARITY:
            why = REFUSED.get(name, "the embedded engine has none of that name")
            self._fail(f"the builtin {name} can't be used: {why}; an OPA server (opa://) has all")
        if len(args) not in ARITY[name]:
            wanted = " or ".join(map(str, ARITY[name]))
            self._fail(f"{name} takes {wanted} arguments, found {len(args)}")
        return Call((name,), args, self._line)

    def _ref(self, term: Ref, env: dict[str, str], lifts: list[Statement], *, alone: bool) -> Term:
        after: list[Statement] = []
        head: Term
        if isinstance(term.head, Var) and term.head.name in env:
            head, path = Var(env[term.head.name]), term.path
        elif isinstance(term.head, Var):
            if not self._names.has(term.head.name):
                self._fail(f"var {term.head.name} is unsafe: nothing in this body gives it a value")
            root, before = self._names.expand(term.head.name)
            head, path = self._global(root, (*before, *term.path))
        else:
            head, path = self._term(term.head, env, lifts), term.path
        steps = tuple(self._step(part, env, lifts, after) for part in path)
        if not steps and not (isinstance(head, Var) and head.name in ("input", "data")):
            return head
        found = Ref(head, steps)
        if (alone and not after) or not any(isinstance(step, Var) for step in steps):
            return found
        stand_in = Var(self._fresh("ref"))
        lifts += [Statement(Unify(stand_in, found), self._line), *after]
        return stand_in

    def _step(
        self, part: Term, env: dict[str, str], lifts: list[Statement], after: list[Statement]
    ) -> Term:
        found = self._term(part, env, lifts)
        if isinstance(found, Array | Object) and set(_all_vars([found])):
            stand_in = Var(self._fresh("key"))
            after.append(Statement(Unify(found, stand_in), self._line))
            return stand_in
        return found

    def _global(self, root: str, path: tuple[Term, ...]) -> tuple[Term, tuple[Term, ...]]:
        """The rule or the document that a path begins with, and the rest."""
        if root == "input":
            return Var("input"), path
        keys = _constants(path)
        for length in range(len(keys), 0, -1):
            group = self._names.groups.get(keys[:length])
            if group is not None:
                if group.kind == "function":
                    self._fail(f"{group.name} is a function: call it")
                return Virtual(group.path), path[length:]
        if any(
            found[: len(keys)] == keys for found in (*self._names.groups, *self._names.packages)
        ):
            self._fail(
                f"data{''.join('.' + key for key in keys)} is a whole package, which can't be "
                "read in the embedded engine; name one of its rules"
            )
        if any(isinstance(part, Const) and not isinstance(part.value, str) for part in path):
            self._fail("a number can't stand in a path of data; give data.… to a variable first")
        return Var("data"), path


def _constants(path: Iterable[Term]) -> tuple[str, ...]:
    """The strings that a path begins with."""
    found = []
    for part in path:
        if not (isinstance(part, Const) and isinstance(part.value, str)):
            break
        found.append(part.value)
    return tuple(found)


def _decomposed(left: Term, right: Term) -> Iterator[Unify]:
    """`[x, 1] = [2, y]` as `x = 2` and `1 = y`."""
    if isinstance(left, Array) and isinstance(right, Array) and len(left.items) == len(right.items):
        for one, other in zip(left.items, right.items, strict=True):
            yield from _decomposed(one, other)
    else:
        yield Unify(left, right)


def is_ground(term: Term) -> bool:
    """Whether a term is a value as it stands."""
    if isinstance(term, Const):
        return True
    if isinstance(term, Array | SetOf):
        return all(map(is_ground, term.items))
    if isinstance(term, Object):
        return all(is_ground(key) and is_ground(value) for key, value in term.items)
    return False


def _pattern_names(term: Term) -> Iterator[str]:
    """The names that a pattern gives a value to."""
    if isinstance(term, Var):
        yield term.name
    elif isinstance(term, Array):
        for item in term.items:
            yield from _pattern_names(item)
    elif isinstance(term, Object):
        for _, item in term.items:
            yield from _pattern_names(item)


def _declared_names(node: Node) -> Iterator[str]:
    if isinstance(node, Some):
        yield from node.names
    elif isinstance(node, Unify) and node.declares:
        yield from _pattern_names(node.left)
    elif isinstance(node, SomeIn):
        if node.key is not None:
            yield from _pattern_names(node.key)
        yield from _pattern_names(node.value)


def _direct_names(statement: Statement) -> Iterator[str]:
    """The names in a statement, without those of nested bodies."""
    node = statement.node
    for target, value in statement.withs:
        yield from _names_in(target)
        yield from _names_in(value)
    if isinstance(node, Not):
        for part in node.body:
            yield from _direct_names(part)
    elif isinstance(node, Holds):
        yield from _names_in(node.term)
    elif isinstance(node, Unify):
        yield from _names_in(node.left)
        yield from _names_in(node.right)
    elif isinstance(node, SomeIn):
        for term in (node.key, node.value, node.domain):
            if term is not None:
                yield from _names_in(term)
    elif isinstance(node, Every):
        yield from _names_in(node.domain)


def _names_in(term: Term) -> Iterator[str]:
    if isinstance(term, Var):
        yield term.name
    elif isinstance(term, Ref):
        yield from _names_in(term.head)
        for part in term.path:
            yield from _names_in(part)
    elif isinstance(term, Array | SetOf):
        for part in term.items:
            yield from _names_in(part)
    elif isinstance(term, Object):
        for key, value in term.items:
            yield from _names_in(key)
            yield from _names_in(value)
    elif isinstance(term, Call):
        for part in term.args:
            yield from _names_in(part)


def _all_vars(found: Iterable[Any]) -> Iterator[str]:
    """Every local variable in statements, nodes and terms, nested bodies included."""
    for item in found:
        if isinstance(item, Var):
            if "#" in item.name:
                yield item.name
        elif isinstance(item, tuple):
            yield from _all_vars(item)
        elif isinstance(item, Every):
            yield from (name for name in (item.key, item.value) if name)
            yield from _all_vars((item.domain, item.body))
        elif hasattr(item, "__dataclass_fields__"):
            yield from _all_vars(vars(item).values())


all_vars = _all_vars
pattern_names = _pattern_names
