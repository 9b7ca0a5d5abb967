"""A real PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port, missing, running


def _binaries() -> Path:
    """The folder of initdb and postgres (Debian keeps them off the PATH)."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    folders += [Path(found).resolve().parent] if found else []
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    missing("PostgreSQL's server is not installed (Debian: postgresql)")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's own: every pytest that starts closes those for other users.
    with tempfile.TemporaryDirectory(prefix="madang-postgresql-") as name:
        yield Path(name)


class PostgreSQL:
    """A server's files and port, to be started with `with server.running():`, also again."""

    def __init__(self, folder: Path) -> None:
        self._binaries = _binaries()
        self._data, self._log = folder / "data", folder / "log"
        self._as_user: list[str] = []
        self.port = free_port()
        if os.geteuid() == 0:  # the server refuses to run as root
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user = [
                *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
            ]
        self._run("initdb", "-U", "madang", "--auth=trust", "-E", "UTF8")

    @property
    def url(self) -> str:
        return f"postgresql://madang@127.0.0.1:{self.port}/postgres"

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._as_user, str(self._binaries / program), "-D", str(self._data), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(self._command(program, *arguments), check=True, capture_output=True, cwd="/")

    def _ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:  # not there, or "the database system is starting up"
            return False
        return True

    def running(self):
        # fsync=off: what is killed here is our client or the server, never the machine.
        settings = (
            "fsync=off",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
        )
        options = [word for setting in settings for word in ("-c", setting)]
        command = self._command("postgres", "-p", str(self.port), *options)
        # SIGINT is a fast shutdown; SIGTERM would wait until the clients go away.
        return running(command, self._ready, self._log, cwd=Path("/"), stop=signal.SIGINT)


@pytest.fixture(scope="session")
def postgresql_server():
    """`postgresql://…` of an empty server; use `postgresql_url` for a schema of one's own."""
    with _folder() as folder:
        server = PostgreSQL(folder)
        with server.running():
            yield server.url


@pytest.fixture
def stopped_postgresql():
    """A server of one's own, started with `with stopped_postgresql.running():`, also again."""
    with _folder() as folder:
        yield PostgreSQL(folder)


@pytest.fixture
def postgresql_url(postgresql_server, request):
    """A URL with a fresh schema, dropped afterwards."""
    import psycopg

    schema = f"test_{os.getpid()}_{abs(hash(request.node.nodeid))}"
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {schema}")
    yield f"{postgresql_server}?schema={schema}"
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute(f"DROP SCHEMA {schema} CASCADE")
