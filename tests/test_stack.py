from __future__ import annotations

import stat

import pytest

import madang
from madang.errors import AlreadyExistsError, ConfigurationError, InvalidInputError
from madang.stack import COMPONENTS, Project

NAME = '[project]\nname = "p"\n'


def read(tmp_path, text, env=None):
    (tmp_path / "madang.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Project.find(tmp_path, env)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project", r"madang\.toml: "),
        (b"\xff", r"madang\.toml: .*decode"),
        ("", r"\[project\] needs a name of letters, digits, - and _, found None"),
        ('[project]\nname = "a b"', r"found 'a b'"),
        ("[project]\nname = 3", r"found 3"),
        ('project = "x"', r"\[project\] must be a table"),
        (f"{NAME}color = 1", r"unknown project\.color; known are: name"),
        (f"{NAME}[stak]", r"unknown stak; known are: env, project, server, sources, stack"),
        (
            f'{NAME}[stack]\nstorages = "x"',
            r"unknown stack\.storages; known are: ab_testing, audit, code_versions, c",
        ),
        (f"{NAME}[stack]\nstorage = 3", r"stack\.storage must be a URL, found 3"),
        (f'stack = "x"\n{NAME}', r"\[stack\] must be a table"),
        (f"env = 3\n{NAME}", r"\[env\] must be a table"),
        (f"{NAME}[env]\na = 3", r"\[env\.a\] must be a table"),
        (f"{NAME}[sources]\norders = 3", r"sources\.orders must be a URL, found 3"),
        (f'{NAME}[sources]\norders = "x"', r"sources\.orders must begin with scheme://"),
        (f"{NAME}[env.a]\nb = 3", r"unknown env\.a\.b; known are: stack"),
        (f"{NAME}[env.a]\nstack = 3", r"\[env\.a\.stack\] must be a table"),
        (f"{NAME}[env.a.stack]\nx = 3", r"unknown env\.a\.stack\.x; known are: "),
        (f"{NAME}[env.a.stack]\nlogs = 3", r"env\.a\.stack\.logs must be a URL, found 3"),
    ],
)
def test_a_bad_madang_toml_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "madang.toml") in str(caught.value)


def test_an_environment_differs_in_what_it_says(tmp_path):
    text = (
        f'{NAME}[stack]\nstorage = "s3://a"\nlogs = "local:///l"\n'
        '[env.staging.stack]\nstorage = "s3://b"\n[env.empty]\n'
    )
    assert read(tmp_path, text).urls == {"storage": "s3://a", "logs": "local:///l"}
    staging = read(tmp_path, text, "staging")
    assert (staging.env, staging.urls["storage"]) == ("staging", "s3://b")
    assert staging.urls["logs"] == "local:///l"
    assert read(tmp_path, text, "empty").urls == read(tmp_path, text).urls


def test_a_missing_environment_is_named(tmp_path):
    message = r"madang\.toml has no environment 'prod'; it has: staging, test"
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, f"{NAME}[env.test]\n[env.staging]\n", "prod")
    with pytest.raises(ConfigurationError, match=r"has no environment 'prod'; it has: none"):
        read(tmp_path, NAME, "prod")


def test_variables_choose_the_project_and_the_environment(tmp_path, monkeypatch):
    read(tmp_path, f'{NAME}[env.e.stack]\nlogs = "local:///e"\n')
    monkeypatch.setenv("MADANG_PROJECT", str(tmp_path))
    monkeypatch.setenv("MADANG_ENV", "e")
    assert Project.find().env == "e"
    monkeypatch.setenv("MADANG_ENV", "")
    assert Project.find().env is None
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert Project.find(inner).root == tmp_path


def test_no_project_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no madang\.toml in .* run: madang init"):
        madang.open(tmp_path)


def test_init_makes_a_project(tmp_path):
    root = tmp_path / "new" / "my project!"
    project = madang.init(root)
    assert (project.name, project.root) == ("my-project", root)
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    assert folders == {
        "pipelines",
        "features",
        "views",
        "contracts",
        "policies",
        "triggers",
        ".madang",
    }
    assert (root / ".gitignore").read_text() == ".madang/\n"
    assert stat.S_IMODE((root / ".madang").stat().st_mode) == 0o700
    with madang.open(root) as stack:
        assert stack.context.project == "my-project"
        assert repr(stack) == f"Stack('my-project', '{root}')"


def test_init_keeps_what_git_ignores_already(tmp_path):
    (tmp_path / ".gitignore").write_text("*.csv")
    madang.init(tmp_path, name="p")
    assert (tmp_path / ".gitignore").read_text() == "*.csv\n.madang/\n"


def test_the_commented_lines_of_a_new_madang_toml_are_right(tmp_path):
    madang.init(tmp_path, name="p")
    file = tmp_path / "madang.toml"
    lines = file.read_text().splitlines()
    text = "\n".join(
        line.removeprefix("# ") for line in lines if "=" in line or line.startswith(("[", "# ["))
    )
    project = read(tmp_path, text, "staging")
    assert {*project.urls} == {"metadata", "storage", "collection"}


def test_init_refuses_a_second_time(tmp_path):
    madang.init(tmp_path, name="p")
    with pytest.raises(AlreadyExistsError, match=r"already is a project: it has a madang\.toml"):
        madang.init(tmp_path, name="q")
    assert Project.find(tmp_path).name == "p"


@pytest.mark.parametrize("name", ["", "a b", "-a", "ü", "a" * 64, "../x"])
def test_init_refuses_a_bad_name(tmp_path, name):
    with pytest.raises(InvalidInputError, match="a project's name has letters, digits"):
        madang.init(tmp_path / "new", name=name)
    assert not (tmp_path / "new").exists()


def test_every_component_has_its_attribute(stack):
    for name in [*COMPONENTS, "metadata", "ledger", "registry"]:
        assert getattr(stack, name) is not None
        assert type(stack).__dict__[name].__doc__


def test_an_attribute_is_connected_once(stack):
    assert stack.configuration is stack.configuration


def test_closing_twice_is_safe_and_one_that_fails_keeps_none_open(stack, monkeypatch):
    closed = []
    stack.logs, stack.configuration
    database = stack.metadata
    monkeypatch.setattr(type(database), "close", lambda self: closed.append("metadata"))

    def fail():
        raise OSError("full")

    monkeypatch.setattr(stack.configuration, "close", fail)
    monkeypatch.setattr(stack.logs, "close", lambda: closed.append("logs"))
    with pytest.raises(OSError, match="full"):
        stack.close()
    assert closed == ["logs", "metadata"]
    monkeypatch.undo()
    database.close()
    stack.close()


def test_a_secret_reaches_an_engine_without_being_written_down(tmp_path):
    madang.init(tmp_path, name="p")
    with madang.open(tmp_path) as stack:
        stack.secrets.set("folder", "hidden/place")
        assert stack.context.resolve_url("local:///${secret:folder}") == "local:///hidden%2Fplace"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hidden/place" not in path.read_bytes(), path
