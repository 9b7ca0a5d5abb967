"""The Open Inference Protocol V2 over gRPC, in the same worker as over HTTP.

Requests go through the same service as those over HTTP: the same tokens (metadata `authorization`),
batches, limits, counts and log. Who may not ask is refused before the message is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from madang.deployment.serving import _grpc_messages as messages
from madang.deployment.serving._batching import now
from madang.deployment.serving._exchange import TOO_MUCH
from madang.deployment.serving._parameters import wants_binary
from madang.deployment.serving._service import FAULT, server_metadata, status_of
from madang.errors import InvalidInputError, MadangError, UnavailableError

if TYPE_CHECKING:
    from madang.deployment.serving._batching import Call, Outputs
    from madang.deployment.serving._service import Service

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_MAX_MESSAGE_CHARACTERS = 2000
"""An error travels in the trailers, whose size clients limit to 8 KiB."""

_HANDSHAKE_MS = 10_000
_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000
_LOGGER = logging.getLogger("madang.serving")


@dataclass(frozen=True)
class Method:
    """How a method is answered, and the permission that it needs."""

    answer: Callable[[Calls, Any, Any], Awaitable[Any]]
    permission: str = "endpoint:read"


class Asker:
    """Who asked for a prediction over gRPC.

    Args:
        service: Where the memory that requests take is counted.
        timeout_seconds: gRPC's deadline, from now.
    """

    # The log takes inputs and outputs from the arrays: neither is JSON.
    body = b""
    header_length: int | None = 0
    key = b""

    def __init__(self, service: Service, timeout_seconds: float | None) -> None:
        self.started = now()
        self.timeout_seconds = timeout_seconds
        self.gone = False
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._service = service
        self.raw = False  # outputs are wanted as raw contents
        self._held = 0

    def hold(self, count: int) -> bool:
        """Counts so many bytes that the request takes; whether all requests may take them."""
        self._held += count
        self._service.held_bytes += count
        return self._service.held_bytes <= self._service.limits.max_held_bytes

    def release(self) -> None:
        """Gives back what `hold` counted."""
        self._service.held_bytes -= self._held
        self._held = 0

    def answer(self, call: Call, outputs: Outputs) -> tuple[bytes, int | None]:
        """Answers with a prediction."""
        response = messages.write_response(call, outputs, raw=self.raw)
        if not self.answered.done():
            self.answered.set_result(response)
        return response, 0

    def fail(self, status: int, message: str) -> None:
        """Answers with an error."""
        if not self.answered.done():
            self.answered.set_exception(_Failure(status, message))


class _Failure(Exception):  # noqa: N818 - it carries an answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """Answers the methods of `inference.GRPCInferenceService`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def service(self, details: Any) -> Any:
        """Where a call leads; asked before its message is read."""
        method = _METHODS.get(details.method)
        if method is None:
            return None
        if method.permission:
            refused = self._service.access.refusal(_authorization(details), method.permission)
            if refused is not None:
                return _refusing(*refused)

        async def answer(data: bytes, context: Any) -> Any:
            try:
                return await method.answer(self, data, context)
            except _Failure as failure:
                await _abort(context, failure.status, str(failure))
            except MadangError as error:
                await _abort(context, status_of(error), str(error))
            except Exception:  # as over HTTP: it is logged here, and the client is told so
                _LOGGER.exception("a call of %s failed", details.method)
                await _abort(context, 500, FAULT)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def live(self, data: bytes, context: Any) -> Any:
        return _reply("ServerLiveResponse", {"live": True})

    async def ready(self, data: bytes, context: Any) -> Any:
        return _reply("ServerReadyResponse", {"ready": self._service.is_ready()})

    async def server(self, data: bytes, context: Any) -> Any:
        return _reply("ServerMetadataResponse", server_metadata())

    async def model_ready(self, data: bytes, context: Any) -> Any:
        asked = _read("ModelReadyRequest", data)
        self._service.find(asked.name, asked.version)
        return _reply("ModelReadyResponse", {"ready": True})

    async def model(self, data: bytes, context: Any) -> Any:
        asked = _read("ModelMetadataRequest", data)
        found = self._service.describe(asked.name, asked.version)
        found.pop("fallback", None)  # the message has no place for it
        return _reply("ModelMetadataResponse", found)

    async def statistics(self, data: bytes, context: Any) -> Any:
        asked = _read("ModelStatisticsRequest", data)
        found = self._service.statistics(asked.name, asked.version)
        return _reply("ModelStatisticsResponse", found)

    async def index(self, data: bytes, context: Any) -> Any:
        asked = _read("RepositoryIndexRequest", data)
        rows = self._service.repository_index(ready=asked.ready)
        return _reply("RepositoryIndexResponse", {"models": rows})

    async def load(self, data: bytes, context: Any) -> Any:
        return await self._change("Load", data, context)

    async def unload(self, data: bytes, context: Any) -> Any:
        return await self._change("Unload", data, context)

    async def _change(self, what: str, data: bytes, context: Any) -> Any:
        asked = _read(f"RepositoryModel{what}Request", data)
        await self._service.change(
            _authorization(context), asked.model_name, asked.parameters, load=what == "Load"
        )
        return _reply(f"RepositoryModel{what}Response", {})

    async def infer(self, data: bytes, context: Any) -> bytes:
        asker = Asker(self._service, context.time_remaining())
        try:
            self._take(asker, data)
            return await asker.answered
        except asyncio.CancelledError:  # the client left, or its deadline passed
            asker.gone = True
            raise
        finally:
            asker.release()

    def _take(self, asker: Asker, data: bytes) -> None:
        service, name, version = self._service, "", None
        try:
            service.check_room()
            if not asker.hold(len(data)):
                raise UnavailableError(TOO_MUCH)
            sent, request, body = messages.read_request(data)
            name, asker.raw = sent.model_name, bool(body) or wants_binary(request)
            endpoint, version = service.find(name, sent.model_version)
            assigned = b""
            if version is None:
                version, assigned = service.assign(endpoint, request, asker, body, 0)
            service.take(asker, request, version, body, 0, assigned=assigned)
        except MadangError as error:
            service.count_error(name, version, status_of(error), now() - asker.started)
            raise


