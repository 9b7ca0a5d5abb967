"""The files between the control side and the workers.

Everything lies in `<home>/serving/`:

    desired.json         what is to be served, with a revision (written by the control side)
    unloaded.json        endpoints that clients unloaded (any worker, see `_repository.py`)
    tokens.json          SHA-256 of each accepted token, with what it may do (control side)
    token                a token of this machine's own user, mode 0600 (control side)
    models/DIGEST/       the files of each wanted model version (control side)
    ack/PID.json         what a worker serves now, and what it could not load (that worker)
    metrics/PID.json     a worker's counters (that worker)

A file is replaced by an atomic rename after fsync, so a reader sees a whole old or a whole new one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from madang.errors import IntegrityError

_T = TypeVar("_T")

PERMISSIONS = ("endpoint:predict", "endpoint:read", "endpoint:write", "feature:read")
"""What a worker's routes ask for."""


class WantedFunction(msgspec.Struct, frozen=True):
    """A transformer: its source as it was at the deploy, and the SHA-256 (hex) of that.

    Attributes:
        tensors: Name, datatype and shape of each.
    """

    function: str
    source: str
    digest: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


class WantedFeatures(msgspec.Struct, frozen=True):
    """Features to join.

    Attributes:
        pinned: Views that are computed on demand, and the hash of the definition.
        refs: The views in the ledger, `view:NAME@HASH`.
    """

    columns: tuple[str, ...]
    request: tuple[str, ...] = ()
    on_missing: str = "null"
    pinned: dict[str, str] = {}
    refs: tuple[str, ...] = ()


