"""Reads Rego (version 1) into its syntax tree; https://www.openpolicyagent.org/docs/policy-reference."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from madang.errors import InvalidInputError
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
)

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      |(?P<string>"(?:[^"\\\n]|\\.)*")
      |(?P<raw>`[^`]*`)
      |(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_]))
      |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<sign>:=|==|!=|<=|>=|[\[\]{}().,:;=<>+\-*/%|&])""",
    re.VERBOSE,
)
_RELATIONS = {"==": "equal", "!=": "neq", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_ARITHMETIC = ({"|": "or"}, {"&": "and"}, {"+": "plus", "-": "minus"},
               {"*": "mul", "/": "div", "%": "rem"})  # fmt: skip
_KEYWORDS = frozenset(
    {"as", "default", "else", "every", "false", "if", "import", "in", "not", "null", "package",
     "some", "true", "with"}
)  # fmt: skip
_IMPLIED = {
    ("rego", "v1"),
    ("future", "keywords"),
    *(("future", "keywords", name) for name in ("contains", "every", "if", "in")),
}
"""What Rego of version 1 has without being asked."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int
    start: int
    end: int


def parse(text: str, file: str) -> Module:
    """Reads one file.

    Raises:
        InvalidInputError: It isn't Rego of version 1, or uses what the embedded engine hasn't.
    """
    try:
        return _Parser(text, file).module()
    except RecursionError as error:
        raise InvalidInputError(f"{file}: it is nested too deeply") from error


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._tokens = self._scan(text)
        self._at = 0
        self._wildcards = 0

    def _scan(self, text: str) -> list[_Token]:
        found, at, line = list[_Token](), 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self._fail(f"can't read {text[at : at + 20].splitlines()[0]!r}", line)
            kind, part = str(match.lastgroup), match[0]
            # `x-1` is a subtraction: a number's sign stands where a term begins.
            if kind == "number" and part[0] == "-" and found and _ends_term(found[-1]):
                kind, part = "sign", "-"
            if kind != "space":
                found.append(_Token(kind, part, line, at, at + len(part)))
            line += part.count("\n")
            at += len(part)
        found.append(_Token("end", "the end of the file", line, at, at))
        return found

    # -- tokens -------------------------------------------------------------------------------

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _fail(self, what: str, line: int | None = None) -> NoReturn:
        raise InvalidInputError(f"{self._file}:{line or self._now.line}: {what}")

    def _is(self, text: str) -> bool:
        return self._now.text == text and self._now.kind in ("sign", "name")

    def _take(self, text: str) -> bool:
        if self._is(text):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            self._fail(f"expected {text!r}, found {self._now.text!r}")

    def _name(self) -> str:
        token = self._now
        if token.kind != "name" or token.text in _KEYWORDS:
            self._fail(f"expected a name, found {token.text!r}")
        self._at += 1
        return token.text

    def _touches(self, text: str) -> bool:
        """Whether the next token is `text`, without space before it."""
        return self._is(text) and self._now.start == self._tokens[self._at - 1].end

    # -- modules and rules --------------------------------------------------------------------

    def module(self) -> Module:
        self._expect("package")
        package = self._path()
        if package[0] == "data":
            package = package[1:]
        imports: dict[str, Ref] = {}
        while self._take("import"):
            self._import(imports)
        rules = []
        while self._now.kind != "end":
            rules.append(self._rule())
        return Module(self._file, package, imports, tuple(rules))

    def _path(self) -> tuple[str, ...]:
        parts = [self._name()]
        while self._touches(".") or self._touches("["):
            if self._take("."):
                parts.append(self._any_name())
            else:
                self._expect("[")
                parts.append(self._string())
                self._expect("]")
        return tuple(parts)

    def _any_name(self) -> str:
        if self._now.kind != "name":
            self._fail(f"expected a name, found {self._now.text!r}")
        self._at += 1
        return self._tokens[self._at - 1].text

    def _string(self) -> str:
        term = self._term()
        if not (isinstance(term, Const) and isinstance(term.value, str)):
            self._fail("a path's parts are strings")
        return term.value

    def _import(self, imports: dict[str, Ref]) -> None:
        path = self._path()
        alias = self._name() if self._take("as") else path[-1]
        if path in _IMPLIED:
            return
        if path[0] not in ("data", "input"):
            self._fail(
                f"the embedded engine imports data, input and rego.v1; found {'.'.join(path)}"
            )
        imports[alias] = Ref(Var(path[0]), tuple(map(Const, path[1:])))

    def _rule(self) -> Rule:
        line, is_default = self._now.line, self._take("default")
        path: list[str] = [self._name()]
        key: Term | None = None
        while key is None and (self._touches(".") or self._touches("[")):
            if self._take("."):
                path.append(self._any_name())
                continue
            self._expect("[")
            key = self._term()
            self._expect("]")
            if isinstance(key, Const) and isinstance(key.value, str):
                path.append(key.value)
                key = None
        if key is not None and (self._touches(".") or self._touches("[")):
            self._fail("a rule's name may have one variable part, the last; use opa:// for more")
        args: tuple[Term, ...] | None = None
        if self._touches("("):
            if key is not None:
                self._fail("a function has no key")
            self._expect("(")
            args = self._list(")")
        return self._rest_of_rule(tuple(path), key, args, is_default=is_default, line=line)

    def _rest_of_rule(
        self,
        path: tuple[str, ...],
        key: Term | None,
        args: tuple[Term, ...] | None,
        *,
        is_default: bool,
        line: int,
    ) -> Rule:
        kind = "function" if args is not None else "complete" if key is None else "object"
        value: Term = Const(True)
        has_value = False
        if kind == "complete" and self._take("contains"):
            kind, key = "set", self._expression()
        elif self._take(":=") or self._take("="):
            value, has_value = self._expression(), True
        body: tuple[Statement, ...] = ()
        if self._take("if"):
            body = self._body()
        elif not has_value and kind != "set":
            self._fail(f"the rule {'.'.join(path)} needs `if` before its body, or a value")
        branches = [Branch(key, value, body)]
        while self._take("else"):
            if kind in ("set", "object"):
                self._fail("only a rule with one value has an else")
            other: Term = Const(True)
            if self._take(":=") or self._take("="):
                other = self._expression()
            branches.append(Branch(None, other, self._body() if self._take("if") else ()))
        if self._now.kind != "end" and self._now.line == self._tokens[self._at - 1].line:
            self._fail(f"unexpected {self._now.text!r} after a rule")
        return Rule(path, kind, args or (), tuple(branches), is_default, line)  # type: ignore[arg-type]  # one of the four

    # -- bodies -------------------------------------------------------------------------------

    def _body(self) -> tuple[Statement, ...]:
        if self._is("{"):
            before = self._at
            # `if {"a"} == x` begins with a set, which no body does.
            self._expect("{")
            try:
                return self._statements("}")
            except InvalidInputError:
                self._at = before
                try:
                    return (self._statement(),)
                except InvalidInputError:
                    self._at = before + 1
                    return self._statements("}")
        return (self._statement(),)

    def _statements(self, end: str) -> tuple[Statement, ...]:
        found = []
        while not self._take(end):
            found.append(self._statement())
            if self._take(";") or self._is(end):
                continue
            if self._now.line == self._tokens[self._at - 1].line:
                self._fail(f"expected a new line or {end!r}, found {self._now.text!r}")
        if not found:
            self._fail("a body must not be empty")
        return tuple(found)

    def _statement(self) -> Statement:
        line = self._now.line
        node: Node
        if self._take("not"):
            inner = Statement(Holds(self._expression()), line)
            node = Not((self._unified(inner),))
        elif self._take("some"):
            node = self._some()
        elif self._take("every"):
            node = self._every()
        else:
            node = self._unified(Statement(Holds(self._expression()), line)).node
        withs = []
        while self._take("with"):
            target = self._term()
            self._expect("as")
            if isinstance(target, Var):
                target = Ref(target, ())
            if not isinstance(target, Ref):
                self._fail("`with` replaces input or data, or a part of them")
            withs.append((target, self._expression()))
        return Statement(node, line, tuple(withs))

    def _unified(self, statement: Statement) -> Statement:
        """The statement with what follows `:=` or `=`."""
        assert isinstance(statement.node, Holds)
        left = statement.node.term
        if self._take(":="):
            return Statement(Unify(left, self._expression(), declares=True), statement.line)
        if self._take("="):
            return Statement(Unify(left, self._expression()), statement.line)
        return statement

    def _some(self) -> Node:
        first = self._relation()
        second = self._relation() if self._take(",") else None
        if self._take("in"):
            domain = self._relation()
            return SomeIn(None, first, domain) if second is None else SomeIn(first, second, domain)
        terms = [first] + ([] if second is None else [second])
        while self._take(","):
            terms.append(self._term())
        if not all(isinstance(term, Var) for term in terms):
            self._fail("`some` declares variables")
        return Some(tuple(term.name for term in terms if isinstance(term, Var)))

    def _every(self) -> Node:
        first = self._name()
        second = self._name() if self._take(",") else None
        self._expect("in")
        domain = self._relation()
        self._expect("{")
        body = self._statements("}")
        first, second = self._named(first), None if second is None else self._named(second)
        return Every(None if second is None else first, second or first, domain, body)

    def _named(self, name: str) -> str:
        if name != "_":
            return name
        self._wildcards += 1
        return f"_#{self._wildcards}"

    # -- terms --------------------------------------------------------------------------------

    def _expression(self) -> Term:
        """A term with operators, `in` among them."""
        left = self._relation()
        while self._take("in"):
            left = Call(("internal", "member_2"), (left, self._relation()), self._now.line)
        return left

    def _relation(self) -> Term:
        left = self._infix(0)
        while self._now.kind == "sign" and self._now.text in _RELATIONS:
            name, line = _RELATIONS[self._now.text], self._now.line
            self._at += 1
            left = Call((name,), (left, self._infix(0)), line)
        return left

    def _infix(self, level: int) -> Term:
        if level == len(_ARITHMETIC):
            return self._term()
        left = self._infix(level + 1)
        while self._now.kind == "sign" and self._now.text in _ARITHMETIC[level]:
            name, line = _ARITHMETIC[level][self._now.text], self._now.line
            self._at += 1
            left = Call((name,), (left, self._infix(level + 1)), line)
        return left

    def _term(self) -> Term:
        term = self._primary()
        while True:
            if self._touches("."):
                self._at += 1
                step: Term = Const(self._any_name())
            elif self._touches("["):
                self._at += 1
                step = self._expression()
                self._expect("]")
            elif self._touches("("):
                term = self._call(term)
                continue
            else:
                return term
            term = (
                Ref(term.head, (*term.path, step)) if isinstance(term, Ref) else Ref(term, (step,))
            )

    def _call(self, term: Term) -> Term:
        line = self._now.line
        self._expect("(")
        args = self._list(")")
        head = term.head if isinstance(term, Ref) else term
        path = term.path if isinstance(term, Ref) else ()
        names = [part.value for part in path if isinstance(part, Const)]
        if not isinstance(head, Var) or len(names) != len(path):
            self._fail("only a function's name can be called", line)
        return Call((head.name, *names), args, line)

    def _list(self, end: str) -> tuple[Term, ...]:
        found = []
        while not self._take(end):
            found.append(self._expression())
            if not self._take(",") and not self._is(end):
                self._fail(f"expected ',' or {end!r}, found {self._now.text!r}")
        return tuple(found)

    def _primary(self) -> Term:
        token = self._now
        if token.kind in ("string", "raw", "number"):
            self._at += 1
            return Const(self._scalar(token))
        if self._take("("):
            inner = self._expression()
            self._expect(")")
            return inner
        if self._take("["):
            return self._array()
        if self._take("{"):
            return self._braces()
        if token.kind == "name" and token.text in ("true", "false", "null"):
            self._at += 1
            return Const({"true": True, "false": False, "null": None}[token.text])
        name = self._name()
        if name == "set" and self._touches("("):
            self._at += 1
            self._expect(")")
            return SetOf(())
        return Var(self._named(name))

    def _scalar(self, token: _Token) -> Any:
        if token.kind == "raw":
            return token.text[1:-1]
        try:
            found = json.loads(token.text)
        except ValueError as error:
            self._fail(f"can't read {token.text}: {error}", token.line)
        if type(found) is float and Decimal(token.text) != Decimal(repr(found)):
            self._fail(f"{token.text} has more digits than the embedded engine keeps", token.line)
        return found

    def _array(self) -> Term:
        if self._take("]"):
            return Array(())
        first = self._infix(1)
        if self._take("|"):
            return Comprehension("array", None, first, self._statements("]"))
        return Array(self._continued(first, "]"))

    def _braces(self) -> Term:
        if self._take("}"):
            return Object(())
        first = self._infix(1)
        if self._take("|"):
            return Comprehension("set", None, first, self._statements("}"))
        if not self._take(":"):
            return SetOf(self._continued(first, "}"))
        value = self._infix(1)
        if self._take("|"):
            return Comprehension("object", first, value, self._statements("}"))
        pairs = [(first, self._rest_of_infix(value))]
        while not self._take("}"):
            self._expect(",")
            if self._take("}"):
                break
            key = self._expression()
            self._expect(":")
            pairs.append((key, self._expression()))
        return Object(tuple(pairs))

    def _continued(self, first: Term, end: str) -> tuple[Term, ...]:
        """The list whose first term is read, but for the operators that `|` could be one of."""
        found = [self._rest_of_infix(first)]
        while not self._take(end):
            self._expect(",")
            if self._take(end):
                break
            found.append(self._expression())
        return tuple(found)

    def _rest_of_infix(self, left: Term) -> Term:
        while self._now.kind == "sign" and self._now.text in _RELATIONS:
            name, line = _RELATIONS[self._now.text], self._now.line
            self._at += 1
            left = Call((name,), (left, self._infix(0)), line)
        while self._take("in"):
            left = Call(("internal", "member_2"), (left, self._relation()), self._now.line)
        return left


def _ends_term(token: _Token) -> bool:
    if token.kind == "name":
        return token.text not in _KEYWORDS or token.text in ("true", "false", "null")
    return token.kind in ("string", "raw", "number") or token.text in (")", "]", "}")


__all__ = ["parse"]
