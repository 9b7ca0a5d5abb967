"""Definitions: their hashes, and the modules that hold them."""

from __future__ import annotations

import functools
import importlib
import textwrap
from dataclasses import replace
from datetime import timedelta

import pytest

from madang.data.features import FeatureView
from madang.data.features.definitions import check, describe, fingerprint, hash_of, load, restore
from madang.errors import AlreadyExistsError, InvalidInputError

VIEW = FeatureView("v", ("k",), "t", ("x",), sql="SELECT k, t, x FROM s")


def defined(folder, text, name="m"):
    """The view `v` of a module with this text."""
    folder.mkdir(exist_ok=True)
    head = "from madang.data.features import FeatureView\nfrom datetime import timedelta\n"
    foot = 'v = FeatureView("v", ("k",), "t", ("x",), function=f, sources=("s",))\n'
    (folder / f"{name}.py").write_text(head + textwrap.dedent(text) + foot)
    return load(folder)["v"][0]


class TestHash:
    @pytest.mark.parametrize(
        "change",
        [
            {"name": "w"},
            {"entity": ("k", "l")},
            {"timestamp": "u"},
            {"features": ("y",)},
            {"ttl": timedelta(hours=1)},
            {"sql": "SELECT k, t, 2 * x AS x FROM s"},
        ],
    )
    def test_changes_with_the_definition(self, change):
        assert hash_of(replace(VIEW, **change)) != hash_of(VIEW)

    def test_description_owner_and_tags_are_not_the_definition(self):
        described = replace(VIEW, description="d", owner="o", tags={"a": "b"})
        assert hash_of(described) == hash_of(VIEW)

    def test_is_the_same_in_every_process(self):
        """A figure from another process: the hash is kept in ledgers."""
        assert hash_of(VIEW) == "0ff81258095457d9"

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("def f(tables): return tables['s']\n", "def f(tables): return tables['s'][:1]\n"),
            ("def f(t, n=1): return n\n", "def f(t, n=2): return n\n"),
            ("def f(t, *, n=1): return n\n", "def f(t, *, n=2): return n\n"),
            ("N = 1\ndef f(t): return N\n", "N = 2\ndef f(t): return N\n"),
            (
                "P = timedelta(1)\ndef f(t): return [P for _ in t]\n",
                "P = timedelta(2)\ndef f(t): return [P for _ in t]\n",
            ),
            (
                "def g(t): return 1\ndef f(t): return g(t)\n",
                "def g(t): return 2\ndef f(t): return g(t)\n",
            ),
            (
                "def make(n):\n    def f(t): return n\n    return f\nf = make(1)\n",
                "def make(n):\n    def f(t): return n\n    return f\nf = make(2)\n",
            ),
            ("f = (lambda t: 1)\n", "f = (lambda t: 2)\n"),
        ],
    )
    def test_changes_with_what_the_function_does(self, tmp_path, before, after):
        first = hash_of(defined(tmp_path / "a", before))
        assert first != hash_of(defined(tmp_path / "b", after))
        assert first == hash_of(defined(tmp_path / "c", before, name="other"))

    def test_comments_layout_and_docstring_are_not_the_definition(self, tmp_path):
        bare = 'def f(tables):\n    return tables["s"]\n'
        full = '# why\ndef f(tables):\n    """Doc."""\n\n    return (tables["s"])  # so\n'
        assert hash_of(defined(tmp_path / "a", bare)) == hash_of(defined(tmp_path / "b", full))

    def test_a_dataclass_of_the_module_counts_by_its_values(self, tmp_path):
        text = """
            from dataclasses import dataclass
            @dataclass(frozen=True)
            class F:
                n: int
                def __call__(self, tables): return tables
            f = F({})
            """
        one = hash_of(defined(tmp_path / "a", text.format(1)))
        assert one == hash_of(
            defined(tmp_path / "b", "# moved\n" + textwrap.dedent(text).format(1))
        )
        assert one != hash_of(defined(tmp_path / "c", text.format(2)))

    def test_a_module_that_the_user_imports_has_the_same_views(self, tmp_path, monkeypatch):
        text = """
            from dataclasses import dataclass
            @dataclass(frozen=True)
            class F:
                n: int = 1
                def __call__(self, tables): return tables
            f = F()
            """
        loaded = defined(tmp_path / "features", text, name="shared")
        monkeypatch.syspath_prepend(tmp_path)
        imported = importlib.import_module("features.shared").v
        assert imported is not loaded
        assert hash_of(imported) == hash_of(loaded)

    def test_partial_and_recursive_functions(self):
        def countdown(n):
            return countdown(n - 1) if n else 0

        assert fingerprint(countdown) == fingerprint(countdown)
        one, two = functools.partial(countdown, n=1), functools.partial(countdown, n=2)
        assert fingerprint(one) != fingerprint(two)

    def test_objects_with_hidden_state_are_refused(self):
        class Counter:
            def __call__(self, tables):
                return tables

        with pytest.raises(InvalidInputError, match=r"must be a function.*Counter"):
            fingerprint(Counter())


