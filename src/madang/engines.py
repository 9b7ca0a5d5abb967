"""The only place where a URL becomes an engine.

Every component package holds an alphabetical table `ENGINES` (scheme to `module:Class`) and the
scheme of its `DEFAULT` engine. The URL's scheme picks the engine, its query gives options:

    kafka://broker:9092?acks=all
    sqlite:///relative.db         three slashes: relative to the project
    sqlite:////absolute.db        four: absolute (SQLAlchemy's habit)

`${secret:NAME}` and `${env:NAME}` inside a URL are resolved here, at use, so that neither
`madang.toml` nor a log ever holds the value.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from madang.errors import (
    ConfigurationError,
    MissingDependencyError,
    NotFoundError,
    UnknownEngineError,
)

if TYPE_CHECKING:
    from madang.ledger import Ledger
    from madang.metadata import Database
    from madang.stack import Stack

# The secrets are kept in the first and opened by the second when the third lets them, so none of
# these can wait for a secret.
_BEFORE_SECRETS = ("metadata", "security.secrets", "security.policy")

_REFERENCE = re.compile(r"\$\{(secret|env):([A-Za-z0-9_.-]+)\}")


@dataclass(frozen=True)
class EngineURL:
    """A parsed engine URL; its `repr` never shows a password or a resolved secret."""

    scheme: str
    host: str | None = None
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `scheme://user:password@host:port/path?option=value`.

        Raises:
            ConfigurationError: `text` has no scheme or an impossible host or port. The message
                does not repeat `text`, which may hold a password.
        """
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise ConfigurationError("an engine URL has an impossible host") from error
        if not parts.scheme or not text[len(parts.scheme) :].startswith("://"):
            raise ConfigurationError(
                "an engine URL begins with scheme://, for example s3://bucket/prefix; "
                "what was given does not"
            )
        try:
            port = parts.port
        except ValueError:
            # The original error would show what stands there, and that may be a password.
            raise ConfigurationError(
                f"{parts.scheme}://…: the port must be a number up to 65535; "
                "write special characters of a password as %XX"
            ) from None
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        )

    def local_path(self, root: Path) -> Path:
        """The file path of a URL without a host: `///x` lies under `root`, `////x` is absolute.

        Raises:
            ConfigurationError: There is a host, because a slash is missing.
        """
        if self.host:
            raise ConfigurationError(
                f"{self.scheme}://{self.host}{self.path} names a host; write "
                f"{self.scheme}:///{self.host}{self.path} for a path in the project"
            )
        return root / self.path[1:]

    def check_options(self, known: set[str]) -> None:
        """Refuses query options that the engine doesn't have.

        Raises:
            ConfigurationError: Naming the unknown options and the known ones.
        """
        unknown = sorted(set(self.query) - known)
        if unknown:
            raise ConfigurationError(
                f"{self.scheme}:// has no option {', '.join(unknown)}; "
                f"its options are: {', '.join(sorted(known)) or 'none'}"
            )


