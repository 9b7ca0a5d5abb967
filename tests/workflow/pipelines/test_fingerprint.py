"""What changes a step's fingerprint, and what must not."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
import types

import pytest

from madang.workflow.pipelines import _sources
from madang.workflow.pipelines.fingerprint import fingerprint


@pytest.fixture
def of(tmp_path, monkeypatch):
    """The fingerprint of `f` in a module with this source, beside other modules."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def of(source, name="f", **others):
        for other, text in {**others, "prints": source}.items():
            (tmp_path / f"{other}.py").write_text(textwrap.dedent(text))
        for loaded in set(sys.modules) - before:
            if hasattr(sys.modules[loaded], "__file__") and str(tmp_path) in str(
                sys.modules[loaded].__file__
            ):
                del sys.modules[loaded]
        importlib.invalidate_caches()
        _sources.version.cache_clear()
        return fingerprint(getattr(importlib.import_module("prints"), name))

    yield of
    for loaded in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[loaded], "__file__", "")):
            del sys.modules[loaded]
    _sources.version.cache_clear()


BASE = """
    LIMIT = 3
    NAMES = ["a", {"k": (1, 2)}]

    def helper(x):
        return x + LIMIT

    def f(x, y=1, *, z=2):
        total = 0
        for name in NAMES:
            total += helper(x) * 2
        return total + y + z
"""

