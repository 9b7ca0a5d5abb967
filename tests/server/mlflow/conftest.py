"""MLflow's own client, in its own environment, run once against a server for all tests of a file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from tests.servers.environments import interpreter

SCRIPT = Path(__file__).parent / "client" / "run.py"


class Environment:
    """Where MLflow runs: nothing of this process's own settings, and a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.python = interpreter("mlflow")
        self.variables = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON"))},
            "HOME": str(folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }

    def client(self, url, *topics, **variables):
        """Case to what it found, or to `{"error": …}`."""
        folder = self.folder / f"client-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        done = subprocess.run(
            [self.python, SCRIPT, url, folder, *topics],
            cwd=folder, env={**self.variables, **variables}, capture_output=True, text=True,
            timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.rpartition("\n{")[2].join(["{", ""]))


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def mlflow_server(mlflow):
    """MLflow's own server, with one worker: what we are compared with."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = mlflow.folder / "server"
    folder.mkdir()
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [mlflow.python, *command], cwd=folder, env=mlflow.variables, stdout=log, stderr=log
        )
    try:
        yield _healthy(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(30)


def _healthy(url, process):
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return url
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
