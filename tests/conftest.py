"""Fixtures for all tests: a fresh project, and real servers on loopback."""

from __future__ import annotations

import pytest

import madang

pytest_plugins = [
    "tests.servers.kafka",
    "tests.servers.mlflow",
    "tests.servers.opa",
    "tests.servers.postgresql",
    "tests.servers.s3",
]


@pytest.fixture
def stack(tmp_path):
    """A fresh project on the default engines."""
    madang.init(tmp_path, name="test")
    with madang.open(tmp_path) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Lets xdist send what a test printed or logged, even half of a surrogate pair."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