def test_describe_and_restore_are_each_others_reverse():
    view = replace(VIEW, ttl=timedelta(hours=1), tags={"a": "b"}, owner="o", description="d")
    assert restore(describe(view), None) == view


class TestCheck:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": "1v"}, "feature view '1v': a name starts with a letter"),
            ({"name": "a__b"}, "single _"),
            ({"name": "x" * 64}, "at most 63"),
            ({"entity": ()}, r"entity is a tuple of column names, found \(\)"),
            ({"entity": "k"}, "entity is a tuple of column names, found 'k'"),
            ({"features": ()}, "features is a tuple of column names"),
            ({"features": ("k", "x")}, "k stands twice among its columns"),
            ({"sql": None}, "give either sql or function"),
            ({"function": len}, "give either sql or function"),
            ({"sql": None, "function": len}, "name the datasets that its function reads"),
            ({"ttl": timedelta(0)}, "ttl must be longer than nothing, found 0:00:00"),
        ],
    )
    def test_what_can_not_work_is_refused(self, change, message):
        with pytest.raises(InvalidInputError, match=message):
            check(replace(VIEW, **change))


class TestLoad:
    def test_every_view_at_the_top_of_a_module(self, tmp_path):
        (tmp_path / "a.py").write_text(
            "from madang.data.features import FeatureView\n"
            'one = FeatureView("one", ("k",), "t", ("x",), sql="SELECT 1")\n'
            'two = again = FeatureView("two", ("k",), "t", ("x",), sql="SELECT 2")\n'
        )
        (tmp_path / "b.txt").write_text("not Python")
        assert sorted(load(tmp_path)) == ["one", "two"]
        assert load(tmp_path)["two"][1] == tmp_path / "a.py"
        assert load(tmp_path / "absent") == {}

    def test_a_module_runs_once_until_its_text_changes(self, tmp_path):
        text = "def f(tables): return tables['s']\n"
        first = defined(tmp_path, text)
        assert load(tmp_path)["v"][0] is first
        assert defined(tmp_path, text.replace("'s'", "'r'")) is not first

    def test_a_module_that_fails_is_named(self, tmp_path):
        (tmp_path / "bad.py").write_text("1 / 0\n")
        with pytest.raises(InvalidInputError, match=r"bad\.py: ZeroDivisionError: division by z"):
            load(tmp_path)

    def test_a_module_with_a_wrong_view_is_named(self, tmp_path):
        with pytest.raises(InvalidInputError, match=r"m\.py: feature view 'v': x stands twice"):
            defined(
                tmp_path,
                'v1 = FeatureView("v", ("x",), "t", ("x",), sql="SELECT 1")\nf = len\n',
            )

    def test_two_views_of_one_name_are_refused(self, tmp_path):
        defined(tmp_path, "def f(tables): return 1\n", name="first")
        with pytest.raises(AlreadyExistsError, match=r"second\.py.*'v' is already.*first\.py"):
            defined(tmp_path, "def f(tables): return 2\n", name="second")
