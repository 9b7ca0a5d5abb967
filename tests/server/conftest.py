"""A project served by real processes, one for all tests of this folder, and clients of each role."""

from __future__ import annotations

import asyncio
import functools
import textwrap

import httpx
import pytest

import madang
from madang.server.supervisor import running
from madang.testing.serving import register

CONTRACT = """
dataset: trips
columns:
  - {name: id, type: int64, nullable: false}
  - {name: minutes, type: float64, nullable: false}
checks:
  - {kind: range, column: minutes, severity: quarantine, arguments: {min: 0, max: 60}}
"""

FLOW = """
import time
from pathlib import Path
from typing import Any
from madang import Stack, pipeline, step

@step
def double(x: int) -> int:
    return 2 * x

@step
def table(x: int) -> Any:
    import pyarrow as pa
    return pa.table({"x": [x]})

@pipeline
def flow(x: int = 1):
    doubled = double(x)
    return {"doubled": doubled, "rows": table(doubled)}

@step
def needs_a_file() -> str:
    return (Path(__file__).parent / "there").read_text()

@pipeline
def fragile():
    return needs_a_file()

@step
def slow() -> int:
    (Path(__file__).parent / "slow.started").touch()
    time.sleep(600)
    return 1

@pipeline
def long():
    return slow()
"""

VIEW = """
from datetime import timedelta
from madang.data.features import FeatureView

minutes = FeatureView(
    "minutes", entity=("id",), timestamp="at", features=("minutes",), ttl=timedelta(days=1000),
    sql="SELECT id, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS at, minutes FROM rides",
)
"""

ROLES = ("viewer", "engineer", "operator", "admin")


def make_project(root, toml=""):
    """A project with a contract, pipelines and a feature view."""
    madang.init(root, name="served")
    (root / "madang.toml").write_text(
        f'[project]\nname = "served"\n[stack]\nserving = "local://127.0.0.1:0"\n{toml}'
    )
    (root / "contracts" / "trips.yaml").write_text(CONTRACT)
    (root / "pipelines" / "flow.py").write_text(textwrap.dedent(FLOW))
    (root / "features" / "rides.py").write_text(textwrap.dedent(VIEW))
    return madang.open(root)


def make_tokens(stack):
    """Role to a token of a user of that name."""
    for role in ROLES:
        stack.identity.create_user(role, roles=[role])
    return {role: stack.identity.create_token(role)[0] for role in ROLES}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


class Client:
    """Asks an application in this process, without a socket."""

    def __init__(self, app):
        self._app = app

    def request(self, method, path, **options):
        async def ask():
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def __getattr__(self, verb):
        return functools.partial(self.request, verb.upper())


class Served:
    """A running project: its stack, its address, and a client for each role."""

    def __init__(self, stack, supervisor, tokens):
        self.stack = stack
        self.url = supervisor.url
        self.tokens = tokens
        self.clients = {
            role: httpx.Client(
                base_url=f"{supervisor.url}/api/v1", headers=bearer(token), timeout=60
            )
            for role, token in tokens.items()
        }

    def __getattr__(self, name):
        return self.clients[name]

    def close(self):
        for client in self.clients.values():
            client.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("served")) as stack:
        tokens = make_tokens(stack)
        register(stack, "sums", 1.0, evaluation={"mae": 0.0})
        register(stack, "sums", 2.0, evaluation={"mae": 0.0})
        with running(stack) as supervisor:
            found = Served(stack, supervisor, tokens)
            yield found
            found.close()
