"""Back-pressure: the bodies of appends that are under way have a bound together, not only each."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_APPENDS = re.compile(r"/api/v1/topics/[^/]+/(events|cloudevents)")
_RETRY_SECONDS = 1


class Pressure:
    """Answers appends with 429 and `Retry-After` while too many bytes of others are held.

    A body counts from its first byte until its request is answered. One alone may be as large as
    the server takes.

    Args:
        app: What is behind it.
        max_bytes: Together at most so many.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held = 0
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counted = scope["type"] == "http" and scope["method"] == "POST"
        if not counted or not _APPENDS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        mine = 0

        async def taken() -> Message:
            nonlocal mine
            message = await receive()
            length = len(message.get("body", b""))
            mine += length
            self._hold(length)
            return message

        try:
            await self._app(scope, taken, send)
        finally:
            self._release(mine)

    def _hold(self, length: int) -> None:
        with self._lock:
            self._held += length
            held = self._held
        if held > self._max_bytes:
            raise HTTPException(
                429,
                f"appends under way hold {held} bytes, and together they may have "
                f"{self._max_bytes}; nothing of this one was kept, send it again soon",
                headers={"Retry-After": str(_RETRY_SECONDS)},
            )

    def _release(self, length: int) -> None:
        with self._lock:
            self._held -= length
