from __future__ import annotations

import os

import pytest
from tests.workflow.orchestration.projects import PIPELINES, open_gate

import madang


@pytest.fixture
def stack(tmp_path, request):
    toml = ""
    if getattr(request, "param", "sqlite") == "postgresql":
        toml = f'[stack]\nmetadata = "{request.getfixturevalue("postgresql_url")}"\n'
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(toml)
    (tmp_path / "pipelines" / "all.py").write_text(PIPELINES)
    with madang.open(tmp_path) as stack:
        yield stack


@pytest.fixture
def gate(stack):
    os.mkfifo(stack.root / "gate")
    return lambda: open_gate(stack)
