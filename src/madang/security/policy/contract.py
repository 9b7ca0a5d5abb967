"""What a policy engine promises: rules in Rego, asked before anything that matters."""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from madang.engines import Engine
from madang.errors import InvalidInputError, MadangError, PolicyDeniedError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class Bundle:
    """Rego files and base data that are loaded together.

    Attributes:
        files: Name to text.
        data: What `data` holds beside the rules.
    """

    files: Mapping[str, str]
    data: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, texts and data, 64 hex digits."""
        content = {"data": self.data, "files": dict(self.files)}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Reason:
    """Why something is denied: the rule's name and its own message."""

    rule: str
    message: str


@dataclass(frozen=True)
class Decision:
    """An answer.

    Attributes:
        name: What was asked: `promotion`, `deployment`, `rollout`, `dataset_read`, `secret_read`,
            `request`, or a project's own.
        allow: Whether it may happen.
        reasons: Why not, by rule; empty when it may.
        exempt: Rules that would have denied it and from which the project exempts it.
        bundle: The digest of the bundle that decided.
        input: SHA-256 of the input's canonical JSON (RFC 8785), 64 hex digits.
    """

    name: str
    allow: bool
    reasons: tuple[Reason, ...]
    exempt: tuple[str, ...]
    bundle: str
    input: str

    @property
    def message(self) -> str:
        """The rules' messages in one line."""
        return "; ".join(reason.message for reason in self.reasons)

    def require(self) -> None:
        """Raises `PolicyDeniedError` with the rules' messages unless it is allowed."""
        if not self.allow:
            raise PolicyDeniedError(self.message)


class PolicyEngine(Engine):
    """Evaluates Rego.

    Every engine promises: a bundle is loaded as a whole or not at all, and one that can't be loaded
    leaves the one before in force; a value follows from the bundle and the input alone; a builtin
    that fails is an error and not undefined, so that a rule that was to deny is not silent.
    Undefined, malformed, or any error: `decide` denies. Safe for many threads.
    """

    @abstractmethod
    def load(self, bundle: Bundle) -> None:
        """Replaces what is loaded.

        Raises:
            InvalidInputError: A file can't be loaded: file, line and reason.
            UnavailableError: The server does not answer.
        """

    @abstractmethod
    def evaluate(self, path: str, input: Any) -> tuple[bool, Any]:
        """The value of a rule (`madang.promotion.decision`) for an input.

        Args:
            path: The rule's path, without `data`.
            input: JSON.

        Returns:
            Whether it is defined, and its value as JSON (a set is a sorted array).

        Raises:
            PolicyError: It can't be evaluated, or nothing was loaded.
            UnavailableError: The server does not answer.
        """

    def decide(self, name: str, input: Any, *, bundle: str = "", digest: str = "") -> Decision:
        """Asks the rule `madang.NAME.decision`, which `default/decision.rego` explains; never raises
        because of what a policy does.

        Args:
            name: What is asked.
            input: JSON.
            bundle: The loaded bundle's digest, for the answer.
            digest: The input's, for the answer.

        Raises:
            InvalidInputError: The name is none.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInputError(f"a decision's name is like dataset_read; found {name!r}")
        try:
            defined, value = self.evaluate(f"madang.{name}.decision", input)
        except MadangError as error:
            return _denied(name, "error", str(error), bundle, digest)
        if not defined:
            message = (
                f"no rule decides this: data.madang.{name}.decision is undefined; "
                f"see policies/ or an OPA server's bundle"
            )
            return _denied(name, "undefined", message, bundle, digest)
        try:
            return _read(name, value, bundle, digest)
        except (AttributeError, KeyError, TypeError, ValueError):
            message = f"data.madang.{name}.decision is not an object with allow and deny: {value!r}"
            return _denied(name, "malformed", message, bundle, digest)


def _denied(name: str, rule: str, message: str, bundle: str, digest: str) -> Decision:
    return Decision(name, False, (Reason(rule, message),), (), bundle, digest)


def _read(name: str, value: Any, bundle: str, digest: str) -> Decision:
    allow, deny = value["allow"], value["deny"]
    if type(allow) is not bool or type(deny) is not list:
        raise TypeError
    reasons = tuple(map(_reason, deny))
    if not allow and not reasons:
        reasons = (Reason("decision", f"data.madang.{name}.decision does not allow it"),)
    exempt = tuple(map(str, value.get("exempt", ())))
    return Decision(name, allow and not reasons, reasons, exempt, bundle, digest)


def _reason(found: Any) -> Reason:
    if type(found) is str:
        return Reason("deny", found)
    if type(found) is dict and type(found.get("message")) is str:
        return Reason(str(found.get("rule", "deny")), found["message"])
    return Reason("deny", json.dumps(found))
