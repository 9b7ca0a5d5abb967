"""`Stack`: one attribute per component, read from `madang.toml`, connected on first use."""

from __future__ import annotations

import os
import re
import threading
import tomllib
from collections.abc import Collection as Several, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from madang import engines
from madang.errors import AlreadyExistsError, ConfigurationError, InvalidInputError

if TYPE_CHECKING:
    from madang.data.collection import Collection
    from madang.data.features.store import FeatureStore
    from madang.data.processing.store import ViewProcessing
    from madang.data.repository import Repository
    from madang.data.storage import Storage
    from madang.data.validation import Validation
    from madang.deployment.ab_testing import ABTesting, RolloutAction
    from madang.deployment.monitoring import Monitoring
    from madang.deployment.serving import Arm, Serving
    from madang.development.experiments import AliasMove, Experiments, Registry
    from madang.development.modeling import Modeling
    from madang.development.tuning import Tuning
    from madang.ledger import Ledger
    from madang.metadata import Database
    from madang.platform.code_versions import CodeVersions
    from madang.platform.configuration import Configuration
    from madang.platform.logs import Logs
    from madang.security.audit import Audit
    from madang.security.identity import IdentityProvider
    from madang.security.policy import Policy
    from madang.security.secrets import Secrets
    from madang.workflow.continuous_training import ContinuousTraining
    from madang.workflow.orchestration import Orchestration
    from madang.workflow.pipelines import Pipelines
    from madang.workflow.scheduling import Scheduling

COMPONENTS = {
    "storage": "data.storage",
    "collection": "data.collection",
    "validation": "data.validation",
    "features": "data.features",
    "processing": "data.processing",
    "modeling": "development.modeling",
    "experiments": "development.experiments",
    "tuning": "development.tuning",
    "serving": "deployment.serving",
    "monitoring": "deployment.monitoring",
    "ab_testing": "deployment.ab_testing",
    "pipelines": "workflow.pipelines",
    "orchestration": "workflow.orchestration",
    "scheduling": "workflow.scheduling",
    "continuous_training": "workflow.continuous_training",
    "configuration": "platform.configuration",
    "code_versions": "platform.code_versions",
    "logs": "platform.logs",
    "identity": "security.identity",
    "secrets": "security.secrets",
    "policy": "security.policy",
    "audit": "security.audit",
}
"""Each component's attribute of the stack and its place in the map, in the map's order."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")

_TEMPLATE = """\
[project]
name = "{name}"

