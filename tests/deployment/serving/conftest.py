"""A project with two models that can be told apart, and its running worker."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pytest

import madang
from madang.deployment.serving import Arm
from madang.deployment.serving._state import Files
from madang.testing.serving import register


def make_project(root, *, name="test", workers=1, metadata=None, options=""):
    """A project whose workers listen on any free port."""
    madang.init(root, name=name)
    lines = ["[project]", f'name = "{name}"', "[stack]"]
    lines.append(f'serving = "local://127.0.0.1:0?workers={workers}{options}"')
    if metadata:
        lines.append(f'metadata = "{metadata}"')
    (root / "madang.toml").write_text("\n".join(lines))
    return madang.open(root)


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Server:
    """A project's stack, its workers, and raw HTTP to them."""

    def __init__(self, stack, workers):
        self.stack = stack
        self.workers = workers
        self.files = Files(stack.home)
        self.token = self.files.own_token()

    @property
    def address(self):
        parts = urlsplit(self.stack.serving.url())
        return parts.hostname, parts.port

    def ask(self, method, path, body=None, *, token="own", headers=None):
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {self.token if token == 'own' else token}"
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def infer(self, name, request, **options):
        return self.ask("POST", f"/v2/models/{name}/infer", request, **options)

    def connect(self):
        return socket.create_connection(self.address, timeout=30)

    def head(self, path, length, *more):
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}"]
        return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


def tensor(rows, name="input", datatype="FP64"):
    rows = np.asarray(rows)
    return {
        "name": name,
        "shape": list(rows.shape),
        "datatype": datatype,
        "data": rows.ravel().tolist(),
    }


@contextmanager
def make_served(root, **options):
    """`sums` serves version 2 (twice the sum); `both` serves versions 1 and 2; `weather` texts."""
    with make_project(root, **options) as stack:
        register(stack, "sums", 1.0)
        register(stack, "sums", 2.0)
        stack.serving.deploy("sums", [Arm("sums", 2)])
        stack.serving.deploy("both", [Arm("sums", 1), Arm("sums", 2)])
        _register_weather(stack)
        stack.serving.deploy("weather", [Arm("weather", 1)])
        yield stack


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A worker of `make_served`."""
    with make_served(tmp_path_factory.mktemp("served")) as stack:
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


def _register_weather(stack):
    import pyarrow as pa
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder
    from sklearn.tree import DecisionTreeClassifier

    table = pa.table(
        {"sky": ["grey", "blue", "grey"], "wind": [1, 2, 3], "warm": [True, False, False]}
    )
    fitted = make_pipeline(OneHotEncoder(handle_unknown="ignore"), DecisionTreeClassifier())
    fitted.fit(table.to_pandas(), ["rain", "dry", "rain"])
    stack.registry.register("weather", fitted, example=table)
