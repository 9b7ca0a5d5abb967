"""Open Policy Agent's server, by its REST API (https://www.openpolicyagent.org/docs/rest-api).

`opa://HOST:PORT?tls=true&timeout_seconds=2`, with a token for `--authentication=token` in the
password's place: `opa://:${env:OPA_TOKEN}@host:8181`.

The project's bundle is written to the server. So that a decision is always that of the bundle in
force, also when the server was restarted or another one wrote to it, the rule that is asked gives
the bundle's digest beside the value; a bundle that isn't there is written again, once.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self
from urllib.parse import quote

from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, PolicyError, UnavailableError
from madang.security.policy.contract import Bundle, PolicyEngine

_MARK = "madang_bundle"
_LOADING_SECONDS = 60.0  # a server compiles all that it holds for each policy that it is given
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class OpaPolicy(PolicyEngine):
    """An OPA server of this project's own: whatever else it holds is left alone, but for the
    policies below `madang/PROJECT/`.
    """

    def __init__(
        self, project: str, host: str, port: int, *, token: str, tls: bool, timeout_seconds: float
    ) -> None:
        self._prefix = f"madang/{project}/"
        self._own = "p_" + re.sub(r"[^A-Za-z0-9]", "_", project)
        self._asking: set[str] = set()
        self._address = (host, port)
        self._token = token
        self._tls = tls
        self._timeout = timeout_seconds
        self._lock = threading.RLock()
        self._idle: list[http.client.HTTPConnection] = []
        self._bundle: Bundle | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"timeout_seconds", "tls"})
        if not url.host:
            raise ConfigurationError("opa:// needs the server's host, such as opa://127.0.0.1:8181")
        tls = url.query.get("tls", "false")
        if tls not in ("true", "false"):
            raise ConfigurationError(f"opa://: tls is true or false, found {tls!r}")
        try:
            timeout = float(url.query.get("timeout_seconds", "2"))
        except ValueError:
            timeout = 0.0
        if not 0 < timeout <= 60:
            raise ConfigurationError("opa://: timeout_seconds is a number above 0 and up to 60")
        return cls(
            context.project,
            url.host,
            url.port or 8181,
            token=url.password or "",
            tls=tls == "true",
            timeout_seconds=timeout,
        )

    def load(self, bundle: Bundle) -> None:
        with self._lock:
            before = self._bundle
            try:
                self._write(bundle)
            except (InvalidInputError, PolicyError):
                if before is not None:
                    self._write(before)
                raise
            self._bundle = bundle

    def evaluate(self, path: str, input: Any) -> tuple[bool, Any]:
        bundle = self._bundle
        if bundle is None:
            raise PolicyError("no policy is loaded")
        if not _PATH.fullmatch(path):
            raise PolicyError(f"{path!r} is no path of a rule")
        found = self._ask(path, input)
        if found.get(_MARK) != bundle.digest:
            with self._lock:
                if self._bundle is bundle:
                    self._write(bundle)
            found = self._ask(path, input)
            if found.get(_MARK) != bundle.digest:
                raise PolicyError("the OPA server holds another bundle: somebody else writes to it")
        return ("value" in found), found.get("value")

    def health(self) -> Health:
        try:
            status, _ = self._send("GET", "/health")
        except UnavailableError as error:
            return Health(False, str(error), "start the OPA server, or mend the URL in madang.toml")
        where = f"{self._address[0]}:{self._address[1]}"
        if status != 200:
            return Health(False, f"OPA at {where} answers {status}", "look at its log")
        return Health(True, f"OPA at {where}")

    def close(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    # -- the server ---------------------------------------------------------------------------

    def _ask(self, path: str, input: Any) -> dict[str, Any]:
        """The bundle's digest and the rule's value, of one moment.

        Only the data API is strict about builtins' errors, so a rule of ours asks for the value.
        """
        rule = path.replace(".", "__")
        with self._lock:
            if rule not in self._asking:
                text = (
                    f"package {_MARK}.{self._own}.ask_{rule}\n\n"
                    f'answer := {{\n\t"bundle": data.{_MARK}.{self._own}.digest,\n'
                    f'\t"found": [x | x := data.{path}],\n}}\n'
                )
                self._put(f"/v1/policies/{quote(f'{self._prefix}ask/{rule}')}", text)
                self._asking.add(rule)
        where = f"/v1/data/{_MARK}/{self._own}/ask_{rule}/answer?strict-builtin-errors=true"
        status, answer = self._send("POST", where, {"input": input})
        if status != 200:
            raise PolicyError(f"OPA: {_problem(answer)}")
        result = answer.get("result") or {}
        found = {_MARK: result.get("bundle")}
        if result.get("found"):
            found["value"] = result["found"][0]
        return found

    def _write(self, bundle: Bundle) -> None:
        """The mark goes first and comes last, so that a half written bundle is none."""
        mark = f"{self._prefix}mark"
        self._asking.clear()
        self._delete(f"/v1/policies/{quote(mark)}")
        stale = [found for found in self._policies() if found.startswith(self._prefix)]
        _each(stale, lambda found: self._delete(f"/v1/policies/{quote(found)}"))
        for key, value in bundle.data.items():
            self._put(f"/v1/data/{quote(key, safe='')}", value)
        _each(
            bundle.files,
            lambda name: self._put(
                f"/v1/policies/{quote(self._prefix + name)}", bundle.files[name]
            ),
        )
        text = f'package {_MARK}.{self._own}\n\ndigest := "{bundle.digest}"\n'
        self._put(f"/v1/policies/{quote(mark)}", text)

    def _policies(self) -> list[str]:
        status, answer = self._send("GET", "/v1/policies")
        if status != 200:
            raise PolicyError(f"OPA: {_problem(answer)}")
        return [one["id"] for one in answer.get("result") or []]

    def _put(self, path: str, body: Any) -> None:
        status, answer = self._send("PUT", path, body)
        if status == 400:
            raise InvalidInputError(f"OPA refuses it: {_problem(answer)}")
        if status not in (200, 204):
            raise PolicyError(f"OPA: {path}: {_problem(answer)}")

    def _delete(self, path: str) -> None:
        status, answer = self._send("DELETE", path)
        if status == 400:
            raise InvalidInputError(f"OPA keeps {path}: {_problem(answer)}")
        if status not in (200, 204, 404):
            raise PolicyError(f"OPA: {path}: {_problem(answer)}")

    def _send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "text/plain" if isinstance(body, str) else "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
        raw = None if body is None else body.encode()
        loads = method in ("PUT", "DELETE")
        timeout = max(self._timeout, _LOADING_SECONDS) if loads else self._timeout
        while True:
            connection, is_new = self._connection()
            connection.timeout = timeout
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            try:
                connection.request(method, path, raw, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # One that was kept may have been closed by the server since.
                if is_new or isinstance(error, TimeoutError):
                    host, port = self._address
                    raise UnavailableError(
                        f"the OPA server at {host}:{port} does not answer: {error}"
                    ) from error
                continue
            with self._lock:
                self._idle.append(connection)
            return answer.status, _json(text)

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """One that nobody uses now, and whether it is new."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        host, port = self._address
        if self._tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, context=context), True
        return http.client.HTTPConnection(host, port), True


def _json(text: bytes) -> Any:
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except ValueError as error:
        raise PolicyError(f"OPA answers with what is no JSON: {text[:100]!r}") from error


def _each(names: Iterable[str], act: Callable[[str], None]) -> None:
    """Does it for each, in an order in which the server takes it: all that is there must compile."""
    left = list(names)
    while left:
        refused: list[str] = []
        problem: InvalidInputError | None = None
        for name in left:
            try:
                act(name)
            except InvalidInputError as error:
                refused.append(name)
                problem = problem or error
        if problem is not None and len(refused) == len(left):
            raise problem
        left = refused


def _problem(answer: Any) -> str:
    """OPA's message with those of its errors, with file and line."""
    if not isinstance(answer, dict):
        return str(answer)
    found = [str(answer.get("message", ""))]
    for error in answer.get("errors") or []:
        where = error.get("location") or {}
        place = f"{where.get('file', '')}:{where.get('row', '')}: " if where else ""
        found.append(f"{place}{error.get('message', '')}")
    return "; ".join(part for part in found if part)