# A box moves to the real system by one line; without a line its default engine runs here.
# [stack]
# metadata = "postgresql://user:${{env:PGPASSWORD}}@host/madang"
# storage = "s3://bucket/prefix?endpoint=https://host&access_key_id=KEY&secret_access_key=${{secret:s3}}"
# collection = "kafka://host:9092"
#
# What can be ingested by name: madang data ingest orders
# [sources]
# orders = "postgresql://user:${{secret:orders}}@host/shop?table=orders&cursor=id"
#
# An environment differs only in what it says: madang --env staging …
# [env.staging.stack]
# collection = "kafka://staging:9092"
"""


@dataclass(frozen=True)
class Project:
    """What `madang.toml` says.

    Attributes:
        name: The project's name.
        root: The folder of `madang.toml`.
        urls: Component (or `metadata`) to engine URL, of the chosen environment.
        env: The environment's name; `None` for the default.
        sources: Name to URL of what may be ingested by name, also by users of the HTTP API.
        local_user: Whether the server takes requests for MLflow's routes without a token, when the
            kernel says that they come from the user who runs it (`server/own_user.py`).
    """

    name: str
    root: Path
    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    local_user: bool = True

    @classmethod
    def find(cls, path: str | Path | None = None, env: str | None = None) -> Self:
        """Reads the project of `path` (default: `$MADANG_PROJECT`, else here) or of a folder above.

        Raises:
            ConfigurationError: There is no `madang.toml`, or it can't be used; says why.
        """
        start = Path(path or os.environ.get("MADANG_PROJECT") or ".").resolve()
        for folder in (start, *start.parents):
            file = folder / "madang.toml"
            if file.is_file():
                return cls.read(file, env or os.environ.get("MADANG_ENV") or None)
        raise ConfigurationError(
            f"no madang.toml in {start} or above it; run: madang init, or give the project's folder"
        )

    @classmethod
    def read(cls, file: Path, env: str | None = None) -> Self:
        """Reads one `madang.toml`.

        Raises:
            ConfigurationError: It can't be used; says why.
        """
        try:
            content = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigurationError(f"{file}: {error}") from error
        _check_keys(file, "", content, {"project", "stack", "sources", "server", "env"})
        project = content.get("project", {})
        _check_keys(file, "project.", project, {"name"})
        name = project.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{file}: [project] needs a name of letters, digits, - and _, found {name!r}"
            )
        urls = dict(_urls(file, "stack.", content.get("stack", {})))
        sources = content.get("sources", {})
        _check_keys(file, "sources.", sources, sources)
        _check_urls(file, "sources.", sources)
        environments = content.get("env", {})
        _check_keys(file, "env.", environments, environments)
        for key, value in environments.items():
            _check_keys(file, f"env.{key}.", value, {"stack"})
            _urls(file, f"env.{key}.stack.", value.get("stack", {}))
        if env is not None:
            if env not in environments:
                raise ConfigurationError(
                    f"{file} has no environment {env!r}; "
                    f"it has: {', '.join(sorted(environments)) or 'none'}"
                )
            urls.update(environments[env].get("stack", {}))
        return cls(name, file.parent, urls, env, sources, _local_user(file, content))


def _local_user(file: Path, content: Mapping[str, Any]) -> bool:
    server = content.get("server", {})
    _check_keys(file, "server.", server, {"local_user"})
    found = server.get("local_user", True)
    if not isinstance(found, bool):
        raise ConfigurationError(f"{file}: server.local_user is true or false, found {found!r}")
    return found


def _urls(file: Path, where: str, found: Any) -> dict[str, str]:
    _check_keys(file, where, found, {"metadata", *COMPONENTS})
    _check_urls(file, where, found)
    return cast("dict[str, str]", found)


def _check_urls(file: Path, where: str, found: Mapping[str, Any]) -> None:
    for key, url in found.items():
        if not isinstance(url, str):
            raise ConfigurationError(f"{file}: {where}{key} must be a URL, found {url!r}")
        if "://" not in url and "${" not in url:  # not repeated: it may hold a password
            raise ConfigurationError(
                f"{file}: {where}{key} must begin with scheme://, for example local:///folder; "
                "what stands there does not"
            )


def _check_keys(file: Path, where: str, found: Any, known: Several[str]) -> None:
    if not isinstance(found, dict):
        raise ConfigurationError(f"{file}: [{where.rstrip('.')}] must be a table")
    for key in found:
        if key not in known:
            raise ConfigurationError(
                f"{file}: unknown {where}{key}; known are: {', '.join(sorted(known))}"
            )


def init(path: str | Path = ".", *, name: str | None = None) -> Project:
    """Makes a project: `madang.toml`, the folders for code, and `.madang/` for local state.

    Raises:
        AlreadyExistsError: The folder already is a project.
        InvalidInputError: The name (default: the folder's) is not usable.
        ConfigurationError: The folder can't be made or written.
    """
    root = Path(path).resolve()
    name = name if name is not None else re.sub(r"[^A-Za-z0-9_-]+", "-", root.name).strip("-_")
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"a project's name has letters, digits, - and _, at most 63; found {name!r}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "madang.toml").open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE.format(name=name))
    except FileExistsError as error:
        raise AlreadyExistsError(f"{root} already is a project: it has a madang.toml") from error
    except OSError as error:
        raise ConfigurationError(f"no project can be made in {root}: {error.strerror}") from error
    for folder in ("pipelines", "features", "views", "contracts", "policies", "triggers"):
        (root / folder).mkdir(exist_ok=True)
    (root / ".madang").mkdir(mode=0o700, exist_ok=True)  # it holds keys
    _ignore_local_state(root)
    return Project.read(root / "madang.toml")


def _ignore_local_state(root: Path) -> None:
    """Keeps `.madang/` out of commits, in every clone of the project too."""
    file = root / ".gitignore"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    if ".madang/" not in lines:
        file.write_text("\n".join([*lines, ".madang/", ""]), encoding="utf-8")


def open(path: str | Path | None = None, *, env: str | None = None) -> Stack:
    """Opens the project of `path` (default: `$MADANG_PROJECT`, else this folder or one above).

    Raises:
        ConfigurationError: There is no `madang.toml`, or it can't be used.
    """
    return Stack(Project.find(path, env))


class Stack:
    """A project's components, each connected when it is first used.

    Safe for many threads. Close it, or use it in a `with` block.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.context = engines.Context(
            project.name, project.root, metadata_url=project.urls.get("metadata")
        )
        self.context.stack = self
        self.context.component = self._component
        self.context.resolve_secret = lambda name: self.secrets.get(name)  # noqa: PLW0108 - connects only at use
        self._lock = threading.RLock()
        self._engines: dict[str, Any] = {}
        self._repository: Repository | None = None

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.project.root

    @property
    def home(self) -> Path:
        """The folder of local state."""
        return self.context.home

    @property
    def metadata(self) -> Database:
        """The metadata database."""
        return self.context.metadata

    @property
    def ledger(self) -> Ledger:
        """The record of everything that happened in this project."""
        return self.context.ledger

    # -- data --

    @property
    def storage(self) -> Storage:
        """Objects and versioned tables."""
        return cast("Storage", self._component("storage"))

    @property
    def collection(self) -> Collection:
        """Event topics."""
        return cast("Collection", self._component("collection"))

    @property
    def validation(self) -> Validation:
        """Data contracts and checks."""
        return cast("Validation", self._component("validation"))

    @property
    def features(self) -> FeatureStore:
        """Feature views."""
        return cast("FeatureStore", self._component("features"))

    @property
    def processing(self) -> ViewProcessing:
        """SQL and table functions over datasets, and views."""
        return cast("ViewProcessing", self._component("processing"))

    @property
    def repository(self) -> Repository:
        """The search over all that the project has, and who uses it."""
        with self._lock:
            if self._repository is None:
                from madang.data.repository import Repository

                self._repository = Repository(self.context)
            return self._repository

    # -- development --

    @property
    def modeling(self) -> Modeling:
        """Notebooks."""
        return cast("Modeling", self._component("modeling"))

    @property
    def experiments(self) -> Experiments:
        """Runs and metrics."""
        return cast("Experiments", self._component("experiments"))

    @property
    def registry(self) -> Registry:
        """Models and their versions; part of the experiments component."""
        return self.experiments.registry

    @property
    def tuning(self) -> Tuning:
        """Hyperparameter search."""
        return cast("Tuning", self._component("tuning"))

    # -- deployment --

    @property
    def serving(self) -> Serving:
        """Endpoints."""
        return cast("Serving", self._component("serving"))

    @property
    def monitoring(self) -> Monitoring:
        """Drift, outcomes and quality of endpoints' predictions."""
        return cast("Monitoring", self._component("monitoring"))

    @property
    def ab_testing(self) -> ABTesting:
        """Rollouts between versions of an endpoint."""
        return cast("ABTesting", self._component("ab_testing"))

    # -- workflow --

    @property
    def pipelines(self) -> Pipelines:
        """Pipeline runs."""
        return cast("Pipelines", self._component("pipelines"))

    @property
    def orchestration(self) -> Orchestration:
        """Pipelines on time, in order, within limits."""
        return cast("Orchestration", self._component("orchestration"))

    @property
    def scheduling(self) -> Scheduling:
        """Where steps run."""
        return cast("Scheduling", self._component("scheduling"))

    @property
    def continuous_training(self) -> ContinuousTraining:
        """Triggers: events that become pipeline runs."""
        return cast("ContinuousTraining", self._component("continuous_training"))

    # -- platform --

    @property
    def configuration(self) -> Configuration:
        """Live settings."""
        return cast("Configuration", self._component("configuration"))

    @property
    def code_versions(self) -> CodeVersions:
        """Which code runs."""
        return cast("CodeVersions", self._component("code_versions"))

    @property
    def logs(self) -> Logs:
        """Structured logs."""
        return cast("Logs", self._component("logs"))

    # -- security --

    @property
    def identity(self) -> IdentityProvider:
        """Users, roles, tokens."""
        return cast("IdentityProvider", self._component("identity"))

    @property
    def secrets(self) -> Secrets:
        """Secrets."""
        return cast("Secrets", self._component("secrets"))

    @property
    def policy(self) -> Policy:
        """Rules, asked before anything that matters."""
        return cast("Policy", self._component("policy"))

    @property
    def audit(self) -> Audit:
        """Who did what, with proofs."""
        return cast("Audit", self._component("audit"))

    def _component(self, name: str) -> Any:
        found = self._engines.get(name)
        if found is None:
            with self._lock:
                found = self._engines.get(name)
                if found is None:
                    found = self._engines[name] = self._connect(name)
        return found

    def _connect(self, name: str) -> Any:
        engine = engines.connect(COMPONENTS[name], self.project.urls.get(name), self.context)
        # Storage and collection keep their state outside of the metadata database: what changes
        # there is recorded around the engine. The feature store joins an online store with history,
        # and processing an engine with the project's views.
        if name == "storage":
            from madang.data.storage.recorded import RecordedStorage

            storage = RecordedStorage(engine, self.ledger)
            storage.read_guard = self._check_dataset
            return storage
        if name == "collection":
            from madang.data.collection.recorded import RecordedCollection

            return RecordedCollection(engine, self.ledger, self.metadata)
        if name == "features":
            from madang.data.features.store import FeatureStore

            return FeatureStore(self.context, engine)
        if name == "processing":
            from madang.data.processing.store import ViewProcessing

            return ViewProcessing(self.context, engine)
        if name == "policy":
            from madang.security.policy import Policy

            return Policy(self.context, engine)
        self._guard(name, engine)
        return engine

    def _guard(self, name: str, engine: Any) -> None:
        """Lets components ask the policy, which is connected at their first question."""
        if name == "experiments":
            engine.registry.alias_guard = self._check_alias
        elif name == "serving":
            engine.deploy_guard = self._check_deployment
        elif name == "ab_testing":
            engine.rollout_guard = self._check_rollout
        elif name == "secrets":
            engine.read_guard = self._check_secret

    def _check_alias(self, move: AliasMove) -> None:
        self.policy.check_alias(move)

    def _check_deployment(self, endpoint: str, arms: Sequence[Arm]) -> None:
        self.policy.check_deployment(endpoint, arms)

    def _check_rollout(self, action: RolloutAction) -> None:
        self.policy.check_rollout(
            action.endpoint,
            action.arms,
            kind=action.kind,
            action=action.action,
            alias=action.alias or None,
        )

    def _check_dataset(self, name: str) -> None:
        self.policy.check_dataset(name)

    def _check_secret(self, name: str) -> None:
        self.policy.check_secret(name)

    def close(self) -> None:
        """Closes what was opened. Repeating it is safe."""
        # An engine that can't close must not keep the others open.
        with self._lock, ExitStack() as closing:
            closing.callback(self.context.close)
            for engine in self._engines.values():
                closing.callback(engine.close)
            self._engines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Stack({self.project.name!r}, {str(self.root)!r})"
