"""HTTP servers: `https://host/orders?since=2026#format=json&items=data&next=links.next`.

The server gets the URL without what stands behind `#`: those are our options.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, Self
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
import msgspec
import pyarrow as pa

from madang.data.ingestion._csv import read_csv
from madang.data.ingestion._http_options import FORMATS, HttpOptions
from madang.data.ingestion._judge import encode
from madang.data.ingestion._lines import Chunk, Lines
from madang.data.ingestion.contract import QUARANTINE_SCHEMA, Piece, Source
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError, UnavailableError

_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_SECONDS = 30.0


class HttpSource(Source):
    """Pages of an HTTP server, each taken as a whole.

    With a cursor the next call asks for the last page again and takes what was added at its end.
    Without one it asks whether the first page changed (ETag, Last-Modified, else its content); if it
    did, everything is read again and is new.
    """

    def __init__(
        self, url: str, options: HttpOptions, name: str, secrets: Mapping[str, str] | None = None
    ) -> None:
        self.identity = name
        whole = httpx.URL(url)
        # Positions are kept with the rows, where many may read them: no password is in a URL there.
        self._url, self._options = _without_user(url), options
        self._names = {value: name for name, value in (secrets or {}).items()}
        self._secrets = dict(secrets or {})
        self._pause = Event()
        headers = {"Accept": "application/json, application/x-ndjson, text/csv"}
        if options.bearer:
            headers["Authorization"] = f"Bearer {options.bearer}"
        user = (whole.username, whole.password) if whole.userinfo else None
        self._client = httpx.Client(headers=headers, timeout=options.timeout_seconds, auth=user)

    @classmethod
    def from_text(cls, url: str, context: Context) -> Self:
        plain, _, fragment = url.partition("#")
        parts = urlsplit(plain)
        pairs = parse_qsl(fragment, keep_blank_values=True)
        # What is asked for, and not how: a longer timeout is no other source.
        what = [plain, *(f"{k}={v}" for k, v in sorted(pairs) if k in ("cursor", "items"))]
        mark = hashlib.blake2b("\n".join(what).encode(), digest_size=4).hexdigest()
        name = f"{parts.scheme}:{parts.hostname or ''}{parts.path}#{mark}"
        resolved, _, _ = context.resolve_url(plain).partition("#")
        options = {key: context.resolve(value) for key, value in pairs}
        named, valued = (parse_qsl(urlsplit(text).query) for text in (plain, resolved))
        both = zip(named, valued, strict=False)
        secrets = {name: value for (_, name), (_, value) in both if name != value}
        return cls(resolved, HttpOptions.of(options), name, secrets)

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        """Refuses: the options behind `#` are needed.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError("an https:// source is opened from its text (open_source)")

    def health(self) -> Health:
        try:
            answer = self._client.head(self._url)
        except httpx.HTTPError as error:
            return Health(False, f"{self.identity}: {error}", "look at the URL and the network")
        return Health(answer.status_code < 500, f"{self.identity}: status {answer.status_code}")

    def close(self) -> None:
        self._client.close()

    def read(
        self, positions: Mapping[str, Any], schema: pa.Schema, *, batch_rows: int
    ) -> Iterator[Piece]:
        position = positions.get("") or _BEGIN
        line = int(position["rows"])
        for _ in range(self._options.pages):
            answer = self._get(position)
            if answer is None:
                return  # not changed
            items, onward = self._parse(answer)
            count = len(items or ())
            if items is not None:
                items = items[position["taken"] :]
            found = list(self._chunks(answer, items, schema, line, batch_rows))
            line += sum(chunk.rows.num_rows + chunk.refused.num_rows for chunk in found)
            position, more = self._behind(position, answer, onward, line, count)
            # A page is taken as a whole: its position stands behind its last row.
            if found:
                yield _whole(found, position)
            if not more:
                return
        raise InvalidInputError(
            f"{self.identity} has more than {self._options.pages} pages; what was read has been "
            "taken, and the next call goes on. More at once: #pages=N"
        )

    # -- one page --------------------------------------------------------------------------------

    def _get(self, position: Mapping[str, Any]) -> _Answer | None:
        """The page at a position; `None` when it has not changed."""
        url = self._url if position["url"] is None else _replaced(position["url"], self._secrets)
        headers, parameters = {}, {}
        if position["url"] is None:
            if position["etag"]:
                headers["If-None-Match"] = position["etag"]
            if position["modified"]:
                headers["If-Modified-Since"] = position["modified"]
        if position["cursor"] is not None:
            parameters[self._options.cursor] = str(position["cursor"])
        for attempt in range(self._options.retries + 1):
            try:
                answer = self._ask(url, headers, parameters)
            except httpx.TransportError as error:
                why, pause = f"{type(error).__name__}: {error}", 0.0
            else:
                if answer.status not in _AGAIN:
                    found = self._checked(answer)
                    same = position["url"] is None and answer.digest == position["digest"]
                    return None if same else found
                why, pause = f"status {answer.status}", answer.retry_after_seconds
            if attempt < self._options.retries:
                wait = min(0.2 * 2**attempt * (1 + random.random()), _LONGEST_PAUSE_SECONDS)  # noqa: S311
                self._pause.wait(min(max(wait, pause), _LONGEST_PAUSE_SECONDS))
        raise UnavailableError(
            f"{self.identity} did not answer in {self._options.retries + 1} tries: {why}"
        )

    def _ask(self, url: str, headers: dict[str, str], parameters: dict[str, str]) -> _Answer:
        merged = httpx.URL(url).copy_merge_params(parameters) if parameters else httpx.URL(url)
        with self._client.stream("GET", merged, headers=headers) as answer:
            body = bytearray()
            for block in answer.iter_bytes():
                body += block
                if len(body) > self._options.max_bytes:
                    raise InvalidInputError(
                        f"{self.identity}: the answer has more than {self._options.max_bytes} "
                        "bytes; ask for smaller pages, or allow more: #max_bytes=N"
                    )
            return _Answer(answer.status_code, answer.headers, bytes(body), str(answer.url), answer.links)  # fmt: skip

    def _checked(self, answer: _Answer) -> _Answer | None:
        if answer.status == 304:
            return None
        if answer.status == 404:
            raise NotFoundError(f"{self.identity}: the server says 404, there is no such page")
        if 300 <= answer.status < 400:
            raise InvalidInputError(
                f"{self.identity}: the server sends us elsewhere (status {answer.status}); "
                "give the URL that it names"
            )
        if answer.status != 200:
            raise InvalidInputError(
                f"{self.identity}: the server answers with status {answer.status}: "
                f"{answer.body[:200].decode('utf-8', 'replace')}"
            )
        return answer

    def _format(self, answer: _Answer) -> str:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        format = self._options.format or FORMATS.get(kind)
        if format is None:
            raise InvalidInputError(
                f"{self.identity}: the answer is {kind or 'of no stated type'}; "
                "say what it is: #format=json, jsonl or csv"
            )
        return format

    def _parse(self, answer: _Answer) -> tuple[list[bytes] | None, Any]:
        """The items of a JSON answer, and what it says of the page behind it."""
        options = self._options
        if (format := self._format(answer)) != "json":
            if options.items or options.next or options.cursor_path:
                raise InvalidInputError(
                    f"{self.identity}: the answer is {format}, and #items, #next and #cursor_path "
                    "are paths in JSON; leave them out, or ask for JSON"
                )
            return None, None
        try:
            if not (options.items or options.next or options.cursor_path):
                items = msgspec.json.decode(answer.body, type=list[msgspec.Raw])
                return [bytes(item) for item in items], None
            document = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"{self.identity}: the answer is no JSON array: {error}; where is it? #items=PATH"
            ) from error
        found = _at(document, options.items)
        if not isinstance(found, list):
            raise InvalidInputError(
                f"{self.identity}: there is no array at {options.items or 'the top'!r} of the "
                "answer; where is it? #items=PATH"
            )
        onward = _at(document, options.next) if options.next else None
        if options.cursor_path:
            onward = _at(document, options.cursor_path)
        return [encode(item) for item in found], onward

    def _chunks(
        self,
        answer: _Answer,
        items: list[bytes] | None,
        schema: pa.Schema,
        line: int,
        batch_rows: int,
    ) -> Iterator[Chunk]:
        if items is not None:
            for start in range(0, len(items), batch_rows):
                part = items[start : start + batch_rows]
                first = line + start + 1
                numbers = pa.array(range(first, first + len(part)), pa.int64())
                rows = pa.table({"value": pa.array(part, pa.binary())})
                yield Chunk(rows, numbers, QUARANTINE_SCHEMA.empty_table(), 0, 0)
        elif self._format(answer) == "jsonl":
            size = len(answer.body)
            stream = io.BytesIO(answer.body)
            lines = Lines(stream, self.identity, at=0, line=line, size=size, whole=True)
            yield from lines.read(batch_rows)
        else:
            body = answer.body
            yield from read_csv(
                lambda: io.BytesIO(body), self.identity, schema,
                after=0, delimiter=self._options.delimiter, batch_rows=batch_rows,
            )  # fmt: skip

    # -- the page behind it ----------------------------------------------------------------------

    def _behind(
        self, old: Mapping[str, Any], answer: _Answer, onward: Any, line: int, count: int
    ) -> tuple[dict[str, Any], bool]:
        """The position behind a page of `count` items, and whether there is another one now."""
        if self._options.cursor:
            more = onward is not None and onward != old["cursor"]
            cursor, taken = (onward, 0) if more else (old["cursor"], count)
            return {**_BEGIN, "cursor": cursor, "taken": taken, "rows": line}, more
        first = old["url"] is None
        position = {
            **_BEGIN,
            "etag": answer.headers.get("etag") if first else old["etag"],
            "modified": answer.headers.get("last-modified") if first else old["modified"],
            "digest": answer.digest if first else old["digest"],
            "rows": line,
        }
        link = onward or answer.links.get("next", {}).get("url")
        if not link:
            return position, False
        url = _without_user(urljoin(answer.url, str(link)))
        if urlsplit(url)[:2] != urlsplit(self._url)[:2]:
            raise InvalidInputError(
                f"{self.identity}: the next page is on another server "
                f"({urlsplit(url).scheme}://{urlsplit(url).netloc}), which is not asked"
            )
        return {**position, "url": _replaced(url, self._names)}, True


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes
    url: str
    links: Mapping[Any, Any]

    @property
    def digest(self) -> str:
        """Of the body."""
        return hashlib.blake2b(self.body, digest_size=16).hexdigest()

    @property
    def retry_after_seconds(self) -> float:
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() else 0.0


_BEGIN: Mapping[str, Any] = {
    "url": None, "cursor": None, "taken": 0, "etag": None, "modified": None, "digest": None, "rows": 0
}  # fmt: skip


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _replaced(url: str, values: Mapping[str, str]) -> str:
    """The URL with other values of its parameters."""
    known = httpx.URL(url).params.multi_items()
    changed = [(name, values.get(value, value)) for name, value in known]
    return url if changed == known else str(httpx.URL(url, params=changed))


def _whole(chunks: list[Chunk], position: Any) -> Piece:
    return Piece(
        "",
        position,
        pa.concat_tables([chunk.rows for chunk in chunks]),
        pa.concat_arrays([array for chunk in chunks for array in _flat(chunk.numbers)]),
        pa.concat_tables([chunk.refused for chunk in chunks]),
    )


def _flat(numbers: Any) -> list[pa.Array]:
    return list(numbers.chunks) if isinstance(numbers, pa.ChunkedArray) else [numbers]


def _at(document: Any, path: str) -> Any:
    """What stands at a dotted path; `None` when nothing does."""
    for name in path.split(".") if path else ():
        if not isinstance(document, dict) or name not in document:
            return None
        document = document[name]
    return document