CHANGES = {
    "the code": ("* 2", "* 2 - 1"),
    "a constant in it": ("* 2", "* 4"),
    "a default": ("y=1", "y=2"),
    "a default of a keyword": ("z=2", "z=3"),
    "a helper's code": ("x + LIMIT", "x - LIMIT"),
    "a global": ("LIMIT = 3", "LIMIT = 4"),
    "a global's type": ("LIMIT = 3", "LIMIT = 3.0"),
    "what a list holds": ('["a"', '["b"'),
    "what is nested in it": ("(1, 2)", "(1, 3)"),
    "a key": ('"k"', '"l"'),
    "the kind of a container": ("(1, 2)", "[1, 2]"),
    "a global that becomes a function": ("LIMIT = 3", "def LIMIT(): return 3"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_it(of, what):
    old, new = CHANGES[what]
    assert old in BASE
    assert of(BASE) != of(BASE.replace(old, new, 1))


SAME = {
    "nothing": ("", ""),
    "a comment": ("total = 0", "total = 0  # from here"),
    "blank lines": ("total = 0", "total = 0\n\n"),
    "formatting": ("total + y + z", "(total\n            + y + z)"),
    "an unrelated function": ("LIMIT = 3", "def other():\n        return 5\n    LIMIT = 3"),
    "an unrelated global": ("LIMIT = 3", "OTHER = 9\n    LIMIT = 3"),
    "an annotation": ("def helper(x)", "def helper(x: int) -> int"),
}


@pytest.mark.parametrize("what", SAME)
def test_what_does_not(of, what):
    old, new = SAME[what]
    assert of(BASE) == of(BASE.replace(old, new, 1))


def test_it_is_the_same_in_another_process_whatever_the_hashes(tmp_path):
    (tmp_path / "prints.py").write_text(
        textwrap.dedent(
            """
            WORDS = {"a", "b", "c", "d", "e"}
            MAP = {"x": WORDS, "y": frozenset([1, "2", None])}
            def f(word):
                return word in WORDS or word in {"p", "q", "r", "s"} or word in MAP
            """
        )
    )
    program = (
        "from madang.workflow.pipelines.fingerprint import fingerprint\n"
        "import prints\nprint(fingerprint(prints.f))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_helpers_in_other_modules_of_the_project(of):
    source = "from tools import help\ndef f(x):\n    return help(x)\n"
    one = of(source, tools="def help(x):\n    return x\n")
    assert one != of(source, tools="def help(x):\n    return -x\n")
    assert one == of(source, tools="# a comment\ndef help(x):\n    return x\n")
    by_module = "import tools\ndef f(x):\n    return tools.help(x)\n"
    assert of(by_module, tools="def help(x):\n    return x\n") != of(by_module, tools="def help(x):\n    return -x\n")  # fmt: skip


def test_helpers_behind_helpers_in_other_modules(of):
    source = "from tools import help\ndef f(x):\n    return help(x)\n"
    tools = "from deeper import LIMIT\ndef help(x):\n    return x + LIMIT\n"
    assert of(source, tools=tools, deeper="LIMIT = 1\n") != of(source, tools=tools, deeper="LIMIT = 2\n")  # fmt: skip
    by_module = "import deeper\ndef help(x):\n    return x + deeper.LIMIT\n"
    assert of(source, tools=by_module, deeper="LIMIT = 1\n") != of(source, tools=by_module, deeper="LIMIT = 2\n")  # fmt: skip


def test_imports_inside_of_the_function(of):
    source = "def f(x):\n    from tools import help\n    return help(x)\n"
    assert of(source, tools="def help(x):\n    return x\n") != of(source, tools="def help(x):\n    return -x\n")  # fmt: skip
    missing = "def f(x):\n    import nowhere_to_be_found\n    return x\n"
    assert of(missing) == of(missing)  # the step will say so itself


def test_classes_and_their_attributes(of):
    source = """
        class Model:
            rate = 1
            def predict(self, x):
                return x * self.rate
        def f(x):
            return Model().predict(x)
    """
    assert of(source) != of(source.replace("rate = 1", "rate = 2"))
    assert of(source) != of(source.replace("x * self", "x + self"))
    base = "class Base:\n    rate = {}\n"
    child = "from base import Base\nclass Model(Base):\n    pass\ndef f():\n    return Model.rate\n"
    assert of(child, base=base.format(1)) != of(child, base=base.format(2))


def test_objects_of_classes_of_the_project(of):
    source = """
        class Settings:
            def __init__(self, rate):
                self.rate = rate
        SETTINGS = Settings(1)
        def f(x):
            return x * SETTINGS.rate
    """
    assert of(source) != of(source.replace("Settings(1)", "Settings(2)"))


def test_closures(of):
    source = """
        def make(factor):
            def inner(x):
                return x * factor
            return inner
        f = make(2)
    """
    assert of(source) != of(source.replace("make(2)", "make(3)"))
    two = """
        def make(factor):
            def inner(x):
                return x * factor
            return inner
        a, b = make(2), make(3)
        def f(x):
            return a(x) + b(x)
    """
    assert of(two) != of(two.replace("make(3)", "make(4)"))
    assert of(two) == of(two)


def test_lambdas_nested_functions_and_comprehensions(of):
    source = "f = lambda x: [(lambda y: y + 1)(i) for i in range(x)]\n"
    assert of(source) != of(source.replace("+ 1", "+ 2"))
    nested = "def f(x):\n    def g():\n        return x + 1\n    return g()\n"
    assert of(nested) != of(nested.replace("+ 1", "+ 2"))


def test_methods(of):
    source = "class A:\n    n = 1\n    def g(self):\n        return self.n\nf = A().g\n"
    assert of(source) != of(source.replace("n = 1", "n = 2"))


def test_partial(of):
    source = """
        from functools import partial
        def g(x, y):
            return x + y
        p = partial(g, y=1)
        def f(x):
            return p(x)
    """
    assert of(source) != of(source.replace("y=1", "y=2"))
    assert of(source) != of(source.replace("x + y", "x - y"))


def test_decorated_helpers(of):
    source = """
        import functools
        def twice(function):
            @functools.wraps(function)
            def wrapped(x):
                return function(x) * 2
            return wrapped
        @twice
        def helper(x):
            return x + 1
        def f(x):
            return helper(x)
    """
    assert of(source) != of(source.replace("x + 1", "x + 2"))
    assert of(source) != of(source.replace("* 2", "* 3"))


def test_steps_that_call_steps(of):
    source = """
        from madang import step
        @step
        def g(x):
            return x + 1
        @step
        def f(x):
            return g(x)
    """
    assert of(source) != of(source.replace("x + 1", "x + 2"))


def test_recursion_ends(of):
    source = """
        def f(x):
            return g(x - 1) if x else 0
        def g(x):
            return f(x - 1) + 1
    """
    assert of(source) != of(source.replace("+ 1", "+ 2"))
    closure = """
        def make():
            def f(x):
                return f(x - 1) if x else 0
            return f
        f = make()
    """
    assert of(closure) == of(closure)


def test_the_version_of_a_library(of, monkeypatch):
    from importlib import metadata

    known = {"somelibrary": "1.0"}
    monkeypatch.setitem(sys.modules, "somelibrary", types.ModuleType("somelibrary"))
    monkeypatch.setattr(metadata, "version", lambda name: known[name])
    sources = (
        "import somelibrary\ndef f(x):\n    return somelibrary\n",
        "def f(x):\n    import somelibrary\n    return somelibrary\n",
        "from tools import g\ndef f(x):\n    return g(x)\n",
    )
    tools = "import somelibrary\ndef g(x):\n    return somelibrary\n"
    for source in sources:
        known["somelibrary"] = "1.0"
        one = of(source, tools=tools)
        known["somelibrary"] = "1.1"
        assert one != of(source, tools=tools), source
    unrelated = "import somelibrary\ndef f(x):\n    return x\n"
    one = of(unrelated)
    known["somelibrary"] = "1.2"
    assert one == of(unrelated)


def test_the_version_of_python(of, monkeypatch):
    one = of(BASE)
    monkeypatch.setattr(sys, "version", "3.99")
    assert one != of(BASE)


def test_containers_that_hold_themselves(of):
    source = "LOOP = [1]\nLOOP.append(LOOP)\ndef f():\n    return LOOP\n"
    assert of(source) == of(source)
    assert of(source) != of(source.replace("[1]", "[2]"))


def test_nothing_is_imported_to_find_out(tmp_path):
    (tmp_path / "heavy.py").write_text("raise SystemExit('was imported')\n\ndef work(): ...\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text("raise SystemExit('was imported')\n")
    (tmp_path / "inner" / "deep.py").write_text("def work(): ...\n")
    (tmp_path / "light.py").write_text(
        "def step():\n    from heavy import work\n    from inner.deep import work as other\n"
    )
    code = (
        "import light\nfrom madang.workflow.pipelines.fingerprint import fingerprint\n"
        "print(fingerprint(light.step))\n"
    )

    def run():
        return subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    before = run()
    assert run() == before
    (tmp_path / "inner" / "deep.py").write_text("def work(): return 1\n")
    assert run() != before