class Context:
    """What an engine may use of the project that it serves.

    Attributes:
        project: The project's name; part of every object's identity.
        root: The project's folder (where `madang.toml` lies).
        home: The folder of local state, `.madang` under `root`.
        component: Gives another component's engine by its name (`"storage"`), for engines that
            build on it; set by the `Stack`.
        stack: The project's stack, where there is one; for what runs the user's code.
        resolve_secret: Gives a secret's value; set by the `Stack`.
    """

    def __init__(
        self, project: str, root: Path, home: Path | None = None, metadata_url: str | None = None
    ) -> None:
        self.project = project
        self.root = root
        self.home = home or root / ".madang"
        self.metadata_url = metadata_url
        self.component: Callable[[str], Any] = _no_stack
        self.stack: Stack | None = None
        self.resolve_secret: Callable[[str], str] = _no_secrets
        self._lock = threading.RLock()
        self._metadata: Database | None = None
        self._ledger: Ledger | None = None

    @property
    def metadata(self) -> Database:
        """The metadata database, opened (and migrated) on first use."""
        with self._lock:
            if self._metadata is None:
                from madang.metadata import connect

                self._metadata = connect(self.metadata_url, self)
            return self._metadata

    @property
    def ledger(self) -> Ledger:
        """The project's view of the ledger."""
        with self._lock:
            if self._ledger is None:
                from madang.ledger import Ledger

                self._ledger = Ledger(self.metadata, self.project)
            return self._ledger

    def resolve(self, text: str) -> str:
        """Replaces `${secret:NAME}` and `${env:NAME}` in `text` by their values.

        Raises:
            NotFoundError: A secret or variable of that name does not exist.
        """
        return _REFERENCE.sub(self._value_of, text)

    def resolve_url(self, text: str) -> str:
        """Replaces references in a URL, so that a value can't change the URL's structure.

        What stands before `@` or after the host is escaped; a host, or a URL that is one
        reference as a whole, is taken as it is.

        Raises:
            NotFoundError: A secret or variable of that name does not exist.
        """
        scheme, separator, rest = text.partition("://")
        parts = re.fullmatch(r"([^/?#]*@)?([^/?#]*)(.*)", rest, re.DOTALL)
        if not separator or parts is None:
            return self.resolve(text)

        def escaped(match: re.Match[str]) -> str:
            return quote(self._value_of(match), safe="")

        user, host, tail = (part or "" for part in parts.groups())
        return (
            f"{scheme}://{_REFERENCE.sub(escaped, user)}{self.resolve(host)}"
            f"{_REFERENCE.sub(escaped, tail)}"
        )

    def _value_of(self, match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "secret":
            return self.resolve_secret(name)
        if name not in os.environ:
            raise NotFoundError(f"environment variable {name} is not set, and a URL refers to it")
        return os.environ[name]

    def close(self) -> None:
        """Closes the metadata database if it was opened."""
        with self._lock:
            if self._metadata is not None:
                self._metadata.close()
            self._metadata = self._ledger = None


def _no_secrets(name: str) -> NoReturn:
    raise ConfigurationError(
        f"${{secret:{name}}} can't be used here, because the secrets themselves are not open yet; "
        f"use ${{env:NAME}}"
    )


def _no_stack(name: str) -> Any:
    raise ConfigurationError(
        f"this engine builds on the component {name!r}; connect it through madang.open()"
    )


@dataclass(frozen=True)
class Health:
    """How an engine is: `ok`, what it is (`detail`), and what to do if it is not ok (`advice`)."""

    ok: bool
    detail: str
    advice: str = ""


class Engine(ABC):
    """What every engine of every component has."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        """Builds the engine; connects lazily where the outside system allows it.

        Raises:
            ConfigurationError: The URL lacks something or has an unknown option.
            UnavailableError: The server does not answer.
        """

    @abstractmethod
    def health(self) -> Health:
        """Asks the engine how it is, within about 2 seconds. Never raises."""

    def close(self) -> None:
        """Gives back what the engine holds. Repeating it is safe."""
        return


def connect(component: str, url: str | None, context: Context) -> Any:
    """Connects the engine of `component` (such as `"data.storage"`) that `url` names.

    Args:
        component: `group.component`, as in the map.
        url: The engine's URL, or `None` for the default engine.
        context: The project that it serves.

    Raises:
        UnknownEngineError: The scheme names no engine of this component.
        MissingDependencyError: The engine's package is not installed.
        ConfigurationError: The URL is not usable.
    """
    package = importlib.import_module(f"madang.{component}")
    engines: dict[str, str] = package.ENGINES
    parsed = EngineURL(package.DEFAULT) if url is None else _parse(component, url, context)
    if parsed.scheme not in engines:
        raise UnknownEngineError(component, parsed.scheme, engines)
    extra = "" if parsed.scheme == package.DEFAULT else parsed.scheme.partition("+")[0]
    engine: type[Engine] = load(engines[parsed.scheme], component, parsed.scheme, extra)
    return engine.from_url(parsed, context)


def _parse(component: str, url: str, context: Context) -> EngineURL:
    if component in _BEFORE_SECRETS:
        for kind, name in _REFERENCE.findall(url):
            if kind == "secret":
                _no_secrets(name)
    return EngineURL.parse(context.resolve_url(url))


def load(target: str, component: str, scheme: str, extra: str = "") -> Any:
    """Imports `module:Class`, and says which extra to install when a package is missing.

    Only a missing third-party module is translated: a broken import of our own shows as itself.
    """
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "madang"):
            raise
        raise MissingDependencyError(f"{component} engine {scheme!r}", missing, extra) from error
    return getattr(module, attribute)
