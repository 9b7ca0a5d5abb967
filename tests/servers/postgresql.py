"""A real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
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


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory):
    """`postgresql://…` of an empty server; use `postgresql_url` for a schema of one's own."""
    binaries = _binaries()
    folder = tmp_path_factory.mktemp("postgresql")
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("nobody")
        for path in (folder, *folder.parents[:2]):
            path.chmod(0o755)
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    data, port = folder / "data", free_port()
    subprocess.run(
        [*as_user, binaries / "initdb", "-D", data, "-U", "madang", "--auth=trust", "-E", "UTF8"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    command = [*as_user, str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]

    def ready():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    log = folder.parent / "postgresql.log"
    with running(command, ready, log, cwd=Path("/")):
        yield f"postgresql://madang@127.0.0.1:{port}/postgres"


@pytest.fixture
def postgresql_url(postgresql_server, request):
    """A URL with a fresh schema, dropped afterwards."""
    import time

    import psycopg

    schema = f"test_{os.getpid()}_{abs(hash(request.node.nodeid))}"
    deadline = time.monotonic() + 30
    while True:
        try:
            admin = psycopg.connect(postgresql_server, autocommit=True)
            break
        except psycopg.OperationalError:  # "the database system is starting up"
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    with admin:
        admin.execute(f"CREATE SCHEMA {schema}")
    yield f"{postgresql_server}?schema={schema}"
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute(f"DROP SCHEMA {schema} CASCADE")
