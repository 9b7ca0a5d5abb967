"""Values of columns as JSON values for people."""

from __future__ import annotations

import math
from typing import Any

_TEXT_CHARACTERS = 100


def display(value: Any) -> Any:
    """An Arrow scalar as a JSON value; long texts are cut."""
    try:
        plain = value.as_py()
    except (OverflowError, ValueError):  # a time that Python can't hold
        return f"{value.value} ({value.type})"
    return as_json(plain)


def as_json(plain: Any) -> Any:
    """A Python value as a JSON value; what JSON can't hold becomes text."""
    if plain is None or isinstance(plain, bool | int):
        return plain
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else str(plain)
    if isinstance(plain, bytes):
        plain = plain[: _TEXT_CHARACTERS + 1].decode("utf-8", "backslashreplace")
    text = plain.isoformat() if hasattr(plain, "isoformat") else str(plain)
    return text if len(text) <= _TEXT_CHARACTERS else text[:_TEXT_CHARACTERS] + "…"
