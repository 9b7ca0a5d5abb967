"""What may stand behind `#` of an HTTP source's URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from madang.errors import ConfigurationError

_OPTIONS = {
    "bearer", "cursor", "cursor_path", "delimiter", "format", "items", "max_bytes", "next", "pages",
    "retries", "timeout_seconds",
}  # fmt: skip
FORMATS = {
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/ndjson": "jsonl",
    "application/x-ndjson": "jsonl",
    "text/csv": "csv",
}
"""Content type to the format that it means."""


@dataclass(frozen=True)
class HttpOptions:
    """What stands behind `#` of the URL.

    Attributes:
        format: `json`, `jsonl` or `csv`; default: by the answer's content type.
        items: Dotted path to the array in a JSON answer; default: the answer is the array.
        next: Dotted path to the next page's URL; default: the header `Link` with `rel="next"`.
        cursor: The request's parameter that says where to go on, and
        cursor_path: the dotted path to its value in an answer; null or missing at the end.
        bearer: A token for the header `Authorization`.
        timeout_seconds: For connecting, and for each piece of an answer.
        retries: How often a request is repeated when the server is busy or does not answer.
        max_bytes: The largest answer.
        pages: How many pages one call reads at most.
    """

    format: str | None = None
    items: str = ""
    next: str = ""
    cursor: str = ""
    cursor_path: str = ""
    delimiter: str = ","
    bearer: str = ""
    timeout_seconds: float = 30.0
    retries: int = 4
    max_bytes: int = 64 << 20
    pages: int = 100_000

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Self:
        """Reads the options.

        Raises:
            ConfigurationError: One is unknown, or no such value.
        """
        found: dict[str, Any] = dict(texts)
        unknown = sorted(found.keys() - _OPTIONS)
        if unknown:
            raise ConfigurationError(
                f"https:// has no option #{', '.join(unknown)}; its options are: "
                f"{', '.join(sorted(_OPTIONS))}"
            )
        if found.get("format") not in (None, *FORMATS.values()):
            raise ConfigurationError("https://…#format is json, jsonl or csv")
        if bool(found.get("cursor")) != bool(found.get("cursor_path")):
            raise ConfigurationError("https://…#cursor=PARAMETER needs cursor_path=PATH, and the other way round")  # fmt: skip
        for name, kind in (("timeout_seconds", float), ("retries", int), ("max_bytes", int), ("pages", int)):  # fmt: skip
            if name in found:
                try:
                    found[name] = kind(found[name])
                except ValueError as error:
                    raise ConfigurationError(f"https://…#{name} must be a number: {found[name]!r}") from error  # fmt: skip
        return cls(**found)
