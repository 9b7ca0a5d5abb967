"""The parameters that requests may bring: what is understood, what is refused, what is ignored.

The protocol lets a server ignore parameters that it doesn't know. Those that change what the answer
means are refused instead, because an answer that ignored them would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from madang.deployment.serving._tensors import Parameters
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.deployment.serving._endpoints import Version
    from madang.deployment.serving._tensors import InferRequest, RequestOutput

_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_US = 1_000_000


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _LoadRequest(msgspec.Struct):
    parameters: Parameters | None = None


def check_request(parameters: Parameters) -> None:
    """Refuses parameters of a request that can't be followed.

    Raises:
        InvalidInputError: It belongs to a sequence, or a value is of a wrong type.
    """
    for name in _SEQUENCE:
        if parameters.get(name):
            raise InvalidInputError(
                f"the parameter {name} asks for a sequence, and this server keeps nothing of one "
                "request for the next; send everything that the model needs in each request"
            )
    _check_flag(parameters, "binary_data_output")


def wants_binary(request: InferRequest) -> bool:
    """Whether all outputs are wanted as binary data, where they don't say so themselves."""
    return bool(request.parameters and request.parameters.get("binary_data_output"))


def check_outputs(outputs: Iterable[RequestOutput], version: Version) -> None:
    """Refuses requested outputs that the version doesn't have, or not in this form.

    Raises:
        InvalidInputError: An output is unknown, is asked for twice, or as something else than
            its values.
    """
    seen: set[str] = set()
    for output in outputs:
        if output.name not in version.output_names:
            known = ", ".join(version.output_names)
            raise InvalidInputError(f"there is no output {output.name!r}; outputs: {known}")
        if output.name in seen:
            raise InvalidInputError(f"output {output.name!r} is asked for twice")
        seen.add(output.name)
        if output.parameters:
            _check_output(output.name, output.parameters)


def _check_output(name: str, parameters: Parameters) -> None:
    _check_flag(parameters, "binary_data")
    for refused in ("classification", "shared_memory_region"):
        if parameters.get(refused):
            raise InvalidInputError(
                f"output {name!r}: the parameter {refused} is not supported; outputs come as their "
                "values, in JSON or as binary data"
            )


def _check_flag(parameters: Parameters, name: str) -> None:
    if not isinstance(parameters.get(name, False), bool):
        raise InvalidInputError(f"the parameter {name} is true or false: {parameters[name]!r}")


def deadline_of(started: float, timeout_seconds: float | None, request: InferRequest) -> float:
    """When nobody wants the answer any more, by the clock of `started`.

    Args:
        started: When the request was there.
        timeout_seconds: What the transport says: a header, or gRPC's deadline.
        request: Its parameter `timeout` is in microseconds, and 0 means none (Triton's schedule
            policy extension).

    Raises:
        InvalidInputError: The parameter `timeout` is not a number of microseconds.
    """
    deadline = inf if timeout_seconds is None else started + timeout_seconds
    if request.parameters and request.parameters.get("timeout"):
        timeout = request.parameters["timeout"]
        if type(timeout) is not int or not 0 < timeout < 2**63:
            raise InvalidInputError(
                f"the parameter timeout is a whole number of microseconds: {timeout!r}"
            )
        deadline = min(deadline, started + timeout / _US)
    return deadline


def wants_ready_only(body: bytes) -> bool:
    """`ready` of `$repository_index_request`; the body may be empty.

    Raises:
        InvalidInputError: It is not such a request.
    """
    wanted: bool = _decoded(body, _IndexRequest).ready
    return wanted


def load_parameters(body: bytes) -> Parameters:
    """`parameters` of `$repository_load_request` or its unload; the body may be empty.

    Raises:
        InvalidInputError: It is not such a request.
    """
    parameters: Parameters | None = _decoded(body, _LoadRequest).parameters
    return parameters or {}


def check_load(names: Iterable[str]) -> None:
    """Refuses parameters of a load that would bring a model along.

    Raises:
        InvalidInputError: There is one.
    """
    for name in names:
        if name == "config" or name.startswith("file:"):
            raise InvalidInputError(
                f"the parameter {name} is not supported: a model is registered, and deployed to an "
                "endpoint, before it can be loaded"
            )


def _decoded(body: bytes, kind: type[Any]) -> Any:
    if not body:
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the body is not what this path takes: {error}") from error
