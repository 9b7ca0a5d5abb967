"""Tests that the prose is complete and true."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
import yaml

from madang.stack import COMPONENTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def named(page):
    return str(page.relative_to(ROOT))


def nav_pages(nav):
    for entry in nav:
        for value in entry.values():
            yield from nav_pages(value) if isinstance(value, list) else [value]


def configuration():
    # MkDocs' own tags, such as !!python/name, are left out of what is read here.
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


@pytest.mark.parametrize("component", COMPONENTS.values())
def test_every_component_has_its_page(component):
    page = f"{component.replace('.', '/')}.md"
    assert (DOCS / page).is_file()
    assert page in nav_pages(configuration()["nav"])
    text = (DOCS / page).read_text()
    package = importlib.import_module(f"madang.{component}")
    for scheme in package.ENGINES:
        assert scheme in text, f"{page} does not name the engine {scheme}"


def test_the_nav_holds_every_page_and_no_other():
    assert sorted(nav_pages(configuration()["nav"])) == [str(p.relative_to(DOCS)) for p in PAGES]


def commands(group, prefix):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield f"{prefix} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


def test_every_command_is_on_the_page_of_the_command_line():
    from madang.cli import cli

    text = (DOCS / "cli.md").read_text()
    missing = [name for name in commands(cli, "madang") if f"`{name}`" not in text]
    groups = {
        name
        for name in missing
        if any(one.startswith(f"{name} ") for one in commands(cli, "madang"))
    }
    assert not {*missing} - groups
    listed = {*re.findall(r"^\| `(madang [^`]+)`", text, re.MULTILINE)}
    assert not listed - {*commands(cli, "madang")}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=named)
def test_links_lead_somewhere(page):
    text = re.sub(FENCE, "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{named(page)} links to {target}"
        if anchor and found.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", t).strip().lower().replace(" ", "-") for t in titles}
            assert anchor in slugs, f"{named(page)} links to {target}"


def blocks(page, language):
    return [
        code
        for name, rest, code in FENCE.findall(page.read_text())
        if name == language and "notest" not in rest
    ]


@pytest.mark.parametrize(
    "page", [p for p in [*PAGES, ROOT / "README.md"] if blocks(p, "python")], ids=named
)
def test_python_blocks_run(page, stack, monkeypatch):
    monkeypatch.chdir(stack.root)
    # A module, because dataclasses, engines and steps look theirs up by name.
    module = types.ModuleType(f"docs_{page.stem}")
    module.stack = stack
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{named(page)}, block {number}", "exec"), module.__dict__)


@pytest.mark.timeout(600)
def test_the_commands_of_the_readme_run(tmp_path):
    text = "\n".join(blocks(ROOT / "README.md", "console"))
    commands = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
        elif "<<'END'" in commands[-1]:  # it goes on in a here-document
            commands[-1] += f"\n{line}"
    commands = [
        c for c in commands if not re.match(r"(\S*pip|python3? -m (venv|pip)|make|git clone)\b", c)
    ]
    assert sum("<<'END'" in c for c in commands) == text.count("<<'END'") > 0
    script = "set -euxo pipefail\n" + "\n".join(commands)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "shop" / "image" / "Dockerfile").is_file()  # what the last command makes


def test_the_text_never_asks_another_host_for_fonts_or_scripts():
    assert configuration()["theme"]["font"] is False
    assert "extra_javascript" not in configuration()


def test_what_the_makefile_runs_is_there():
    text = (ROOT / "Makefile").read_text()
    scripts = re.findall(r"\$\(BIN\)/python (\S+\.py)", text)
    assert scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_make_bench_runs_every_benchmark():
    folder = ROOT / "benchmarks"
    listed = re.findall(r'^    "(\w+)": \[', (folder / "run.py").read_text(), re.MULTILINE)
    there = {path.stem for path in folder.glob("*.py")} - {"run", "peer_environments"}
    assert set(listed) == there
