from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

import madang
from madang import engines
from madang.engines import Context, Engine, EngineURL, Health
from madang.errors import (
    ConfigurationError,
    MissingDependencyError,
    NotFoundError,
    UnknownEngineError,
)
from madang.stack import COMPONENTS

ALL = ["metadata", *COMPONENTS.values()]


def rows():
    return list(_rows())


def _rows():
    for component in ALL:
        package = importlib.import_module(f"madang.{component}")
        for scheme, target in package.ENGINES.items():
            yield pytest.param(component, scheme, target, id=f"{component}-{scheme}")


@pytest.fixture
def context(tmp_path):
    return Context("test", tmp_path)


# -- the tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("component", "scheme", "target"), rows())
def test_every_row_resolves_to_a_whole_engine(component, scheme, target):
    assert target.startswith(f"madang.{component}.")
    engine = engines.load(target, component, scheme)
    assert issubclass(engine, Engine)
    assert not engine.__abstractmethods__
    contract = importlib.import_module(f"madang.{component}.contract")
    assert any(base.__module__ == contract.__name__ for base in engine.__mro__)


@pytest.mark.parametrize(("component", "scheme", "target"), rows())
def test_signatures_are_those_of_the_contract(component, scheme, target):
    engine = engines.load(target, component, scheme)
    contracts = [base for base in engine.__mro__[1:] if base.__module__.endswith(".contract")]
    for contract in [*contracts, Engine]:
        for name, method in vars(contract).items():
            if name.startswith("_") or not callable(getattr(contract, name)):
                continue
            if isinstance(method, type):
                continue
            promised = inspect.signature(getattr(contract, name))
            found = inspect.signature(getattr(engine, name))
            compare = lambda s: [(p.name, p.kind, p.default) for p in s.parameters.values()]  # noqa: E731
            assert compare(found) == compare(promised), f"{engine.__name__}.{name}"


@pytest.mark.parametrize(("component", "scheme", "target"), rows())
def test_every_scheme_is_an_extra_or_in_the_core(component, scheme, target):
    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    default = importlib.import_module(f"madang.{component}").DEFAULT
    core = {re.split(r"[\[>=;]", one)[0] for one in project["dependencies"]}
    in_core = scheme == default or scheme.rpartition("+")[2] in core | {"sqlite"}
    assert in_core or scheme.partition("+")[0] in project["optional-dependencies"]
    assert re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme)  # RFC 3986, section 3.1


@pytest.mark.parametrize(("component", "scheme", "target"), rows())
def test_an_unknown_option_is_refused(component, scheme, target, stack):
    url = f"{scheme}://?colour=red"
    with pytest.raises(ConfigurationError, match=rf"{re.escape(scheme)}:// has no option colour"):
        engines.connect(component, url, stack.context)


@pytest.mark.parametrize("component", ALL)
def test_contracts_have_few_methods(component):
    contract = importlib.import_module(f"madang.{component}.contract")
    own = [
        value
        for value in vars(contract).values()
        if isinstance(value, type) and value.__module__ == contract.__name__
    ]
    for value in own:
        # A contract of several parts is small when each of them is.
        abstract = {n for n, m in vars(value).items() if getattr(m, "__isabstractmethod__", False)}
        assert len(abstract) <= 10, f"{value.__name__}: {sorted(abstract)}"


# -- the default engines ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_default_engine_is_healthy_in_a_fresh_project(stack, name):
    health = getattr(stack, name).health()
    assert isinstance(health, Health)
    assert health.ok or health.advice, health


# -- choosing --------------------------------------------------------------------------------------


def test_an_unknown_engine_is_named_with_the_known_ones(context):
    message = "metadata has no engine 'oracle'; its engines are: postgresql, sqlite"
    with pytest.raises(UnknownEngineError, match=message):
        engines.connect("metadata", "oracle://x", context)


def test_a_missing_package_names_the_extra(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "madang.metadata.postgresql", raising=False)
    message = (
        r"metadata engine 'postgresql' needs the package 'psycopg', which is not installed; "
        r"run: pip install 'madang\[postgresql\]'"
    )
    with pytest.raises(MissingDependencyError, match=message) as caught:
        engines.connect("metadata", "postgresql://x", context)
    assert isinstance(caught.value, ImportError)


def test_a_missing_package_of_the_core_names_no_extra():
    with pytest.raises(MissingDependencyError, match=r"run: pip install --upgrade madang$"):
        engines.load("no_such_package:Engine", "data.storage", "local")


def test_a_broken_import_of_our_own_shows_as_itself():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'madang\.no_such'") as caught:
        engines.load("madang.no_such:Engine", "data.storage", "s3", "s3")
    assert not isinstance(caught.value, MissingDependencyError)


def test_an_engine_of_ones_own_is_a_row_in_the_table(context, monkeypatch):
    from madang import metadata

    monkeypatch.setitem(metadata.ENGINES, "mine", "madang.metadata.sqlite:SQLiteDatabase")
    database = engines.connect("metadata", "mine:///x.db", context)
    assert database.path == context.root / "x.db"


