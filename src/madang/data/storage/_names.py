"""What a key, a table's name and a transaction may be, the same for every engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import quote

from madang.data.storage.contract import Transaction
from madang.errors import InvalidInputError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_METADATA_NAME = re.compile(r"[a-z0-9-]{1,64}")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+( ?; ?[\w.+-]+=[\w.+\"-]+)*", re.ASCII)
_TABLE = re.compile(r"\w[\w.-]*")

MAX_KEY_BYTES = 1024
"""S3's limit (Amazon S3 User Guide, "Naming Amazon S3 objects")."""

MAX_PART_BYTES = 255
"""The limit of a file's name on Linux (NAME_MAX)."""

MAX_TABLE_BYTES = 120

MAX_ABOUT_BYTES = 2048
"""S3's limit of what is said of an object (Amazon S3 User Guide, "Working with object metadata")."""

NONE_YET = -1
"""An application's number in a table that holds nothing of it."""

_MAX_NUMBER = 2**53 - 1
"""The largest that every JSON reader keeps (RFC 7493, section 2.2)."""


def check_key(key: str) -> str:
    """Returns `key` when it is usable.

    Raises:
        InvalidInputError: It is not; says why.
    """
    raw = _encoded(key, "key")
    if not key or key.startswith("/") or key.endswith("/"):
        _refuse("key", key, "it is empty, or starts or ends with /")
    if _CONTROL.search(key):
        _refuse("key", key, "it has a control character or a backslash")
    if len(raw) > MAX_KEY_BYTES:
        _refuse("key", key, f"it has {len(raw)} bytes, and {MAX_KEY_BYTES} are allowed")
    for part in key.split("/"):
        if part in ("", ".", ".."):
            _refuse("key", key, f"it has the part {part!r}")
        if len(part.encode()) > MAX_PART_BYTES:
            _refuse("key", key, f"a part of it has more than {MAX_PART_BYTES} bytes")
    return key


def check_prefix(prefix: str) -> str:
    """Returns `prefix` when keys could start with it.

    Raises:
        InvalidInputError: No key can; says why.
    """
    _encoded(prefix, "prefix")
    if prefix.startswith("/") or _CONTROL.search(prefix):
        _refuse("prefix", prefix, "it starts with /, or has a control character or a backslash")
    if any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        _refuse("prefix", prefix, "it has an empty part, . or ..")
    return prefix


def check_about(
    content_type: str | None, metadata: Mapping[str, str] | None
) -> tuple[str | None, dict[str, str]]:
    """Returns what is said of an object when it is usable.

    Raises:
        InvalidInputError: It is not; says why.
    """
    if content_type is not None and not _MEDIA_TYPE.fullmatch(content_type):
        _refuse("content type", content_type, "it is no media type, such as image/png")
    found = dict(metadata or {})
    size = len(content_type or "")
    for name, value in found.items():
        if not _METADATA_NAME.fullmatch(name):
            _refuse("metadata name", name, "use lower case letters, digits and -, at most 64")
        if not isinstance(value, str):
            _refuse(f"metadata {name!r}", repr(value), "it is no text")
        _encoded(value, f"metadata {name!r}")
        size += len(name) + len(quote(value))
    if size > MAX_ABOUT_BYTES:
        raise InvalidInputError(
            f"an object's metadata can't be used: it has {size} bytes as S3 stores it, and "
            f"{MAX_ABOUT_BYTES} are allowed; put more into a table"
        )
    return content_type, found


def check_table(table: str) -> str:
    """Returns `table` when it is a usable name.

    Raises:
        InvalidInputError: It is not; says why.
    """
    return _check_name("table name", table)


def _check_name(what: str, name: str) -> str:
    raw = _encoded(name, what)
    if not _TABLE.fullmatch(name) or len(raw) > MAX_TABLE_BYTES:
        _refuse(
            what,
            name,
            "use letters, digits, _, - and ., starting with a letter, a digit or _, "
            f"at most {MAX_TABLE_BYTES} bytes",
        )
    return name


def check_tag(name: str) -> str:
    """Returns the name of a tag when it is usable; it may be what a table's name may be.

    Raises:
        InvalidInputError: It is not; says why.
    """
    return _check_name("tag", name)


def check_columns(argument: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Returns the names of columns that an argument gives.

    Raises:
        InvalidInputError: It is one text, which would be taken letter by letter.
    """
    if isinstance(given, str):
        raise InvalidInputError(f"{argument} is a list of columns: {argument}=[{given!r}]")
    return None if given is None else tuple(given)


def check_transactions(given: Transaction | Sequence[Transaction]) -> tuple[Transaction, ...]:
    """Returns the transactions of one write when they are usable.

    Raises:
        InvalidInputError: They are not; says why.
    """
    found = (given,) if isinstance(given, Transaction) else tuple(given)
    for one in found:
        if not isinstance(one, Transaction):
            raise InvalidInputError(
                f"a transaction is a madang.data.storage.Transaction, not {type(one).__name__}"
            )
        _encoded(one.application, "application")
        if not one.application:
            _refuse("application", one.application, "it is empty")
        low = NONE_YET if one.after is None else one.after
        if not (NONE_YET <= low <= one.number <= _MAX_NUMBER and one.number >= 0):
            raise InvalidInputError(
                f"application {one.application!r} can't go from {one.after} to {one.number}: "
                f"numbers are from 0 to {_MAX_NUMBER} and never go back; -1 after which it goes "
                "means none yet"
            )
    names = [one.application for one in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InvalidInputError(
            f"one write holds two transactions of application {', '.join(doubled)}; give one each"
        )
    return found


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, as from a file name that is not UTF-8
        _refuse(what, text, "it is not valid Unicode")


def _refuse(what: str, text: str, why: str) -> NoReturn:
    raise InvalidInputError(f"{what} {text[:200]!r} can't be used: {why}")
