"""Routes of the platform group: configuration, logs, code versions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from madang.platform.code_versions import CodeVersion
from madang.platform.configuration import Setting
from madang.platform.logs import LogRecord
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, Position

router = APIRouter(tags=["platform"])


@router.get("/configuration", **needs("configuration:read"))
def settings(request: Request, prefix: str = "") -> list[Setting]:
    """Settings whose key starts with `prefix`."""
    return list(stack_of(request).configuration.list(prefix))


@router.get("/configuration/{key:path}", **needs("configuration:read"))
def setting(request: Request, key: str, version: Position | None = None) -> Setting:
    """A setting now, or as it was at a version."""
    return stack_of(request).configuration.get(key, version=version)


class NewValue(BaseModel):
    """A setting's value; with `expected_version`, only if the key is at that version."""

    value: Any
    expected_version: int | None = None


@router.put("/configuration/{key:path}", **needs("configuration:write"))
def set_setting(request: Request, key: str, body: NewValue) -> Setting:
    """Sets a value."""
    return stack_of(request).configuration.set(
        key, body.value, expected_version=body.expected_version
    )


@router.delete("/configuration/{key:path}", status_code=204, **needs("configuration:write"))
def delete_setting(request: Request, key: str) -> None:
    """Deletes a key; its history stays."""
    stack_of(request).configuration.delete(key)


@router.get("/logs", **needs("log:read"))
def logs(
    request: Request,
    text: str = "",
    level: str | None = None,
    run: str | None = None,
    step: str | None = None,
    request_id: str | None = None,
    since_us: Position | None = None,
    until_us: Position | None = None,
    limit: Limit = 100,
) -> list[LogRecord]:
    """Log records that match, newest first."""
    fields = {
        key: value
        for key, value in (("run", run), ("step", step), ("request", request_id))
        if value is not None
    }
    return list(
        stack_of(request).logs.search(
            text, fields=fields, level=level, since_us=since_us, until_us=until_us, limit=limit
        )
    )


@router.get("/code", **needs("code:read"))
def code(request: Request) -> CodeVersion:
    """The version of the project's code."""
    return stack_of(request).code_versions.current()