class WantedArm(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an endpoint serves; the files of its models lie in `models/DIGEST`.

    Attributes:
        digest: Of the model; empty for a graph.
        graph: Its JSON form (see `_arms.py`).
        digests: For a graph: each `MODEL@VERSION` and its digest, in the graph's order.
    """

    model: str
    version: int
    weight: float
    digest: str
    graph: Any = None
    digests: tuple[tuple[str, str], ...] = ()
    before: WantedFunction | None = None
    after: WantedFunction | None = None
    features: WantedFeatures | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is one model, as it is."""
        return not (self.graph or self.before or self.after or self.features)

    def models(self) -> list[WantedArm]:
        """Each of its models for itself."""
        if self.graph is None:
            return [self]
        parts = [(*name.rpartition("@"), digest) for name, digest in self.digests]
        return [WantedArm(name, int(number), 0.0, digest) for name, _, number, digest in parts]

    def refs(self) -> list[str]:
        """What it is made of, for the ledger."""
        models = [f"model:{arm.model}@{arm.version}" for arm in self.models()]
        return [*models, *(self.features.refs if self.features else ())]


class WantedSplit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a rollout assigns requests; as `contract.Split`."""

    rollout: str
    salt: str
    stage: int = 0
    key: str = ""
    shadows: tuple[int, ...] = ()


class WantedEndpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """An endpoint as it is to be served."""

    name: str
    revision: int
    log: bool
    arms: tuple[WantedArm, ...]
    split: WantedSplit | None = None


class Desired(msgspec.Struct, frozen=True):
    """What workers are to serve.

    Attributes:
        revision: Grows with every change.
        project: The project's name.
        root: The project's folder.
        urls: Component to engine URL as written in `madang.toml`: references to secrets are not
            resolved here. The prediction log needs the collection's.
        endpoints: All endpoints.
    """

    revision: int = 0
    project: str = ""
    root: str = ""
    urls: dict[str, str] = {}
    endpoints: tuple[WantedEndpoint, ...] = ()


class LoadChange(msgspec.Struct, frozen=True):
    """A client's load or unload that the ledger does not hold yet.

    Attributes:
        actor: Who wanted it, as the ledger names them; empty for this machine's own user.
    """

    id: str
    endpoint: str
    load: bool
    actor: str
    time_us: int

    @classmethod
    def now(cls, endpoint: str, *, load: bool, actor: str) -> LoadChange:
        """A change that happens now."""
        return cls(secrets.token_hex(16), endpoint, load, actor, time.time_ns() // 1000)


class Unloaded(msgspec.Struct, frozen=True):
    """What clients unloaded.

    Attributes:
        revision: Grows with every request.
        endpoints: Endpoint to the revision of it that is not to be served.
        changes: What the control process has to write to the ledger, oldest first.
    """

    revision: int = 0
    endpoints: dict[str, int] = {}
    changes: tuple[LoadChange, ...] = ()

    def holds(self, endpoint: WantedEndpoint) -> bool:
        """Whether this revision of the endpoint is unloaded."""
        return self.endpoints.get(endpoint.name) == endpoint.revision


class AcceptedToken(msgspec.Struct, frozen=True):
    """Whose token it is, which of `PERMISSIONS` it has, and until when.

    Attributes:
        own: It is this machine's own token, of no user.
    """

    name: str
    permissions: tuple[str, ...]
    expires_us: int | None = None
    own: bool = False


class Ack(msgspec.Struct, frozen=True):
    """What a worker says of itself.

    Attributes:
        started: When the process started, in the kernel's ticks, so that a reused process id is
            not taken for it.
        revision: The newest desired revision that it has worked through.
        endpoints: Endpoint to the endpoint's revision that is served.
        errors: Endpoint to the reason why its wanted revision is not served.
        unloaded: The newest revision of `unloaded.json` that it has worked through.
        grpc_port: Where it speaks gRPC, if it does.
    """

    pid: int
    started: str
    host: str
    port: int
    revision: int
    endpoints: dict[str, int] = {}
    errors: dict[str, str] = {}
    unloaded: int = 0
    grpc_port: int | None = None


class Files:
    """The paths of one home's serving state."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "serving"
        self.desired = self.folder / "desired.json"
        self.unloaded = self.folder / "unloaded.json"
        self.tokens = self.folder / "tokens.json"
        self.token = self.folder / "token"
        self.models = self.folder / "models"
        self.acks = self.folder / "ack"
        self.metrics = self.folder / "metrics"
        self.log = self.folder / "worker.log"

    def make(self) -> None:
        """Makes the folders, readable by their owner only."""
        for folder in (self.folder, self.models, self.acks, self.metrics):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read_desired(self) -> Desired:
        """The desired state; revision 0 when nothing was ever deployed."""
        return _read(self.desired, Desired) or Desired()

    def read_unloaded(self) -> Unloaded:
        """What clients unloaded."""
        return _read(self.unloaded, Unloaded) or Unloaded()

    def read_tokens(self) -> dict[str, AcceptedToken]:
        """SHA-256 (hex) of each accepted token to what it may do."""
        return _read(self.tokens, dict[str, AcceptedToken]) or {}

    def live_acks(self) -> list[Ack]:
        """What each running worker last said; the files of dead ones are removed."""
        found = []
        for file in sorted(self.acks.glob("*.json")):
            ack = _read(file, Ack)
            if ack is None:
                continue
            if start_ticks(ack.pid) == ack.started:
                found.append(ack)
            else:
                file.unlink(missing_ok=True)
        return found

    def own_token(self) -> str:
        """The token of this machine's own user; made at first use."""
        self.make()
        with self.locked():
            if not self.token.exists():
                write_atomically(self.token, secrets.token_urlsafe(32).encode())
        return self.token.read_text("ascii")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other control processes from writing at the same time."""
        import fcntl

        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{path} can't be read: {error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file so that it is whole and on disk, readable by its owner only."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_ticks(pid: int) -> str:
    """When a process started (proc(5), /proc/PID/stat field 22); "gone" when it doesn't run."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if state in "ZX" else rest[18]


def fingerprint(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file is replaced; zeros when it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def hash_token(token: str) -> str:
    """SHA-256, hex; enough for random tokens of 256 bits."""
    return hashlib.sha256(token.encode()).hexdigest()
