"""What a worker answers: routes, and the way of a request through a model.

Every route needs a token with a permission, except those in `PUBLIC`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import madang
from madang.deployment.serving._access import MAX_KEY_BYTES, Access
from madang.deployment.serving._batching import Asker, Batcher, Call, Result, now
from madang.deployment.serving._endpoints import ServedEndpoint, Version
from madang.deployment.serving._exchange import SMALL_BYTES, TOO_MUCH, Exchange, Limits, date_line
from madang.deployment.serving._explain import Explanations
from madang.deployment.serving._features import FeatureReads
from madang.deployment.serving._http import Connection
from madang.deployment.serving._log import PredictionLog, Record
from madang.deployment.serving._metrics import Snapshot, exposition
from madang.deployment.serving._parameters import (
    check_load,
    check_outputs,
    check_request,
    deadline_of,
    load_parameters,
    wants_ready_only,
)
from madang.deployment.serving._repository import Repository, states
from madang.deployment.serving._shadows import Shadows
from madang.deployment.serving._state import WantedEndpoint
from madang.deployment.serving._statistics import model_statistics
from madang.deployment.serving._tensors import (
    InferRequest,
    decode_request,
    encode,
    read_inputs,
)
from madang.errors import (
    InvalidInputError,
    MadangError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from madang.data.features import OnlineStore

PUBLIC = frozenset({"/v2/health/live", "/v2/health/ready"})
"""The only routes that need no token."""

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
"""What the server speaks beside the protocol itself, by Triton's names."""

