"""JupyterLab in the project's folder, and notebooks executed by nbclient with papermill's parameters."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from madang.development.modeling._kernel import environment, write_configuration
from madang.development.modeling.contract import Lab, Modeling, NotebookRun
from madang.engines import Context, EngineURL, Health
from madang.errors import ConflictError, MissingDependencyError, UnavailableError

_READY_SECONDS = 60
_STOP_SECONDS = 10


class JupyterModeling(Modeling):
    """`jupyter://`; needs `madang[lab]`. The server is a child process in a session of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._folder = context.home / "lab"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("jupyterlab")
        except PackageNotFoundError:
            return Health(True, "JupyterLab is not installed", "pip install 'madang[lab]'")
        return Health(True, f"JupyterLab {found}")

    # -- the lab ------------------------------------------------------------------------------

    def start(self, *, host: str = "127.0.0.1", port: int = 8888) -> Lab:
        _need("jupyterlab")
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise ConflictError("this lab runs already; stop it first")
            port = _free(host, port)
            token = secrets.token_urlsafe(32)
            write_configuration(self._folder)
            self._write_token(token)
            self._process = self._spawn(host, port, token)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        try:
            self._await_ready(self._process, url, token)
        except BaseException:
            self.stop()
            raise
        return Lab(url, token)

    def _write_token(self, token: str) -> None:
        file = self._folder / "token"
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(token)

    def _spawn(self, host: str, port: int, token: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--ServerApp.ip={host}", f"--ServerApp.port={port}"]
        command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={self._context.root}"]
        # Extensions and news are fetched from elsewhere.
        command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url="]
        command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        # By the environment: a command line is there for everybody to read.
        env = environment(self._context, self._folder) | {"JUPYTER_TOKEN": token}
        with (self._folder / "jupyter.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._context.root,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal must end the kernels in order
            )

    def _await_ready(self, process: subprocess.Popen[bytes], url: str, token: str) -> None:
        request = urllib.request.Request(  # noqa: S310 - a URL of ours
            f"{url}/api/status", headers={"Authorization": f"token {token}"}
        )
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            if process.poll() is not None:
                raise UnavailableError(f"JupyterLab ended at its start: {self._last_words()}")
            try:
                with urllib.request.urlopen(request, timeout=2):  # noqa: S310 - as above
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"JupyterLab did not answer within {_READY_SECONDS} s; "
                        f"see {self._folder / 'jupyter.log'}"
                    ) from None
            time.sleep(0.05)

    def _last_words(self) -> str:
        lines = (self._folder / "jupyter.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def wait(self, timeout_seconds: float | None = None) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)  # ends its kernels first
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the kernels see it, and end themselves
            process.wait()

    def close(self) -> None:
        self.stop()

    # -- notebooks ----------------------------------------------------------------------------

    def execute(
        self,
        notebook: str | Path,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> NotebookRun:
        _need("papermill")
        from madang.development.modeling._execution import execute

        write_configuration(self._folder)
        env = environment(self._context, self._folder)
        return execute(self._context, notebook, parameters or {}, env, timeout_seconds)


def _need(module: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingDependencyError("development.modeling engine 'jupyter'", module, "lab")


def _free(host: str, port: int) -> int:
    """The port if it is free, any free one for 0.

    Raises:
        UnavailableError: It is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UnavailableError(
                f"the lab can't listen on {host}:{port} ({os.strerror(error.errno or 0)}); "
                "choose another port, or 0 for any free one"
            ) from error
        return int(probe.getsockname()[1])
