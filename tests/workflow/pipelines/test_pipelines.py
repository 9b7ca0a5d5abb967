"""The local runner against the contract, on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

import madang
from madang.testing.pipelines import PipelinesContract, _marks, marks  # noqa: F401 - fixtures


class TestOnSQLite(PipelinesContract):
    pass


class TestOnPostgreSQL(PipelinesContract):
    @pytest.fixture
    def stack(self, tmp_path, postgresql_url):
        madang.init(tmp_path, name="test")
        with (tmp_path / "madang.toml").open("a") as file:
            file.write(f'[stack]\nmetadata = "{postgresql_url}"\n')
        with madang.open(tmp_path) as opened:
            yield opened
