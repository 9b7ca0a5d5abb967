"""What a worker answers: routes, access, and the way of a request through a model.

Every route needs a token with a permission, except those in `PUBLIC`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import madang
from madang.deployment.serving._batching import Batcher, Call, Result, now
from madang.deployment.serving._endpoints import ServedEndpoint, Version
from madang.deployment.serving._exchange import Exchange, Limits, date_line
from madang.deployment.serving._features import FeatureReads
from madang.deployment.serving._http import Connection
from madang.deployment.serving._log import PredictionLog, Record
from madang.deployment.serving._metrics import Snapshot, exposition
from madang.deployment.serving._state import AcceptedToken, hash_token
from madang.deployment.serving._tensors import (
    Parameters,
    binary_output,
    decode_request,
    encode,
    json_output,
    read_inputs,
)
from madang.errors import InvalidInputError, MadangError

if TYPE_CHECKING:
    from madang.data.features import OnlineStore

PUBLIC = frozenset({"/v2/health/live", "/v2/health/ready"})
"""The only routes that need no token."""

_OCTETS = b"application/octet-stream"


@dataclass(frozen=True)
class Route:
    """Where a path leads: a handler, the methods it takes, the permission it needs."""

    handler: Callable[[Service, Exchange, Route], None]
    methods: tuple[bytes, ...] = (b"GET", b"HEAD")
    permission: str = "endpoint:read"
    endpoint: str = ""
    version: str | None = None


class Service:
    """A worker's answers. Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        limits: Limits,
        log: PredictionLog,
        totals: Callable[[], Snapshot],
        online: Callable[[], tuple[OnlineStore, Path]],
    ) -> None:
        self.limits = limits
        self.draining = False
        self.date = date_line()
        self.connections: set[Connection] = set()
        self.endpoints: dict[str, ServedEndpoint] = {}
        self.unserved: dict[str, str] = {}
        self.started = False  # the first desired state was worked through
        self.counts = Snapshot()
        self.totals = totals
        self._features = FeatureReads(online, self.counts.features)
        self._log = log
        self._batcher = Batcher(self._finish)
        self._routes: dict[bytes, Route | None] = {}
        self._tokens: dict[str, AcceptedToken] = {}
        self._known: dict[bytes, AcceptedToken | None] = {}

    # -- access -------------------------------------------------------------------------------

    def accept(self, tokens: dict[str, AcceptedToken]) -> None:
        """Replaces the accepted tokens (SHA-256 in hex to what each may do)."""
        self._tokens = tokens
        self._known.clear()

    def admit(self, exchange: Exchange) -> tuple[int, str] | None:
        """Decides about a request when its head is there; a body is read only after this."""
        route = self._route(exchange.url)
        if route is None:
            known = self._identify(exchange.authorization)
            # Without an identity, nothing is said about what exists.
            return _unknown(exchange) if known else _who(exchange)
        if route.permission:
            token = self._identify(exchange.authorization)
            if token is None:
                return _who(exchange)
            if route.permission not in token.permissions:
                return 403, f"{token.name} lacks the permission {route.permission}"
        if exchange.method not in route.methods:
            return 405, f"use {' or '.join(method.decode() for method in route.methods)} here"
        return None

    def _identify(self, authorization: bytes) -> AcceptedToken | None:
        try:
            token = self._known[authorization]
        except KeyError:
            token = self._look_up(authorization)
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[authorization] = token
        if token is not None and token.expires_us and token.expires_us < time.time_ns() // 1000:
            return None
        return token

    def _look_up(self, authorization: bytes) -> AcceptedToken | None:
        scheme, _, credentials = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self._tokens.get(hash_token(credentials.strip()))

    # -- routes -------------------------------------------------------------------------------

    def _route(self, url: bytes) -> Route | None:
        try:
            return self._routes[url]
        except KeyError:
            if len(self._routes) > 4096:
                self._routes.clear()
            found = self._routes[url] = find_route(url)
            return found

    def handle(self, exchange: Exchange) -> None:
        """Answers an admitted request, now or when its batch is done."""
        exchange.started = now()
        route = self._route(exchange.url)
        if route is None:  # admitted only if it was found; said again for the type checker
            exchange.fail(404, "no such path")
            return
        route.handler(self, exchange, route)

    def live(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/health/live`."""
        exchange.respond(b'{"live":true}')

    def ready(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/health/ready`: whether every wanted endpoint is served."""
        ready = self.started and not self.draining and not self.unserved
        exchange.respond(b'{"ready":true}' if ready else b'{"ready":false}', 200 if ready else 503)

    def server(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2`."""
        extensions = ["binary_tensor_data", "model_repository"]
        exchange.respond(
            encode({"name": "madang", "version": madang.__version__, "extensions": extensions})
        )

    def model(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/models/{name}[/versions/{version}]`."""
        found = self._find(exchange, route)
        if found is not None:
            endpoint, version = found
            described = version or endpoint.main
            exchange.respond(encode(described.metadata(endpoint.versions)))

    def model_ready(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/models/{name}[/versions/{version}]/ready`."""
        found = self._find(exchange, route)
        if found is not None:
            exchange.respond(encode({"name": route.endpoint, "ready": True}))

    def index(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/repository/index` (the model repository extension)."""
        rows = [
            {"name": name, "version": label, "state": "READY", "reason": ""}
            for name, endpoint in sorted(self.endpoints.items())
            for label in endpoint.versions
        ]
        rows += [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
            for name, reason in sorted(self.unserved.items())
        ]
        exchange.respond(encode(rows))

    def metrics(self, exchange: Exchange, route: Route) -> None:
        """`GET /metrics`: the counts of all workers."""
        text = exposition(self.totals())
        exchange.respond(text, content_type=b"text/plain; version=0.0.4; charset=utf-8")

    def features(self, exchange: Exchange, route: Route) -> None:
        """`POST /features/read`: online feature values, as on the API."""
        self._features.answer(exchange)

    def _find(
        self, exchange: Exchange, route: Route
    ) -> tuple[ServedEndpoint, Version | None] | None:
        """The route's endpoint and version, if it names one; else answers, and returns nothing."""
        endpoint = self.endpoints.get(route.endpoint)
        if endpoint is None:
            reason = self.unserved.get(route.endpoint)
            known = ", ".join(sorted(self.endpoints)) or "none"
            message = (
                f"the endpoint {route.endpoint!r} is not served yet"
                + (f": {reason}" if reason else "; it is being loaded")
                if reason is not None or not self.started
                else f"there is no endpoint {route.endpoint!r}; endpoints: {known}"
            )
            self._fail(exchange, 404 if self.started and reason is None else 503, message)
            return None
        if route.version is None:
            return endpoint, None
        version = endpoint.versions.get(route.version)
        if version is None:
            known = ", ".join(endpoint.versions)
            message = f"{route.endpoint!r} has no version {route.version!r}; versions: {known}"
            self._fail(exchange, 404, message, endpoint.wanted.name)
            return None
        return endpoint, version

    # -- prediction ---------------------------------------------------------------------------

    def infer(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/models/{name}[/versions/{version}]/infer`."""
        found = self._find(exchange, route)
        if found is None:
            return
        endpoint, version = found
        try:
            request, offset = decode_request(exchange.body, exchange.header_length)
            if version is None:
                version = endpoint.choose(request.id or None)
            inputs = read_inputs(request, version.inputs, exchange.body, offset)
            for output in request.outputs or ():
                _check_output(output.name, version)
        except InvalidInputError as error:
            self._fail(exchange, 400, str(error), route.endpoint, version)
            return
        self._batcher.add(Call(exchange, request, version, inputs, request.id or new_id()))

    def _finish(self, call: Call, result: Result) -> None:
        exchange, version = call.exchange, call.version
        if isinstance(result, Exception):
            status = result.status if isinstance(result, MadangError) else 500
            if isinstance(result, InvalidInputError):
                status = 400
            message = f"the model could not predict: {result}"
            self._fail(exchange, status, message, version.endpoint, version)
            return
        body, header_length = render(call, result)
        if header_length is None:
            exchange.respond(body)
        else:
            extra = b"inference-header-content-length: %d\r\n" % header_length
            exchange.respond(body, content_type=_OCTETS, extra=extra)
        seconds = now() - exchange.started
        version.counters.observe(seconds, call.rows)
        if version.log:
            self._log.put(Record(call, result, body, header_length, seconds))

    def _fail(
        self,
        exchange: Exchange,
        status: int,
        message: str,
        endpoint: str = "",
        version: Version | None = None,
    ) -> None:
        self.counts.error(endpoint, version.label if version else "", status)
        exchange.fail(status, message)

    # -- life ---------------------------------------------------------------------------------

    def tick(self, loop_time: float) -> None:
        """Called each second: the date, and clients that take too long."""
        self.date = date_line()
        self.counts.connections = len(self.connections)
        for connection in list(self.connections):
            connection.check_time(loop_time)

    def close(self) -> None:
        """Ends the prediction threads, and closes the online store."""
        self._batcher.close()
        self._features.close()


def render(call: Call, outputs: dict[str, Any]) -> tuple[bytes, int | None]:
    """`$inference_response`: the body, and where its JSON ends if binary data follows."""
    request, names = call.request, call.version.output_names
    everything = bool(request.parameters and request.parameters.get("binary_data_output"))
    if request.outputs:
        wanted = [
            (output.name, _is_binary(output.parameters, everything)) for output in request.outputs
        ]
    else:
        wanted = [(name, everything) for name in outputs]
    parts, blobs = [], []
    for name, binary in wanted:
        if binary:
            part, blob = binary_output(names[name], outputs[name])
            blobs.append(blob)
        else:
            part = json_output(names[name], outputs[name])
        parts.append(part)
    head = b'%b%b,"outputs":[%b]}' % (call.version.head, encode(call.id), b",".join(parts))
    return (head + b"".join(blobs), len(head)) if blobs else (head, None)


def _is_binary(parameters: Parameters | None, default: bool) -> bool:  # noqa: FBT001 - private
    return bool(parameters.get("binary_data", default)) if parameters else default


def _check_output(name: str, version: Version) -> None:
    if name not in version.output_names:
        known = ", ".join(version.output_names)
        raise InvalidInputError(f"there is no output {name!r}; outputs: {known}")


def _who(exchange: Exchange) -> tuple[int, str]:
    if not exchange.authorization:
        return 401, "send a token: Authorization: Bearer TOKEN"
    return 401, "the token is unknown, expired or revoked"


def _unknown(exchange: Exchange) -> tuple[int, str]:
    path = exchange.url.decode("latin-1")[:200]
    return 404, f"no such path: {path}; see the Open Inference Protocol V2, /v2/models/NAME/infer"


_INFER = Route(Service.infer, (b"POST",), "endpoint:predict")
_FIXED = {
    ("v2",): Route(Service.server),
    ("v2", "health", "live"): Route(Service.live, permission=""),
    ("v2", "health", "ready"): Route(Service.ready, permission=""),
    ("v2", "repository", "index"): Route(Service.index, (b"POST",)),
    ("features", "read"): Route(Service.features, (b"POST",), "feature:read"),
    ("metrics",): Route(Service.metrics),
}
_OF_MODEL = {(): Route(Service.model), ("ready",): Route(Service.model_ready), ("infer",): _INFER}


def find_route(url: bytes) -> Route | None:
    """Where a request's target leads."""
    path = url.decode("latin-1").partition("?")[0]
    parts = tuple(unquote(part) for part in path.strip("/").split("/"))
    if parts in _FIXED:
        return _FIXED[parts]
    if parts[:2] != ("v2", "models") or len(parts) < 3:
        return None
    name, rest, version = parts[2], parts[3:], None
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    route = _OF_MODEL.get(rest)
    if route is None:
        return None
    return Route(route.handler, route.methods, route.permission, name, version)


def new_id() -> str:
    """32 hex digits that sort by time, as `madang.ledger.new_id`; no secret depends on them."""
    return f"{time.time_ns() // 1_000_000:012x}{getrandbits(80):020x}"


__all__ = ["PUBLIC", "Route", "Service", "find_route", "new_id"]
