"""Madang's own inference server: worker processes that read a desired-state file.

`local://HOST:PORT?workers=N&grpc_port=PORT`; the default is `local://127.0.0.1:8500?workers=1`
without gRPC, and port 0 takes any free one. `workers=1-4` adds and removes workers by load. The
endpoints' state is in the metadata database; the file is made from it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import msgspec

from madang.deployment.serving._endpoint_table import EndpointTable
from madang.deployment.serving._scaling import Scaling, processors
from madang.deployment.serving._state import (
    PERMISSIONS,
    AcceptedToken,
    Ack,
    Desired,
    Files,
    WantedArm,
    WantedEndpoint,
    write_atomically,
)
from madang.deployment.serving.contract import Arm, Endpoint, Serving, Split
from madang.deployment.serving.workers import Workers
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    InvalidInputError,
    MadangError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from madang.data.features import OnlineStore
    from madang.data.features.store import FeatureStore
    from madang.deployment.serving._model_files import ModelFiles
    from madang.security.identity.contract import TokenGrant

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class LocalServing(Serving):
    """Endpoints on this machine. Safe for many threads and processes."""

    def __init__(
        self, context: Context, *, host: str, port: int, scaling: Scaling, grpc_port: int | None
    ) -> None:
        self._context = context
        self._project = context.project
        self._files = Files(context.home)
        self._host, self._port, self._scaling = host, port, scaling
        self._grpc_port = grpc_port
        self._client: Any = None

    @cached_property
    def _table(self) -> EndpointTable:
        return EndpointTable(self._context.metadata, self._context.ledger)

    @cached_property
    def _models(self) -> ModelFiles:
        from madang.deployment.serving._model_files import ModelFiles

        return ModelFiles(self._files.models, self._context.component("experiments").registry)

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"grpc_port", "queue_seconds", "workers"})
        return cls(
            context,
            host=url.host or "127.0.0.1",
            port=8500 if url.port is None else url.port,
            scaling=_scaling(url.query),
            grpc_port=_grpc_port(url.query.get("grpc_port")),
        )

    # -- endpoints ----------------------------------------------------------------------------

    def deploy(
        self,
        name: str,
        arms: Sequence[Arm],
        *,
        log: bool = True,
        split: Split | None = None,
        timeout_seconds: float = 60,
    ) -> Endpoint:
        _check(name, arms)
        self._ask(name, arms)
        from madang.deployment.serving._deploying import check_arms, wanted_arm, wanted_split

        registry = self._context.component("experiments").registry
        features = self._features() if any(arm.features for arm in arms) else None
        wanted = tuple(wanted_arm(arm, registry, features, self._context.root) for arm in arms)
        self._files.make()
        with self._files.locked():
            for arm in wanted:
                for part in arm.models():
                    self._models.fetch(part)
            inputs = check_arms(wanted, self._files.models, self._online)
            divided = wanted_split(split, wanted, inputs, log=log) if split else None
            if log:
                self._make_topic(f"predictions.{name}")
            served = bool(self._files.live_acks())
            if split:
                self._make_topic(f"rollouts.{name}")
            before, endpoint, revision = self._table.change(
                name, wanted, log=log, kind="endpoint.deploy", split=divided
            )
            try:
                self._write_desired()
            except OSError as error:  # a full disk: else a later change would bring it along
                self._revert(before, endpoint, str(error))
                raise
        self.refresh_tokens()
        problem = self._await(revision, name, timeout_seconds, served=served)
        if problem:
            self._take_back(before, endpoint, problem)
            raise UnavailableError(
                f"endpoint {name!r} was not deployed: {problem}; it is back at what it was"
            )
        self._remove_unused()
        return _endpoint(endpoint)

    def undeploy(self, name: str) -> None:
        if self._table.find(name) is None:
            return
        self._ask(name, ())
        with self._files.locked():
            _, _, revision = self._table.change(name, (), log=False, kind="endpoint.undeploy")
            self._write_desired()
        problem = self._await(revision, name, 30)
        if problem:
            raise UnavailableError(
                f"endpoint {name!r} is removed, and a worker still has to follow: {problem}"
            )
        self._remove_unused()

    def endpoints(self) -> list[Endpoint]:
        return [_endpoint(wanted) for wanted in self._table.read()[1]]

    def get(self, name: str) -> Endpoint:
        return _endpoint(self._wanted(name))

    def _wanted(self, name: str) -> WantedEndpoint:
        found = self._table.find(name)
        if found is None:
            known = ", ".join(endpoint.name for endpoint in self.endpoints()) or "none"
            raise NotFoundError(f"there is no endpoint {name!r}; endpoints: {known}")
        return found

    # -- asking -------------------------------------------------------------------------------

    def url(self) -> str | None:
        acks = self._files.live_acks()
        if not acks:
            return None
        host = f"[{acks[0].host}]" if ":" in acks[0].host else acks[0].host
        return f"http://{host}:{acks[0].port}"

    def grpc_url(self) -> str | None:
        """Where the workers speak gRPC (`127.0.0.1:PORT`); `None` when they don't."""
        for ack in self._files.live_acks():
            if ack.grpc_port is not None:
                return (
                    f"[{ack.host}]:{ack.grpc_port}"
                    if ":" in ack.host
                    else (f"{ack.host}:{ack.grpc_port}")
                )
        return None

    def predict(self, name: str, inputs: Any) -> Mapping[str, Any]:
        from madang.deployment.serving._client import Client

        wanted = self._wanted(name)
        url = self.url()
        if url is None:
            raise UnavailableError("no inference worker runs; start them: madang up")
        if self._client is None:
            self._client = Client()
        arrays = self._arrays(wanted.arms[0], inputs)
        found: dict[str, Any] = self._client.predict(url, self._files.own_token(), name, arrays)
        return found

    def _arrays(self, arm: WantedArm, inputs: Any) -> dict[str, Any]:
        """The input tensors of a table, an array or a mapping, as the arm takes them."""
        from madang.deployment.serving._deploying import described, signature
        from madang.development.experiments._tensors import checked, to_inputs

        columns = () if arm.graph else described(arm, self._files.models).manifest.columns
        specs = signature(arm, self._files.models, self._online)
        return checked(to_inputs(inputs, specs, columns), specs.inputs)

    def _features(self) -> FeatureStore:
        store: FeatureStore = self._context.component("features")
        return store

    def _online(self) -> tuple[OnlineStore, Any]:
        """The online store, and how its views' definitions are found."""
        from madang.data.features.definitions import find

        return self._features().online, partial(find, self._context.root / "features")

    # -- processes and access -----------------------------------------------------------------

    def workers(self, *, arguments: Sequence[str] = ()) -> Workers:
        """The worker processes as `madang.toml` says, not started; the files are up to date."""
        self.sync()
        return Workers(
            self._context.home,
            host=self._host,
            port=self._port,
            count=self._scaling.least,
            scaling=self._scaling,
            grpc_port=self._grpc_port,
            arguments=arguments,
        )

    def sync(self) -> None:
        """Makes the files agree with the database, whatever a process that died left behind."""
        self._files.make()
        self._files.own_token()
        with self._files.locked():
            for endpoint in self._table.read()[1]:
                for arm in endpoint.arms:
                    for part in arm.models():
                        self._models.fetch(part)
            self._write_desired()
        self.refresh_tokens()

    def refresh_tokens(self, grants: Sequence[TokenGrant] | None = None) -> None:
        """Hands the workers the tokens that they accept; they follow within 0.1 seconds.

        To be called after tokens, roles or users changed.

        Args:
            grants: The valid tokens; by default, what the identity component knows, if its tokens
                can be checked without asking it.
        """
        from madang.security.identity.contract import GrantsOffline, allows

        if grants is None:
            identity = self._context.component("identity")
            grants = identity.grants() if isinstance(identity, GrantsOffline) else ()
        accepted = {
            grant.digest: AcceptedToken(
                grant.name,
                tuple(p for p in PERMISSIONS if allows(grant.permissions, p)),
                grant.expires_us,
            )
            for grant in grants
        }
        self._files.make()
        data = msgspec.json.encode(accepted, order="deterministic")
        if not self._files.tokens.exists() or self._files.tokens.read_bytes() != data:
            write_atomically(self._files.tokens, data)

    def record_loads(self) -> None:
        """Writes to the ledger what clients loaded and unloaded; to be called now and then."""
        if not self._files.read_unloaded().changes:
            return
        with self._files.locked():
            unloaded = self._files.read_unloaded()
            self._table.record_loads(unloaded.changes)
            # Killed before this, the next call finds the same changes, and the ledger has them.
            recorded = msgspec.structs.replace(unloaded, changes=())
            write_atomically(self._files.unloaded, msgspec.json.encode(recorded))

    # -- state --------------------------------------------------------------------------------

    def _take_back(
        self, before: WantedEndpoint | None, failed: WantedEndpoint, reason: str
    ) -> None:
        """Returns to what was before, unless somebody else changed the endpoint meanwhile."""
        with self._files.locked():
            if self._table.find(failed.name) != failed:
                return
            self._revert(before, failed, reason)
            self._write_desired()

    def _revert(self, before: WantedEndpoint | None, failed: WantedEndpoint, reason: str) -> None:
        was = before or WantedEndpoint(failed.name, 0, False, ())
        self._table.change(
            failed.name,
            was.arms,
            log=was.log,
            kind="endpoint.revert",
            reason=reason,
            split=was.split,
        )

    def _write_desired(self) -> None:
        """Writes the workers' file from the database; the lock on the folder is held."""
        revision, endpoints = self._table.read()
        desired = Desired(
            revision=revision,
            project=self._project,
            root=str(self._context.root),
            urls=dict(self._context.stack.project.urls) if self._context.stack else {},
            endpoints=tuple(endpoints),
        )
        data = msgspec.json.encode(desired, order="deterministic")
        if not self._files.desired.exists() or self._files.desired.read_bytes() != data:
            write_atomically(self._files.desired, data)

    def _await(
        self, revision: int, name: str, timeout_seconds: float, *, served: bool = False
    ) -> str:
        """Waits until all workers have worked through a revision; what is wrong, or nothing.

        Args:
            revision: The revision.
            name: The endpoint.
            timeout_seconds: For how long.
            served: Workers ran before the change, so that one has to be left: a model may end the
                process that loads it.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            acks = self._files.live_acks()
            problem = _problem(acks, name)
            behind = [ack.pid for ack in acks if ack.revision < revision]
            if not behind and (acks or not served):
                return problem
            if time.monotonic() > deadline:
                if not behind:
                    return "all workers ended, perhaps by loading it; .madang/serving/worker.log"
                return f"worker {behind[0]} did not follow within {timeout_seconds:g} s"
            time.sleep(0.02)

    def _remove_unused(self) -> None:
        """Deletes models that neither the database nor a worker wants."""
        with self._files.locked():
            revision, endpoints = self._table.read()
            if any(ack.revision < revision for ack in self._files.live_acks()):
                return
            self._models.keep_only(
                {m.digest for e in endpoints for arm in e.arms for m in arm.models()}
            )

    def _make_topic(self, name: str) -> None:
        collection = self._context.component("collection")
        try:
            collection.topic(name)
        except NotFoundError:
            try:
                collection.create_topic(name)
            except AlreadyExistsError:
                return  # another process was first

    def health(self) -> Health:
        try:
            acks = self._files.live_acks()
        except (MadangError, OSError) as error:
            return Health(False, str(error), "stop the workers and delete .madang/serving/ack")
        if not acks:
            return Health(True, "no worker runs", "start them: madang up")
        errors = [f"{name}: {why}" for ack in acks for name, why in ack.errors.items()]
        if errors:
            return Health(False, errors[0], "deploy the endpoint again")
        served = len(acks[0].endpoints)
        return Health(True, f"{len(acks)} workers at {self.url()} serve {served} endpoints")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _scaling(options: Mapping[str, str]) -> Scaling:
    """How many workers: `workers=2`, or `workers=1-4` and, if wanted, `queue_seconds=0.005`."""
    text = options.get("workers", "1")
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text, re.ASCII)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most <= 256:
        raise ConfigurationError(
            f"local://?workers must be a number from 1 to 256, or a range as in 1-4: {text!r}"
        )
    if least < most:
        most = max(least, min(most, processors()))
    target = options.get("queue_seconds", "0.005")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", target, re.ASCII) or not float(target):
        raise ConfigurationError(
            f"local://?queue_seconds must be a number of seconds above 0: {target!r}"
        )
    return Scaling(least, most, target_seconds=float(target))


def _grpc_port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigurationError(f"local://?grpc_port must be a port up to 65535: {text!r}")
    return int(text)


def _problem(acks: Sequence[Ack], name: str) -> str:
    for ack in acks:
        if name in ack.errors:
            return f"worker {ack.pid} could not load it: {ack.errors[name]}"
    return ""


def _endpoint(wanted: WantedEndpoint) -> Endpoint:
    from madang.deployment.serving._deploying import arm_of, split_of

    arms = tuple(map(arm_of, wanted.arms))
    split = split_of(wanted.split) if wanted.split else None
    return Endpoint(wanted.name, arms, wanted.revision, wanted.log, split)


def _check(name: str, arms: Sequence[Arm]) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"an endpoint's name has up to 200 letters, digits, '.', '-' and '_': {name!r}"
        )
    if not arms:
        raise InvalidInputError(f"endpoint {name!r} needs at least one arm: a model version")
    for arm in arms:
        if not 0 <= arm.weight < float("inf"):
            raise InvalidInputError(
                f"{arm.model}@{arm.version} has weight {arm.weight}; a weight is 0 or more"
            )
    if not any(arm.weight for arm in arms):
        raise InvalidInputError(f"all weights of endpoint {name!r} are 0; one must be above")
    if sum(arm.weight for arm in arms) == float("inf"):
        raise InvalidInputError(f"the weights of endpoint {name!r} are too large to be added up")
