"""The contract on the local engine, with SQLite and PostgreSQL, and one or two workers."""

from __future__ import annotations

import os

import pytest
from tests.deployment.serving.conftest import make_project

from madang.testing.serving import ServingContract


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("local")) as stack, stack.serving.workers():
        yield stack


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory, postgresql_server):
    import psycopg

    root = tmp_path_factory.mktemp("postgresql")
    schema = f"serving_{os.getpid()}"
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {schema}")
    url = f"{postgresql_server}?schema={schema}"
    with make_project(root, workers=2, metadata=url) as stack, stack.serving.workers():
        yield stack


class TestLocalServing(ServingContract):
    @pytest.fixture
    def stack(self, on_sqlite):
        return on_sqlite


class TestTwoWorkersOnPostgreSQL(ServingContract):
    @pytest.fixture
    def stack(self, on_postgresql):
        return on_postgresql