FAULT = "the server failed to answer; the worker's log says why"
_LOGGER = logging.getLogger("madang.serving")


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
        repository: Repository,
        rollout_log: PredictionLog,
    ) -> None:
        self.limits = limits
        self.access = Access()
        self.draining = False
        self.date = date_line()
        self.connections: set[Connection] = set()
        self.held_bytes = 0
        self.endpoints: dict[str, ServedEndpoint] = {}
        self.unserved: dict[str, str] = {}
        self.unloaded: dict[str, WantedEndpoint] = {}
        self.started = False  # the first desired state was worked through
        self.counts = Snapshot()
        self.totals = totals
        self._features = FeatureReads(online, self.counts.features)
        self._explanations = Explanations()
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._unlogged: list[Record] = []
        self._repository = repository
        self._shadows = Shadows(rollout_log)
        self._tasks: set[asyncio.Task[None]] = set()
        self._batcher = Batcher(self._finish)
        self._routes: dict[bytes, Route | None] = {}

    # -- routes -------------------------------------------------------------------------------

    def admit(self, exchange: Exchange) -> tuple[int, str] | None:
        """Decides about a request when its head is there; a body is read only after this."""
        route = self._route(exchange.url)
        if route is None:
            # Without an identity, nothing is said about what exists.
            return self.access.refusal(exchange.authorization, "") or _unknown(exchange)
        if route.permission:
            refused = self.access.refusal(exchange.authorization, route.permission)
            if refused is not None:
                return refused
        if exchange.method not in route.methods:
            return 405, f"use {' or '.join(method.decode() for method in route.methods)} here"
        return None

    def _route(self, url: bytes) -> Route | None:
        try:
            return self._routes[url]
        except KeyError:
            if len(url) > MAX_KEY_BYTES:
                return None
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
        try:
            route.handler(self, exchange, route)
        except MadangError as error:
            self._fail(exchange, status_of(error), str(error), route.endpoint)
        except Exception:  # one request must not end the connection's others
            _LOGGER.exception("a request of %s failed", route.endpoint or "the server")
            self._fail(exchange, 500, FAULT, route.endpoint)

    def live(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/health/live`."""
        exchange.respond(b'{"live":true}')

    def is_ready(self) -> bool:
        """Whether every wanted endpoint is served, except those that a client unloaded."""
        return self.started and not self.draining and not self.unserved

    def ready(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/health/ready`."""
        ready = self.is_ready()
        exchange.respond(b'{"ready":true}' if ready else b'{"ready":false}', 200 if ready else 503)

    def server(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2`."""
        exchange.respond(encode(server_metadata()))

    def model(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/models/{name}[/versions/{version}]`."""
        exchange.respond(encode(self.describe(route.endpoint, route.version)))

    def describe(self, name: str, label: str | None) -> dict[str, Any]:
        """`$metadata_model_response`; raises as `find`."""
        endpoint, version = self.find(name, label)
        return (version or endpoint.main).metadata(endpoint.versions)

    def model_ready(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/models/{name}[/versions/{version}]/ready`."""
        self.find(route.endpoint, route.version)
        exchange.respond(encode({"name": route.endpoint, "ready": True}))

    def model_statistics(self, exchange: Exchange, route: Route) -> None:
        """`GET /v2/models[/{name}[/versions/{version}]]/stats` (the statistics extension)."""
        exchange.respond(encode(self.statistics(route.endpoint, route.version)))

    def statistics(self, name: str, label: str | None) -> dict[str, Any]:
        """`$stats_model_response` of a version, an endpoint, or everything; raises as `find`."""
        if name:
            endpoint, version = self.find(name, label)
            pairs = [(name, version.label)] if version else [(name, v) for v in endpoint.versions]
        else:
            pairs = [(n, v) for n, found in sorted(self.endpoints.items()) for v in found.versions]
        return model_statistics(self.totals(), pairs)

    def index(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/repository/index` (the model repository extension)."""
        exchange.respond(encode(self.repository_index(ready=wants_ready_only(exchange.body))))

    def repository_index(self, *, ready: bool) -> list[dict[str, str]]:
        """`$repository_index_response`; only what is ready, if so asked."""
        served = {name: list(endpoint.versions) for name, endpoint in self.endpoints.items()}
        return states(served, {} if ready else self.unserved, {} if ready else self.unloaded)

    def load(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/repository/models/{name}/load`."""
        self._change(exchange, route.endpoint, load=True)

    def unload(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/repository/models/{name}/unload`."""
        self._change(exchange, route.endpoint, load=False)

    def _change(self, exchange: Exchange, name: str, *, load: bool) -> None:
        parameters = load_parameters(exchange.body)

        async def change() -> None:
            try:
                await self.change(exchange.authorization, name, parameters, load=load)
            except MadangError as error:
                self._fail(exchange, status_of(error), str(error), name)
            except Exception:  # nobody else waits for this task
                _LOGGER.exception("a load or unload of %s failed", name)
                self._fail(exchange, 500, FAULT, name)
            else:
                exchange.respond(b"{}")

        task = asyncio.get_running_loop().create_task(change())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def change(
        self, authorization: bytes, name: str, parameters: Iterable[str], *, load: bool
    ) -> None:
        """Loads or unloads an endpoint in every worker, in the name of the token's user.

        Raises:
            MadangError: As `Repository.change`; or the token was revoked meanwhile.
        """
        check_load(parameters)
        token = self.access.identify(authorization)
        actor = "" if token.own else f"user:{token.name}"
        await self._repository.change(name, load=load, actor=actor)

    def metrics(self, exchange: Exchange, route: Route) -> None:
        """`GET /metrics`: the counts of all workers."""
        text = exposition(self.totals())
        exchange.respond(text, content_type=b"text/plain; version=0.0.4; charset=utf-8")

    def features(self, exchange: Exchange, route: Route) -> None:
        """`POST /features/read`: online feature values, as on the API."""
        self._features.answer(exchange)

    def find(self, name: str, label: str | None) -> tuple[ServedEndpoint, Version | None]:
        """An endpoint, and the version of it that a label names, if one does.

        Raises:
            NotFoundError: There is no such endpoint or version.
            UnavailableError: It is not served now.
        """
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            raise self._absent(name)
        if not label:
            return endpoint, None
        version = endpoint.versions.get(label)
        if version is None:
            known = ", ".join(endpoint.versions)
            raise NotFoundError(f"{name!r} has no version {label!r}; versions: {known}")
        return endpoint, version

    def _absent(self, name: str) -> MadangError:
        if name in self.unloaded:
            return UnavailableError(
                f"the endpoint {name!r} is unloaded; "
                f"load it: POST /v2/repository/models/{name}/load"
            )
        reason = self.unserved.get(name)
        if reason is not None:
            return UnavailableError(f"the endpoint {name!r} is not served yet: {reason}")
        if not self.started:
            return UnavailableError(f"the endpoint {name!r} is not served yet; it is being loaded")
        known = ", ".join(sorted(self.endpoints)) or "none"
        return NotFoundError(f"there is no endpoint {name!r}; endpoints: {known}")

    # -- prediction ---------------------------------------------------------------------------

    def infer(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/models/{name}[/versions/{version}]/infer`."""
        if self._batcher.waiting >= self.limits.max_waiting:
            self.check_room()
        endpoint, version = self.find(route.endpoint, route.version)
        try:
            request, offset = decode_request(exchange.body, exchange.header_length)
            assigned = b""
            if version is None:
                version, assigned = self.assign(endpoint, request, exchange, exchange.body, offset)
            self.take(exchange, request, version, exchange.body, offset, assigned=assigned)
        except MadangError as error:
            self._fail(exchange, status_of(error), str(error), route.endpoint, version)

    def explain(self, exchange: Exchange, route: Route) -> None:
        """`POST /v2/models/{name}[/versions/{version}]/explain`: SHAP values."""
        endpoint, version = self.find(route.endpoint, route.version)
        request, offset = decode_request(exchange.body, exchange.header_length)
        chosen = version or self.assign(endpoint, request, exchange, exchange.body, offset)[0]
        inputs = read_inputs(request, chosen.inputs, exchange.body, offset)

        def done(work: asyncio.Future[bytes]) -> None:
            error = work.exception()
            if error is None:
                exchange.respond(work.result())
            elif isinstance(error, Exception):
                message = f"the prediction could not be explained: {error}"
                self._fail(exchange, status_of(error), message, route.endpoint, chosen)
            else:
                raise error

        self._explanations.start(chosen, inputs, request.id or new_id(), done)

    def assign(
        self,
        endpoint: ServedEndpoint,
        request: InferRequest,
        asker: Asker,
        body: bytes,
        offset: int,
    ) -> tuple[Version, bytes]:
        """The version that answers, and what the log says of the rollout that chose it, if any.

        Raises:
            InvalidInputError: The rollout's key can't be read.
        """
        if endpoint.assigner is None:
            return endpoint.choose(request.id or None), b""
        request.id = request.id or new_id()
        return endpoint.assigner.assign(request, asker, body, offset)

    def check_room(self) -> None:
        """Asked before a request is parsed, which is more work than to refuse it.

        Raises:
            UnavailableError: So many requests wait that one more would only wait in vain.
        """
        waiting = self._batcher.waiting
        if waiting >= self.limits.max_waiting:
            raise UnavailableError(f"{waiting} requests wait for their model; try again later")

    def take(
        self,
        asker: Asker,
        request: InferRequest,
        version: Version,
        body: bytes,
        offset: int,
        *,
        assigned: bytes = b"",
    ) -> None:
        """Has a request predicted; the asker gets the answer.

        Args:
            asker: Who asks.
            request: The request.
            version: Who answers.
            body: Where binary tensors are, from `offset` on.
            offset: See `body`.
            assigned: What the log says of the rollout that chose the version.

        Raises:
            InvalidInputError: Says what was expected and what was found.
            UnavailableError: All requests under way take too much memory.
        """
        inputs = read_inputs(request, version.inputs, body, offset)
        deadline = inf
        if request.parameters or asker.timeout_seconds is not None:
            check_request(request.parameters or {})
            deadline = deadline_of(asker.started, asker.timeout_seconds, request)
        if request.outputs:
            check_outputs(request.outputs, version)
        size = 0
        for array in inputs.values():
            size += array.nbytes
        if size > SMALL_BYTES and not asker.hold(size):
            raise UnavailableError(TOO_MUCH)
        request_id = request.id or new_id()
        self._batcher.add(
            Call(
                asker,
                request,
                version,
                inputs,
                request_id,
                deadline=deadline,
                size=size,
                assigned=assigned,
            )
        )

    def _finish(self, call: Call, result: Result) -> None:
        exchange, version = call.exchange, call.version
        if isinstance(result, Exception):
            status = status_of(result)
            message = f"the model could not predict: {result}"
            if call.assigned and status >= 500:
                self._shadows.failed(call, status)
            self._fail(exchange, status, message, version.endpoint, version)
            return
        try:
            body, header_length = exchange.answer(call, result)
        except Exception:  # the outputs are any model's own; the others of the batch get theirs
            _LOGGER.exception("a prediction of %s could not be answered", version.endpoint)
            self._fail(exchange, 500, FAULT, version.endpoint, version)
            return
        seconds = now() - exchange.started
        version.counters.observe(seconds, call.rows)
        if version.log:
            if not self._unlogged:
                self._loop.call_soon(self._log_answered)
            self._unlogged.append(Record(call, result, body, header_length, seconds))
        if version.shadows and call.assigned:
            self._shadows.offer(call)

    def _log_answered(self) -> None:
        """Hands over what was answered, after the loop has sent the answers."""
        records, self._unlogged = self._unlogged, []
        for record in records:
            self._log.put(record)

    def _fail(
        self,
        exchange: Asker,
        status: int,
        message: str,
        endpoint: str = "",
        version: Version | None = None,
    ) -> None:
        self.count_error(endpoint, version, status, now() - exchange.started)
        exchange.fail(status, message)

    def count_error(
        self, endpoint: str, version: Version | None, status: int, seconds: float
    ) -> None:
        """Counts a request that was not answered with a prediction."""
        known = endpoint if endpoint in self.endpoints else ""
        self.counts.error(known, version.label if version else "", status, seconds)

    # -- life ---------------------------------------------------------------------------------

    def tick(self, loop_time: float) -> None:
        """Called each second: the date, requests that wait in vain, clients that take too long."""
        self.date = date_line()
        self._batcher.drop_late()
        self.counts.connections = len(self.connections)
        for connection in list(self.connections):
            connection.check_time(loop_time)

    def close(self) -> None:
        """Ends the prediction threads, and closes the online store."""
        self._batcher.close()
        self._shadows.close()
        self._log_answered()
        self._explanations.close()
        self._features.close()
        self._repository.close()


def status_of(error: Exception) -> int:
    """The HTTP status that answers an error."""
    if isinstance(error, InvalidInputError):
        return 400
    return error.status if isinstance(error, MadangError) else 500


def server_metadata() -> dict[str, Any]:
    """`$metadata_server_response`."""
    return {"name": "madang", "version": madang.__version__, "extensions": list(EXTENSIONS)}


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
_STATS = Route(Service.model_statistics)
_OF_MODEL: dict[tuple[str, ...], Route] = {
    (): Route(Service.model),
    ("ready",): Route(Service.model_ready),
    ("infer",): _INFER,
    ("explain",): Route(Service.explain, (b"POST",), "endpoint:predict"),
    ("stats",): _STATS,
}
_OF_REPOSITORY: dict[tuple[str, ...], Route] = {
    ("load",): Route(Service.load, (b"POST",), "endpoint:write"),
    ("unload",): Route(Service.unload, (b"POST",), "endpoint:write"),
}


def find_route(url: bytes) -> Route | None:
    """Where a request's target leads."""
    path = url.decode("latin-1").partition("?")[0]
    parts = tuple(unquote(part) for part in path.strip("/").split("/"))
    if parts in _FIXED:
        return _FIXED[parts]
    if parts == ("v2", "models", "stats"):  # so an endpoint of this name is asked by its version
        return _STATS
    version = None
    if parts[:3] == ("v2", "repository", "models") and len(parts) == 5:
        name, route = parts[3], _OF_REPOSITORY.get(parts[4:])
    elif parts[:2] == ("v2", "models") and len(parts) >= 3:
        name, rest = parts[2], parts[3:]
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        route = _OF_MODEL.get(rest)
    else:
        return None
    if route is None:
        return None
    return Route(route.handler, route.methods, route.permission, name, version)


def new_id() -> str:
    """32 hex digits that sort by time, as `madang.ledger.new_id`; no secret depends on them."""
    return f"{time.time_ns() // 1_000_000:012x}{getrandbits(80):020x}"


__all__ = ["FAULT", "PUBLIC", "Route", "Service", "find_route", "new_id"]
