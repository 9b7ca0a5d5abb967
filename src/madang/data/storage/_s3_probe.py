"""What an S3 server really does, tried on one small object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    NotSupportedError,
    PreconditionError,
)
from obstore.store import S3Store

ABILITIES = ("range reads", "create-only writes", "compare-and-swap by ETag")
"""What the probe finds in a server that it lets pass."""

_FIRST, _SECOND, _THIRD = b"0123456789", b"abcdefghij", b"ABCDEFGHIJ"
_REFUSALS = (AlreadyExistsError, PreconditionError)


class UnsafeServerError(Exception):
    """The server lacks an ability; the message says which, and what that would do."""


def probe(store: S3Store, key: str) -> None:
    """Tries everything that tables need; the caller deletes the object.

    Raises:
        UnsafeServerError: The server lacks an ability.
    """
    first = obstore.put(store, key, _FIRST, mode="create")
    _probe_create(store, key)
    _probe_range(store, key)
    _probe_swap(store, key, first["e_tag"])


def _probe_create(store: S3Store, key: str) -> None:
    if not _refused(lambda: obstore.put(store, key, _SECOND, mode="create")):
        raise UnsafeServerError(
            "it ignores create-only writes (If-None-Match: *), so two writers would overwrite "
            "each other's versions"
        )
    if bytes(obstore.get(store, key).bytes()) != _FIRST:
        raise UnsafeServerError(
            "it refuses a create-only write (If-None-Match: *) and does it all the same"
        )


def _probe_range(store: S3Store, key: str) -> None:
    try:
        part = bytes(obstore.get_range(store, key, start=2, end=6))
    except (GenericError, NotSupportedError) as error:
        raise UnsafeServerError(f"it can't read a range: {_first_line(error)}") from error
    if part != _FIRST[2:6]:
        raise UnsafeServerError("it ignores the range of a read (Range: bytes=…)")


def _probe_swap(store: S3Store, key: str, e_tag: str | None) -> None:
    if e_tag is None:
        raise UnsafeServerError("it gives no ETag, so a change by another writer can't be seen")
    known = cast("Any", {"e_tag": e_tag})
    try:
        obstore.put(store, key, _SECOND, mode=known)
    except (GenericError, NotSupportedError, *_REFUSALS) as error:
        raise UnsafeServerError(
            f"it refuses compare-and-swap by ETag (If-Match): {_first_line(error)}"
        ) from error
    if not _refused(lambda: obstore.put(store, key, _THIRD, mode=known)):
        raise UnsafeServerError(
            "it ignores compare-and-swap by ETag (If-Match), so two writers would overwrite each "
            "other's changes"
        )


def _refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except _REFUSALS:
        return True
    return False


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
