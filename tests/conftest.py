"""Fixtures for all tests: a fresh project, and real servers on loopback."""

from __future__ import annotations

import pytest

import madang

pytest_plugins = [
    "tests.servers.kafka",
    "tests.servers.postgresql",
    "tests.servers.s3",
]


@pytest.fixture
def stack(tmp_path):
    """A fresh project on the default engines."""
    madang.init(tmp_path, name="test")
    with madang.open(tmp_path) as opened:
        yield opened
