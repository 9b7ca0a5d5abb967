"""Requests to an MLflow server: who asks, how long to wait, what to send again."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from madang.engines import EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    MadangError,
    NotFoundError,
    OutOfSpaceError,
    PermissionDeniedError,
    UnavailableError,
)

T = TypeVar("T")

OLDEST = (3, 17)
"""The oldest version of MLflow's server whose REST API was tested with this engine."""

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"

OPTIONS = {"ca_file", "token"}

# MLflow's codes (mlflow.protos.databricks_pb2.ErrorCode) as our errors.
_ERRORS: Mapping[str, type[MadangError]] = {
    "BAD_REQUEST": InvalidInputError,
    "INVALID_PARAMETER_VALUE": InvalidInputError,
    "INVALID_STATE": ConflictError,
    "NOT_FOUND": NotFoundError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "RESOURCE_ALREADY_EXISTS": AlreadyExistsError,
    "RESOURCE_CONFLICT": ConflictError,
    "RESOURCE_DOES_NOT_EXIST": NotFoundError,
    "RESOURCE_EXHAUSTED": OutOfSpaceError,
    "UNAUTHENTICATED": AuthenticationError,
}
_STATUSES: Mapping[int, type[MadangError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: InvalidInputError,
    507: OutOfSpaceError,
}
_AGAIN = frozenset({429, 502, 503, 504})
"""Answers of a server, or of a proxy before it, that is not ready: the request may be repeated."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long a server may take.

    Attributes:
        connect_seconds: Until it takes a connection.
        silence_seconds: Between two pieces of an answer.
        retry_seconds: Since the first request after which it is not sent again.
        first_pause_seconds: Before a request is sent again; it doubles.
        longest_pause_seconds: Up to this.
    """

    connect_seconds: float = 5
    silence_seconds: float = 60
    retry_seconds: float = 60
    first_pause_seconds: float = 0.05
    longest_pause_seconds: float = 2

    @property
    def timeout(self) -> httpx.Timeout:
        """The same as httpx wants it."""
        return httpx.Timeout(self.silence_seconds, connect=self.connect_seconds)


_AT_FIRST = Patience(retry_seconds=5)
"""A URL may be wrong, so the first contact fails soon."""

_HEALTH = Patience(connect_seconds=2, silence_seconds=2, retry_seconds=0)


class Client:
    """A server that is asked by many threads; it is found, and its version seen, on first use."""

    def __init__(
        self, base: str, auth: httpx.Auth | None, *, verify: Any = True, patience: Patience
    ) -> None:
        self.where = base
        self._patience = patience
        self._http = httpx.Client(
            base_url=base, auth=auth, verify=verify, timeout=patience.timeout,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
        )  # fmt: skip
        self._lock = threading.Lock()
        self._is_known = False

    @classmethod
    def from_url(cls, url: EngineURL) -> Client:
        """A client for `mlflow://user:password@host:port/prefix`, or `mlflow+https://…`.

        Raises:
            ConfigurationError: The URL names no host, or its certificates are not there.
        """
        url.check_options(OPTIONS)
        if not url.host:
            raise ConfigurationError(
                f"an MLflow URL names the server: {url.scheme}://127.0.0.1:5000"
            )
        protocol = "https" if url.scheme.endswith("+https") else "http"
        host = f"[{url.host}]" if ":" in url.host else url.host
        port = f":{url.port}" if url.port else ""
        base = f"{protocol}://{host}{port}{url.path.rstrip('/')}"
        return cls(base, _auth(url), verify=_certificates(url), patience=Patience())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def health(self) -> Health:
        """Asks for the server's version, once."""
        try:
            version = self._version(_HEALTH)
        except MadangError as error:
            return Health(False, str(error), "start the server, or change the project's URL of it")
        return Health(True, f"MLflow {version} at {self.where}")

    # -- requests -----------------------------------------------------------------------------

    def get(self, path: str, message: msgspec.Struct | None = None, *, api: str = API) -> Any:
        """Reads; the fields of `message` become the query."""
        query = {} if message is None else msgspec.to_builtins(message)
        return self._json("GET", api + path, params=query)

    def post(
        self,
        path: str,
        message: Any,
        *,
        method: str = "POST",
        made: Callable[[], Any] | None = None,
    ) -> Any:
        """Sends a message.

        Args:
            path: Below `/api/2.0/mlflow`.
            message: What becomes the body.
            method: `POST`, `PATCH` or `DELETE`.
            made: Where a repeated request would do a second time what the first did: looks, before
                each repetition, whether the request whose answer was lost was done, and gives its
                answer if so, else `None`.

        Raises:
            UnavailableError: No answer came; it may have been done all the same.
        """
        content = _encode(message)
        headers = {"Content-Type": "application/json"}
        return self._json(method, API + path, content=content, headers=headers, made=made)

    def _json(self, method: str, path: str, **request: Any) -> Any:
        made = request.pop("made", None)
        self._know()

        def ask() -> Any:
            response = self._http.request(method, path, **request)
            return _decode(response.content) if self._accepted(response).content else {}

        return self._patiently(ask, made, self._patience)

    def upload(self, path: str, data: bytes | Path) -> None:
        """Stores a file; repeating it stores the same."""
        self._know()

        def ask() -> None:
            if isinstance(data, Path):
                with data.open("rb") as file:
                    size = {"Content-Length": str(data.stat().st_size)}
                    self._accepted(self._http.put(path, content=_pieces(file), headers=size))
            else:
                self._accepted(self._http.put(path, content=data))

        self._patiently(ask, None, self._patience)

    def delete_file(self, path: str) -> None:
        """Removes a file or folder; one that isn't there is nothing to do."""
        self._know()

        def ask() -> None:
            try:
                self._accepted(self._http.delete(path))
            except NotFoundError:
                return

        self._patiently(ask, None, self._patience)

    def download(self, path: str, target: Path) -> None:
        """Writes a file's bytes to `target`, which is not there unless all of them came."""
        self._know()

        def ask() -> None:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                self._accepted(response)
                try:
                    with target.open("wb") as file:
                        for piece in response.iter_bytes(_PIECE_BYTES):
                            file.write(piece)
                except BaseException:
                    target.unlink(missing_ok=True)
                    raise

        self._patiently(ask, None, self._patience)

    # -- answers ------------------------------------------------------------------------------

    def _patiently(
        self, ask: Callable[[], T], made: Callable[[], T | None] | None, patience: Patience
    ) -> T:
        end = time.monotonic() + patience.retry_seconds
        pause = patience.first_pause_seconds
        while True:
            try:
                with self._lost():
                    return ask()
            except _NotReadyError as error:
                if time.monotonic() + pause > end:
                    raise UnavailableError(str(error)) from error
            time.sleep(pause)
            pause = min(2 * pause, patience.longest_pause_seconds)
            if made is not None and (found := made()) is not None:
                return found

    @contextmanager
    def _lost(self) -> Iterator[None]:
        """Errors of connections; none of them shows the request, which may hold a password."""
        try:
            yield
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _NotReadyError(
                f"the MLflow server at {self.where} did not answer: {type(error).__name__}; "
                "is it running there? What was asked may have been done: look before you repeat it"
            ) from error

    def _accepted(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in _AGAIN:
            raise _NotReadyError(
                f"the MLflow server at {self.where} answered {response.status_code}: "
                f"{_text(response)}"
            )
        if not response.is_error:
            return response
        code, text = _refusal(response)
        kind = _ERRORS.get(code) or _STATUSES.get(response.status_code, MadangError)
        if kind is AuthenticationError:
            text += (
                "; give a user and password in the URL or in MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or a token in MLFLOW_TRACKING_TOKEN"
            )
        raise kind(f"the MLflow server at {self.where} refused: {text}")

    # -- the server ---------------------------------------------------------------------------

    def _know(self) -> None:
        """Looks at the server's version before anything else is asked of it."""
        if self._is_known:
            return
        with self._lock:
            if not self._is_known:
                self._version(_AT_FIRST)
                self._is_known = True

    def _version(self, patience: Patience) -> str:
        def ask() -> str:
            response = self._http.get("/version", timeout=patience.timeout)
            return self._accepted(response).text.strip()

        try:
            found = self._patiently(ask, None, patience)
        except NotFoundError as error:
            raise ConfigurationError(
                f"what answers at {self.where} is no MLflow server: it has no /version"
            ) from error
        numbers = re.match(r"(\d+)\.(\d+)", found)
        if numbers is None:
            raise ConfigurationError(
                f"what answers at {self.where} is no MLflow server: its /version is {found[:40]!r}"
            )
        if (int(numbers[1]), int(numbers[2])) < OLDEST:
            raise ConfigurationError(
                f"the MLflow server at {self.where} is version {found}; this engine needs "
                f"{'.'.join(map(str, OLDEST))} or newer: upgrade the server"
            )
        return found


class _NotReadyError(Exception):
    """The request may be sent again."""


def _auth(url: EngineURL) -> httpx.Auth | None:
    """As MLflow's client finds it (mlflow.utils.rest_utils); what the URL says wins."""
    if url.username:
        return httpx.BasicAuth(url.username, url.password or "")
    if token := url.query.get("token"):
        return _Bearer(token)
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{n}") for n in ("USERNAME", "PASSWORD"))
    if user and password:
        return httpx.BasicAuth(user, password)
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return _Bearer(token)
    return None


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def _certificates(url: EngineURL) -> Any:
    file = url.query.get("ca_file") or os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if not file or not url.scheme.endswith("+https"):
        return True
    import ssl

    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise ConfigurationError(f"there are no certificates in {file}: {error}") from error


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


def _refusal(response: httpx.Response) -> tuple[str, str]:
    try:
        found = _decode(response.content)
        return str(found["error_code"]), str(found["message"])[:1000]
    except (msgspec.DecodeError, KeyError, TypeError):
        return "", f"{response.status_code} {_text(response)}"


def _text(response: httpx.Response) -> str:
    return response.text[:200].strip()
