"""Objects and tables in an S3 bucket: Amazon's, MinIO's, or another server of that protocol.

Under the URL's prefix: `PROJECT/objects/KEY`, `PROJECT/tables/NAME/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote, unquote

import obstore
import pyarrow as pa
from obstore.exceptions import (
    AlreadyExistsError as ExistsInStoreError,
    BaseError,
    GenericError,
    PermissionDeniedError as RefusedByStoreError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from madang.data.storage._about import as_stream
from madang.data.storage._names import check_about, check_key, check_prefix
from madang.data.storage._s3_patience import Patience
from madang.data.storage._s3_probe import ABILITIES, UnsafeServerError, probe
from madang.data.storage._s3_tables import NOT_THERE, UPLOADS, S3Tables
from madang.data.storage._tables import TableStorage
from madang.data.storage.contract import ObjectInfo
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from madang.ledger import new_id

_OPTIONS = {
    "access_key_id", "allow_http", "endpoint", "region", "secret_access_key", "session_token",
}  # fmt: skip
_PROBED: set[tuple[str, frozenset[tuple[str, str]]]] = set()
"""The buckets, and how they were reached, that this process found to be safe."""

_PATIENCE = Patience()
_AT_FIRST = Patience(retries=3, pause_growth=2)
"""A URL may be wrong, so the first contact fails soon."""

_NONE = Patience(connect_seconds=2, silence_seconds=2, retries=0)

_LARGE_BYTES = 4 << 20
"""Up to this size an upload of one request needs no more time than others."""

_REQUESTS = 16
"""So many requests are under way at a time."""

_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
"""What stands in a header as it is."""

_EMPTY = "%"
"""An empty text: servers lose a header without a value."""

_NO_TYPE = ("application/octet-stream", "binary/octet-stream")
"""What servers say of an object of which nothing was said."""

_NO_METADATA = ("Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language")
"""Attributes of an object that other programs may have given it."""


class S3Storage(TableStorage):
    """A bucket. Without keys in the URL those of the environment (`AWS_ACCESS_KEY_ID` …) hold.

    A server is probed when it is connected: one that would corrupt tables is refused. A create-only
    `put` is one request, so its object is held in memory and has at most 5 GiB. How long a server
    may take is in `Patience`.
    """

    def __init__(self, bucket: str, prefix: str, options: Mapping[str, str]) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._options = dict(options)
        self._client = self._connect(_AT_FIRST)
        self._objects = self._connect(_PATIENCE, "objects")

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(_OPTIONS)
        if not url.host:
            raise ConfigurationError("an S3 URL names a bucket: s3://bucket/prefix?endpoint=…")
        options = dict(url.query)
        if url.username:
            options.setdefault("access_key_id", url.username)
        if url.password:
            options.setdefault("secret_access_key", url.password)
        prefix = "/".join(part for part in (*url.path.split("/"), context.project) if part)
        storage = cls(url.host, prefix, options)
        storage.probe()
        return storage

    def __repr__(self) -> str:
        return f"S3Storage({self._where!r})"

    @property
    def _where(self) -> str:
        endpoint = self._options.get("endpoint", "Amazon S3")
        return f"s3://{self._bucket}/{self._prefix} at {endpoint}"

    def _connect(self, patience: Patience, folder: str = "") -> S3Store:
        known = {key: value for key, value in self._options.items() if key != "allow_http"}
        known.setdefault("region", "us-east-1")
        return S3Store(
            self._bucket,
            prefix="/".join(part for part in (self._prefix, folder) if part),
            config=cast("Any", known),
            client_options=patience.client_options(allow_http=self._allow_http),
            retry_config=patience.retry_config(),
        )

    @property
    def _allow_http(self) -> bool:
        return self._options.get("allow_http", "false").lower() in ("true", "1", "yes")

    @contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        try:
            yield
        except NOT_THERE as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            raise NotFoundError(f"there is no object {key!r}") from error
        except ExistsInStoreError as error:
            raise AlreadyExistsError(
                f"object {key!r} exists; choose another key, or replace it with overwrite=True"
            ) from error
        except (RefusedByStoreError, UnauthenticatedError) as error:
            raise PermissionDeniedError(
                f"{self._where} refused the access key; check access_key_id, secret_access_key "
                "and the bucket's policy"
            ) from error
        except GenericError as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            raise UnavailableError(
                f"{self._where} does not answer: {_first_line(error)}"
            ) from error

    def _no_bucket(self) -> ConfigurationError:
        return ConfigurationError(f"{self._where}: there is no such bucket; create it first")

    # -- what the server really does ----------------------------------------------------------

    def probe(self) -> None:
        """Tries on the server what tables depend on; once in a process for each server and bucket.

        Raises:
            ConfigurationError: The server would corrupt tables, or there is no such bucket.
            UnavailableError: It does not answer.
            PermissionDeniedError: It refuses the access key.
        """
        place = (self._bucket, frozenset(self._options.items()))
        if place in _PROBED:
            return
        key = f"probe/{new_id()}"
        with self._errors(key):
            try:
                probe(self._client, key)
            except UnsafeServerError as error:
                raise ConfigurationError(
                    f"{self._where} can't hold tables safely: {error}; use another S3 server"
                ) from error
            finally:
                obstore.delete(self._client, key)
        _PROBED.add(place)

    def health(self) -> Health:
        try:
            client = self._connect(_NONE)
            obstore.list_with_delimiter(client, "tables/")
        except BaseError as error:
            return Health(
                False, f"{self._where}: {_first_line(error)}", "check the server, keys and bucket"
            )
        return Health(True, f"{self._where}; it was found to have {', '.join(ABILITIES)}")

    # -- objects ------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | memoryview | Path,
        *,
        overwrite: bool = True,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        check_key(key)
        content_type, metadata = check_about(content_type, metadata)
        # A header is ASCII.
        said = {name: quote(value, safe=_PLAIN) or _EMPTY for name, value in metadata.items()}
        if content_type:
            said["Content-Type"] = content_type
        body = data if isinstance(data, Path) else memoryview(data).cast("B")
        mode = "overwrite" if overwrite else "create"
        size = body.stat().st_size if isinstance(body, Path) else body.nbytes
        objects = self._objects
        if not overwrite and size > _LARGE_BYTES:
            objects = self._connect(_PATIENCE.for_upload(size), "objects")
        with self._errors(key):
            obstore.put(
                objects, key, body, mode=cast("Any", mode), attributes=said,
                max_concurrency=UPLOADS,
            )  # fmt: skip
            info = _info(obstore.head(self._objects, key))
        return replace(info, content_type=content_type, metadata=metadata)

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._errors(key):
            return bytes(obstore.get(self._objects, key).bytes())

    def about(self, key: str) -> ObjectInfo:
        check_key(key)
        with self._errors(key):
            return _about(obstore.get(self._objects, key, options={"head": True}))

    def objects(self, prefix: str = "") -> pa.RecordBatchReader:
        return as_stream(self._abouts(self.list(prefix)))

    def _abouts(self, found: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """With one request for each object, many at a time."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            while some := list(itertools.islice(found, 1000)):
                keys = [info.key for info in some]
                yield from filter(None, pool.map(self._find_about, keys))

    def _find_about(self, key: str) -> ObjectInfo | None:
        try:
            return self.about(key)
        except NotFoundError:
            return None  # deleted since it was listed

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        # The client lists whole folders only, so the last part is compared here. Servers on a file
        # system list a/b before a-b, so the order is made here too.
        folder, _, _ = check_prefix(prefix).rpartition("/")
        with self._errors(prefix):
            pages = obstore.list(self._objects, folder or None, chunk_size=1000)
            entries = [_info(e) for e in itertools.chain.from_iterable(pages)]
        found = [info for info in entries if info.key.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            with self._errors(key):
                obstore.delete(self._objects, key)
        except NotFoundError:
            return

    # -- tables -------------------------------------------------------------------------------

    @cached_property
    def _place(self) -> S3Tables:
        options = {f"AWS_{key.upper()}": value for key, value in self._options.items()}
        options.setdefault("AWS_REGION", "us-east-1")
        if "AWS_ENDPOINT" in options:
            options["AWS_ENDPOINT_URL"] = options.pop("AWS_ENDPOINT")
        # Commits are create-only writes; without this the Delta library asks for a lock service.
        options["AWS_CONDITIONAL_PUT"] = "etag"
        options |= _PATIENCE.delta_options()
        uri = f"s3://{self._bucket}/{self._prefix}/tables"
        return S3Tables(self._connect(_PATIENCE, "tables"), uri, options, self._errors)


def _about(found: Any) -> ObjectInfo:
    said = {str(name): str(value) for name, value in found.attributes.items()}
    content_type = said.pop("Content-Type", None)
    return replace(
        _info(found.meta),
        content_type=None if content_type in _NO_TYPE else content_type,
        metadata={
            name: "" if text == _EMPTY else unquote(text)
            for name, text in said.items()
            if name not in _NO_METADATA
        },
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _info(entry: Any) -> ObjectInfo:
    return ObjectInfo(entry["path"], entry["size"], entry["last_modified"], entry["e_tag"])
