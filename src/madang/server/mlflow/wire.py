"""The forms of MLflow's REST API: its paths, its errors, its numbers.

Requests and answers are the messages of MLflow's `service.proto` and `model_registry.proto` in
JSON: times in milliseconds, 64-bit integers as numbers or as text, and `NaN`, `Infinity`,
`-Infinity` as text (https://protobuf.dev/programming-guides/json/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from madang.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    MadangError,
    NotFoundError,
    OutOfSpaceError,
    PermissionDeniedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = "3.17.2"
"""The version of MLflow whose API this is; its client asks for it."""

PREFIXES = ("/api/2.0/mlflow/", "/api/3.0/mlflow/", "/api/2.0/mlflow-artifacts/")
ALONE = frozenset({"/health", "/version", "/get-artifact"})

# MLflow's error codes and their HTTP statuses (mlflow.exceptions.ERROR_CODE_TO_HTTP_STATUS).
_CODES: tuple[tuple[type[MadangError], str, int], ...] = (
    (NotFoundError, "RESOURCE_DOES_NOT_EXIST", 404),
    (AlreadyExistsError, "RESOURCE_ALREADY_EXISTS", 400),
    (ConflictError, "INVALID_PARAMETER_VALUE", 400),  # a parameter that has another value
    (InvalidInputError, "INVALID_PARAMETER_VALUE", 400),
    (AuthenticationError, "UNAUTHENTICATED", 401),
    (PermissionDeniedError, "PERMISSION_DENIED", 403),
    (OutOfSpaceError, "RESOURCE_EXHAUSTED", 507),
    (UnavailableError, "TEMPORARILY_UNAVAILABLE", 503),
)

encode = msgspec.json.Encoder().encode


def is_ours(path: str) -> bool:
    """Whether a path belongs to MLflow's API."""
    return path.startswith(PREFIXES) or path in ALONE


def is_streamed(method: str, path: str) -> bool:
    """Whether the body goes to the disk in pieces, so that its size needs no bound in memory."""
    return method == "PUT" and path.startswith("/api/2.0/mlflow-artifacts/")


def json_response(content: Any, status: int = 200) -> Response:
    """An answer of MLflow's API."""
    return Response(encode(content), status, media_type="application/json")


def refusal(code: str, message: str, status: int) -> Response:
    """An error in MLflow's form, which its client raises as `MlflowException`."""
    response = json_response({"error_code": code, "message": message}, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 11.6.1
    return response


def expected(error: MadangError) -> Response:
    """One of our errors in MLflow's form."""
    for kind, code, status in _CODES:
        if isinstance(error, kind):
            return refusal(code, str(error), status)
    return refusal("INTERNAL_ERROR", str(error), 500)


def page(name: str, items: Iterable[dict[str, Any]], token: str | None) -> dict[str, Any]:
    """A page of a search as MLflow lists it."""
    found: dict[str, Any] = {name: list(items)}
    return found | ({"next_page_token": token} if token else {})
