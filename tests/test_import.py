from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import madang
from madang.stack import COMPONENTS

# Everything that takes time or memory, and every SDK.
HEAVY = {
    "confluent_kafka", "cryptography", "deltalake", "duckdb", "fastapi", "jinja2", "lightgbm",
    "lmdb", "numpy", "obstore", "onnx", "onnxruntime", "optuna", "pandas", "polars", "psycopg",
    "pyarrow", "rich", "sklearn", "skops", "uvicorn", "uvloop", "xgboost", "yaml",
}  # fmt: skip


def modules_after(code):
    """What a fresh interpreter has imported after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code", ["import madang", "import madang.stack", "from madang import Stack, init, open"]
)
def test_importing_loads_no_engine_and_no_sdk(code):
    found = modules_after(code)
    assert not {name.partition(".")[0] for name in found} & HEAVY
    ours = {name for name in found if name.startswith("madang.")}
    assert ours <= {"madang.engines", "madang.errors", "madang.stack"}


def test_opening_a_project_loads_no_engine(tmp_path):
    madang.init(tmp_path, name="test")
    found = modules_after(f"import madang; madang.open({str(tmp_path)!r})")
    assert not {name.partition(".")[0] for name in found} & HEAVY


@pytest.mark.parametrize("component", ["metadata", *COMPONENTS.values()])
def test_a_component_alone_loads_none_of_its_engines(component):
    package = importlib.import_module(f"madang.{component}")
    found = modules_after(f"import madang.{component}")
    engines = {target.partition(":")[0] for target in package.ENGINES.values()}
    assert not found & engines
    # A contract speaks Arrow and nothing heavier.
    tops = {name.partition(".")[0] for name in found}
    assert not tops & (HEAVY - {"pyarrow", "numpy", "yaml"})


def test_the_command_line_alone_loads_no_engine():
    found = modules_after("import madang.cli")
    assert not {name.partition(".")[0] for name in found} & HEAVY


def test_public_names_are_there():
    for name in dir(madang):
        assert getattr(madang, name) is not None
    assert madang.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="module 'madang' has no attribute 'missing'"):
        madang.missing


def every_module():
    # A `__main__` runs a program when it is imported.
    found = pkgutil.walk_packages(madang.__path__, "madang.")
    return sorted(module.name for module in found if not module.name.endswith(".__main__"))


@pytest.mark.parametrize("name", every_module())
def test_all_is_sorted_and_true(name):
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))
    # Ruff's order: constants, then classes, then the rest.
    kind = lambda n: 0 if n.isupper() else 1 if n[0].isupper() else 2  # noqa: E731
    assert exported == sorted(exported, key=lambda n: (kind(n), n))
    assert len({*exported}) == len(exported)
    for export in exported:
        assert hasattr(module, export), f"{name}.__all__ names {export}, which is not there"


@pytest.mark.parametrize("component", COMPONENTS.values())
def test_a_component_exports_its_contract_and_connect(component):
    package = importlib.import_module(f"madang.{component}")
    assert {"DEFAULT", "ENGINES", "connect"} <= {*package.__all__}
    assert list(package.ENGINES) == sorted(package.ENGINES)
    assert package.DEFAULT in package.ENGINES


def test_no_file_of_the_package_is_ignored_by_git():
    """What git ignores is left out of the wheel as well, even where it was added by force."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("the sources are in no git repository here")
    command = ["git", "-C", str(root), "ls-files", "-i", "-c", "--exclude-standard", "src"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
