"""Asking an endpoint over HTTP, with binary tensors."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from madang.deployment.serving._tensors import DATATYPES, Array, binary_output, encode
from madang.errors import (
    AuthenticationError,
    InvalidInputError,
    MadangError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

_ERRORS: dict[int, type[MadangError]] = {
    400: InvalidInputError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: InvalidInputError,
    503: UnavailableError,
    504: UnavailableError,
}

_MAX_IDLE = 32


class Client:
    """Keeps connections for the next call. Safe for many threads."""

    def __init__(self, timeout_seconds: float = 60) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._url = ""
        self._idle: list[http.client.HTTPConnection] = []

    def predict(
        self, url: str, token: str, name: str, inputs: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Output name to array, and `id`.

        Raises:
            UnavailableError: Nobody answers at `url`, or the endpoint is not ready.
            NotFoundError: There is no such endpoint.
            InvalidInputError: The inputs don't fit.
        """
        body, header_length = _request(inputs)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(header_length),
        }
        path = f"/v2/models/{quote(name, safe='')}/infer"
        response, data = self._exchange(url, path, body, headers)
        if response.status != 200:
            raise _ERRORS.get(response.status, MadangError)(_message(response.status, data))
        return _answer(data, response.headers.get("Inference-Header-Content-Length"))

    def _exchange(
        self, url: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One request; a kept connection that the server closed meanwhile is replaced."""
        while True:
            connection = self._take(url)
            fresh = connection.sock is None
            try:
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                data = response.read()
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                if fresh:
                    raise UnavailableError(
                        f"the inference workers at {url} do not answer: {error!r}"
                    ) from error
            except BaseException:
                connection.close()
                raise
            else:
                self._give_back(url, connection)
                return response, data

    def _take(self, url: str) -> http.client.HTTPConnection:
        with self._lock:
            if self._idle and self._url == url:
                return self._idle.pop()
        parts = urlsplit(url)
        return http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port, timeout=self._timeout_seconds
        )

    def _give_back(self, url: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._url != url:
                self._url, old = url, self._idle
                self._idle = []
                for other in old:
                    other.close()
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes the kept connections."""
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle = []


def _request(inputs: Mapping[str, Array]) -> tuple[bytes, int]:
    parts, blobs = [], []
    for name, array in inputs.items():
        part, blob = binary_output(encode(name), array)  # inputs have the same form
        parts.append(part)
        blobs.append(blob)
    head = b'{"parameters":{"binary_data_output":true},"inputs":[%b]}' % b",".join(parts)
    return head + b"".join(blobs), len(head)


def _message(status: int, data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data, type=dict[str, str])["error"])
    except (msgspec.MsgspecError, KeyError):
        return f"the inference server answered {status}: {data[:200]!r}"


def _answer(data: bytes, header_length: str | None) -> dict[str, Any]:
    at = int(header_length) if header_length else len(data)
    head = msgspec.json.decode(data[:at])
    answer: dict[str, Any] = {}
    for output in head["outputs"]:
        size = output["parameters"]["binary_data_size"]
        answer[output["name"]] = _array(output, data[at : at + size])
        at += size
    return {**answer, "id": head["id"]}


def _array(output: Mapping[str, Any], data: bytes) -> Array:
    dtype = DATATYPES[output["datatype"]]
    if dtype.kind != "U":
        return np.frombuffer(data, dtype).reshape(output["shape"]).copy()
    texts, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : end].decode())
        at = end
    return np.array(texts, np.str_).reshape(output["shape"])
