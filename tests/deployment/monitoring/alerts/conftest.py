from __future__ import annotations

import http.server
import json
import threading

import pytest

from madang.deployment.monitoring.alerts.local import LocalAlerts
from madang.deployment.monitoring.series.local import LocalSeries


@pytest.fixture
def series(tmp_path):
    return LocalSeries(tmp_path / "metrics")


@pytest.fixture
def alerts(stack):
    return LocalAlerts(stack.metadata, stack.ledger)


class Hook:
    """A web server that keeps what is posted; `status` is its answer, `before` is called first."""

    def __init__(self):
        self.posts, self.status, self.before = [], 200, lambda: None
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers["content-length"]))
                hook.posts.append((dict(self.headers), content))
                hook.before()
                self.send_response(hook.status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    @property
    def told(self):
        """Of each post: the status of each alert."""
        return [
            [(a["labels"].get("job", ""), a["status"]) for a in json.loads(content)["alerts"]]
            for _, content in self.posts
        ]


@pytest.fixture
def hook():
    found = Hook()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()
