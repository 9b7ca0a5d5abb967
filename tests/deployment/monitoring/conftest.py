"""A project whose metadata is in PostgreSQL."""

from __future__ import annotations

import os

# One thread each: OpenMP's threads spin while they wait, and tests share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


import pytest

import madang


@pytest.fixture
def postgresql_stack(tmp_path, postgresql_url):
    """A fresh project whose monitors are in PostgreSQL."""
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(f'\n[stack]\nmetadata = "{postgresql_url}"\n')
    with madang.open(tmp_path) as opened:
        yield opened
