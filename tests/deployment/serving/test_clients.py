"""Other projects' clients, unchanged, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.deployment.serving.conftest import Server, make_served
from tests.servers.environments import interpreter

SCRIPTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with make_served(tmp_path_factory.mktemp("clients"), options="&grpc_port=0") as stack:
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


def run(name, *arguments):
    """What a script of `clients/` prints; fails with what it says."""
    command = [interpreter(name), "-W", "ignore", SCRIPTS / f"{name}_client.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_client_of_kserve(served):
    serving = served.stack.serving
    found = run("kserve", serving.url(), serving.grpc_url(), served.token)
    assert found == {"passed": ["http", "grpc"]}


def test_the_codecs_of_mlserver(served):
    found = run("mlserver", served.stack.serving.url(), served.token)
    assert found == {"passed": ["NumpyCodec", "PandasCodec", "StringCodec"]}