def _read(name: str, data: bytes) -> Any:
    try:
        return messages.message(name).FromString(data)
    except DecodeError as error:
        raise InvalidInputError(f"the message is not a {name}: {error}") from error


def _reply(name: str, content: dict[str, Any]) -> Any:
    """A message from what HTTP answers as JSON: the names are the same."""
    return json_format.ParseDict(content, messages.message(name)()).SerializeToString()


def _authorization(details: Any) -> bytes:
    """`authorization` of a call's metadata."""
    metadata = (
        details.invocation_metadata()
        if callable(details.invocation_metadata)
        else details.invocation_metadata
    )
    for key, value in metadata or ():
        if key == "authorization":
            return value.encode() if isinstance(value, str) else value
    return b""


def _refusing(status: int, message: str) -> Any:
    """A handler that refuses a call, and does not read its message."""

    async def refuse(_: Any, context: Any) -> Any:
        await _abort(context, status, message)

    return grpc.stream_unary_rpc_method_handler(refuse)


async def _abort(context: Any, status: int, message: str) -> None:
    code = _CODES.get(status, grpc.StatusCode.INTERNAL)
    await context.abort(code, message[:_MAX_MESSAGE_CHARACTERS])


_METHODS = {
    f"/{messages.SERVICE}/{name}": method
    for name, method in {
        "ServerLive": Method(Calls.live, ""),
        "ServerReady": Method(Calls.ready, ""),
        "ServerMetadata": Method(Calls.server),
        "ModelReady": Method(Calls.model_ready),
        "ModelMetadata": Method(Calls.model),
        "ModelInfer": Method(Calls.infer, "endpoint:predict"),
        "ModelStatistics": Method(Calls.statistics),
        "RepositoryIndex": Method(Calls.index),
        "RepositoryModelLoad": Method(Calls.load, "endpoint:write"),
        "RepositoryModelUnload": Method(Calls.unload, "endpoint:write"),
    }.items()
}


class GrpcServer:
    """A worker's gRPC port; other workers share it by SO_REUSEPORT."""

    def __init__(self, service: Service, host: str, port: int) -> None:
        limits = service.limits
        self._server = grpc.aio.server(
            # More than wait for models, so that these get the service's own answer, and health too.
            maximum_concurrent_rpcs=2 * limits.max_waiting,
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limits.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", limits.max_header_bytes),
                ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.max_connection_idle_ms", round(limits.idle_timeout_seconds * 1000)),
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ],
        )
        self._server.add_generic_rpc_handlers((Calls(service),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.port: int = self._server.add_insecure_port(address)

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Takes nothing new, and waits for what is under way; ends the rest after that time."""
        await self._server.stop(grace_seconds)
