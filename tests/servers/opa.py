"""A real Open Policy Agent: its server, its command, and its own conformance cases."""

from __future__ import annotations

import http.client
import re
from pathlib import Path

import pytest

from tests.servers import cache, free_port, missing, running

MODULE = Path(__file__).parents[2] / ".ci" / "servers" / "opa" / "go.mod"


def folder() -> Path:
    """Where `.ci/servers/opa.sh` puts what it builds, whether it is there or not."""
    version = re.search(r"open-policy-agent/opa v(\S+)", MODULE.read_text())[1]
    return cache() / f"opa-{version}"


def _need() -> Path:
    found = folder()
    if not (found / "opa").exists():
        missing(f"{found} isn't there (needs go); run .ci/servers/opa.sh")
    return found


@pytest.fixture(scope="session")
def opa_binary():
    """The command `opa`."""
    return _need() / "opa"


@pytest.fixture(scope="session")
def opa_cases():
    """The folder of OPA's conformance cases."""
    return _need() / "cases"


class Server:
    """An OPA server's command and port, to be started with `with server.running():`, also again."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "opa.log"
        self._command = [
            str(binary), "run", "--server", "--addr", f"127.0.0.1:{self.port}",
            "--log-level", "error", "--disable-telemetry",
        ]  # fmt: skip
        self.url = f"opa://127.0.0.1:{self.port}"

    def running(self):
        return running(self._command, self._ready, self._log)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture(scope="session")
def opa_server(opa_binary, tmp_path_factory):
    """The URL of a server."""
    server = Server(opa_binary, tmp_path_factory.mktemp("opa"))
    with server.running():
        yield server.url


@pytest.fixture
def stopped_opa(opa_binary, tmp_path):
    """A server of one's own, started with `with stopped_opa.running():`, also again."""
    return Server(opa_binary, tmp_path)
