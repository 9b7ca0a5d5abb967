"""A real Prometheus and its tools (Debian's `prometheus` and `prometheus-alertmanager`)."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.servers import free_port, missing, running


def program(name: str) -> str:
    """The path of `prometheus`, `promtool` or `prometheus-alertmanager`; skips where it isn't."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (apt-get install prometheus prometheus-alertmanager)")
    return found


def promtool(*arguments: str | Path) -> str:
    """What promtool says; a failure raises with it."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return answer.status == 200
    return False


@contextlib.contextmanager
def prometheus(folder: Path, configuration: str = "") -> Iterator[str]:
    """A server over the blocks in `folder/data`; gives its address."""
    (folder / "prometheus.yml").write_text(configuration or "scrape_configs: []\n")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program("prometheus"), f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=100y",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]  # fmt: skip
    with running(command, lambda: answers(f"{url}/-/ready"), folder / "prometheus.log"):
        yield url


def ask(url: str, path: str, **parameters: object) -> dict:
    """The answer of Prometheus' HTTP API, an error's too."""
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)
