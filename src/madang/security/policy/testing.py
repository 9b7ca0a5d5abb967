"""Runs Rego tests, as `opa test` does: rules whose names begin with `test_`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madang.errors import MadangError
from madang.security.policy.bundle import read_bundle
from madang.security.policy.contract import PolicyEngine
from madang.security.policy.rego.parser import parse


@dataclass(frozen=True)
class TestResult:
    """One test.

    Attributes:
        name: The rule's path.
        file: Where it stands, with its line.
        passed: Its value is true.
        problem: Why not: another value, undefined, or an error.
    """

    __test__ = False  # pytest would collect it

    name: str
    file: str
    passed: bool
    problem: str = ""


def run_tests(root: Path, engine: PolicyEngine, *, match: str = "") -> list[TestResult]:
    """Runs all tests of the packaged rules and of `policies/`, on an engine of their own.

    Args:
        root: The project's folder.
        engine: Gets the bundle with its tests loaded.
        match: Only tests whose path holds this text.

    Raises:
        InvalidInputError: A file can't be loaded.
    """
    bundle = read_bundle(root, tests=True)
    engine.load(bundle)
    found: dict[str, TestResult] = {}
    for file, text in bundle.files.items():
        module = parse(text, file)
        for rule in module.rules:
            path = ".".join((*module.package, *rule.path))
            if rule.path[-1].startswith("test_") and match in path and path not in found:
                found[path] = _run(engine, path, f"{file}:{rule.line}")
    return list(found.values())


def _run(engine: PolicyEngine, path: str, where: str) -> TestResult:
    try:
        defined, value = engine.evaluate(path, None)
    except MadangError as error:
        return TestResult(path, where, passed=False, problem=str(error))
    if not defined:
        return TestResult(path, where, passed=False, problem="undefined")
    if value is not True:
        return TestResult(path, where, passed=False, problem=f"its value is {value!r}")
    return TestResult(path, where, passed=True)
