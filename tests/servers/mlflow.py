"""A real MLflow server, from its own environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.servers import free_port, running
from tests.servers.environments import interpreter

# The kernel kills this process when the one that started it dies (prctl's PR_SET_PDEATHSIG, 1),
# whatever that died of; what it becomes by execve keeps that.
GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the test is gone")
"""

# What `mlflow server --workers 1` starts, in one process.
_GUARDED = f"""{GUARD}
options = ["--host", "127.0.0.1", "--port", sys.argv[2], "--workers", "1"]
os.execv(sys.executable, [sys.executable, "-m", "uvicorn", *options, "mlflow.server.fastapi_app:app"])
"""


class MLflowServer:
    """A server's files and port."""

    def __init__(self, folder: Path) -> None:
        self._python = interpreter("mlflow")
        self._folder, self.port = folder, free_port()
        self._started = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes]
        self.database, self.artifacts = folder / "mlflow.db", folder / "artifacts"

    @property
    def url(self) -> str:
        """As MLflow's clients name it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def python(self) -> Path:
        """The interpreter that has MLflow."""
        return self._python

    @property
    def engine_url(self) -> str:
        """As madang.toml names it."""
        return f"mlflow://127.0.0.1:{self.port}"

    def _ready(self) -> bool:
        try:
            # The first request that needs the database makes it.
            path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
            urllib.request.urlopen(self.url + path, timeout=60).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        self._process = self._started.enter_context(self._running())

    def kill(self) -> None:
        """Kills the server as kill -9 does; it can be started again."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ends the server."""
        self._started.close()

    def _running(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return running(
            [str(self._python), "-c", _GUARDED, str(os.getpid()), str(self.port)],
            self._ready,
            self._folder / "log",
            env={
                "HOME": str(self._folder),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "PYTHONPATH": "",
                "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.artifacts),
                "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
                "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self.database}",
                "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{self.database}",
                "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            },
            cwd=self._folder,
            seconds=180,
        )

    def empty(self) -> None:
        """Removes everything but the default experiment, which a server makes when it starts."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as database:
            names = [
                row[0]
                for row in database.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
                )
            ]
            for name in set(names) - {"alembic_version", "experiments", "workspaces"}:
                database.execute(f"DELETE FROM {name}")
            database.execute("DELETE FROM experiments WHERE experiment_id <> 0")
            database.execute("UPDATE experiments SET name = 'Default', lifecycle_stage = 'active'")
            database.commit()
        shutil.rmtree(self.artifacts, ignore_errors=True)


@pytest.fixture(scope="session")
def mlflow_session(tmp_path_factory):
    """A running server for all tests; use `empty_mlflow`."""
    server = MLflowServer(tmp_path_factory.mktemp("mlflow-server"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def empty_mlflow(mlflow_session):
    """A running server that holds nothing."""
    mlflow_session.empty()
    return mlflow_session