# -- URLs ------------------------------------------------------------------------------------------


def test_a_url_has_its_parts():
    url = EngineURL.parse("s3://us%40er:p%2Fw@Host:9000/a%20b/c?x=1&y=&z=a%26b")
    assert (url.scheme, url.username, url.password) == ("s3", "us@er", "p/w")
    assert (url.host, url.port, url.path) == ("host", 9000, "/a b/c")
    assert url.query == {"x": "1", "y": "", "z": "a&b"}


def test_secrets_are_not_in_a_repr():
    url = EngineURL.parse("s3://user:hidden@host/?secret_access_key=hidden")
    assert "hidden" not in repr(url)
    project = madang.stack.Project("p", Path(), {"storage": "s3://user:hidden@host"})
    assert "hidden" not in repr(project)


def test_paths_are_relative_with_three_slashes_and_absolute_with_four(tmp_path):
    path = lambda text: EngineURL.parse(text).local_path(tmp_path)  # noqa: E731
    assert path("local:///a/b") == tmp_path / "a" / "b"
    assert path("local:////a/b") == Path("/a/b")
    with pytest.raises(ConfigurationError, match=r"local://a/b names a host; write local:///a/b"):
        path("local://a/b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden", r"begins with scheme://, for example s3://bucket/prefix"),
        ("", r"begins with scheme://"),
        ("/hidden/path", r"begins with scheme://"),
        ("user:hidden@host", r"begins with scheme://"),
        ("s3://host:hidden/", r"s3://…: the port must be a number up to 65535"),
        ("s3://user:hidden/path", r"the port must be a number"),
        ("s3://host:99999/hidden", r"the port must be a number"),
        ("s3://[hidden", r"impossible host"),
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(text, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        EngineURL.parse(text)
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__ or "hidden" not in str(caught.value.__context__)


# -- references ------------------------------------------------------------------------------------


def test_references_are_resolved_at_use(context, monkeypatch):
    monkeypatch.setenv("A_NAME", "value")
    context.resolve_secret = {"key": "opened"}.__getitem__
    assert context.resolve("${env:A_NAME}-${secret:key}") == "value-opened"


def test_a_variable_that_is_not_set_is_named(context, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(NotFoundError, match="environment variable NOT_SET is not set"):
        context.resolve("x${env:NOT_SET}")


@pytest.mark.parametrize("value", ["p@ss/w:rd#?&=%41+ ü", "a,b", "${env:OTHER}"])
def test_a_value_can_not_change_the_structure_of_a_url(context, monkeypatch, value):
    monkeypatch.setenv("VALUE", value)
    text = "s3://us${env:VALUE}:${env:VALUE}@host:9000/in/${env:VALUE}?key=${env:VALUE}&b=1"
    url = EngineURL.parse(context.resolve_url(text))
    assert (url.username, url.password) == (f"us{value}", value)
    assert (url.host, url.port, url.path) == ("host", 9000, f"/in/{value}")
    assert url.query == {"key": value, "b": "1"}


def test_hosts_ports_and_whole_urls_may_be_references(context, monkeypatch):
    monkeypatch.setenv("BROKERS", "one:9092,two:9092")
    monkeypatch.setenv("PORT", "5432")
    monkeypatch.setenv("WHOLE", "postgresql://u:p@h/n?schema=s")
    assert context.resolve_url("kafka://${env:BROKERS}") == "kafka://one:9092,two:9092"
    url = EngineURL.parse(context.resolve_url("postgresql://h:${env:PORT}/n"))
    assert url.port == 5432
    assert context.resolve_url("${env:WHOLE}") == "postgresql://u:p@h/n?schema=s"


@pytest.mark.parametrize("component", ["metadata", "security.secrets"])
def test_what_secrets_need_can_not_wait_for_a_secret(context, component):
    context.resolve_secret = lambda name: "never asked"
    message = r"\$\{secret:key\} can't be used here.*use \$\{env:NAME\}"
    with pytest.raises(ConfigurationError, match=message):
        engines.connect(component, "sqlite://x:${secret:key}@host", context)


def test_a_context_without_a_stack_says_so(context):
    with pytest.raises(ConfigurationError, match=r"builds on the component 'storage'"):
        context.component("storage")
    with pytest.raises(ConfigurationError, match="secrets themselves are not open yet"):
        context.resolve("${secret:a}")


def test_threads_get_the_same_engines(stack):
    barrier, found = threading.Barrier(8), []

    def use():
        barrier.wait()
        found.append((stack.metadata, stack.ledger, stack.storage, stack.configuration))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert all(one is same for some in found for one, same in zip(some, found[0], strict=True))


def test_a_script_without_the_extra_gets_one_line(tmp_path):
    madang.init(tmp_path, name="test")
    file = tmp_path / "madang.toml"
    file.write_text('[project]\nname = "test"\n[stack]\nmetadata = "nothing://"\n')
    code = f"from madang.cli import main; main(['--project', {str(tmp_path)!r}, 'runs'])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("madang: metadata has no engine 'nothing'; its engines are: ")
    assert done.stderr.count("\n") == 1
