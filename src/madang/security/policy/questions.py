"""The documents that policies see, made of what the project knows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from madang.engines import Context
from madang.ledger import canonical, current_actor
from madang.security.identity import Identity

if TYPE_CHECKING:
    from madang.deployment.serving import Arm
    from madang.development.experiments import AliasMove, ModelVersion, VersionDetails
    from madang.security.policy.approvals import Approvals

VALIDATED = "dataset.validate"


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        decision: Which decision: the package `madang.DECISION`.
        subject: Names what is to be done and nothing else, for the ledger and for approvals.
        input: The document.
        refs: What it is about, for the ledger's edges.
    """

    decision: str
    subject: str
    input: Mapping[str, Any]
    refs: tuple[str, ...] = ()


class Questions:
    """Makes questions from the project's components."""

    def __init__(self, context: Context, approvals: Approvals) -> None:
        self._context = context
        self._approvals = approvals

    def promotion(self, move: AliasMove) -> Question:
        """May an alias move? `object.version` is null when it is to go."""
        wanted = "none" if move.version is None else str(move.version)
        subject = f"model:{move.model}/{move.alias}={wanted}"
        ref = (
            f"model:{move.model}" if move.version is None else f"model:{move.model}@{move.version}"
        )
        found: dict[str, Any] = {
            "ref": ref,
            "model": move.model,
            "alias": move.alias,
            "version": move.version,
            "previous": move.previous,
        }
        more: dict[str, Any] = {"evaluation": {"metrics": {}}, "datasets": []}
        if move.version is not None:
            details = self._registry.describe(move.model, move.version)
            found["tags"] = dict(details.version.tags)
            run = details.run
            more = {
                "evaluation": self._evaluation(details.version)
                | {"run_metrics": {} if run is None else _finite(run.metrics)},
                "datasets": self._datasets(details.datasets),
            }
        return self._question("promotion", subject, found, more, actor=move.actor, refs=(ref,))

    def deployment(self, endpoint: str, arms: Sequence[Arm]) -> Question:
        """May an endpoint serve these arms? None: it is to go."""
        return self._arms("deployment", endpoint, arms, {})

    def rollout(self, endpoint: str, arms: Sequence[Arm], *, kind: str, **more: Any) -> Question:
        """May a rollout begin with these arms, or end with them?

        Args:
            endpoint: Where.
            arms: The versions, with the weights of the first stage or after the promotion.
            kind: `shadow`, `canary`, `ab` or `bandit`.
            **more: What else policies should see of the plan, as JSON.
        """
        return self._arms("rollout", endpoint, arms, {"kind": kind, **more})

    def dataset_read(self, name: str) -> Question:
        """May a dataset be read?"""
        ref = f"dataset:{name}"
        return self._question("dataset_read", ref, {"ref": ref, "name": name}, {}, refs=(ref,))

    def secret_read(self, name: str) -> Question:
        """May a secret's value be read?"""
        ref = f"secret:{name}"
        return self._question("secret_read", ref, {"ref": ref, "name": name}, {}, refs=(ref,))

    def request(
        self,
        identity: Identity,
        permission: str,
        *,
        method: str,
        route: str,
        parameters: Mapping[str, str],
    ) -> Question:
        """May somebody who was let in use a route?"""
        actor = f"user:{identity.name}"
        input = {
            "decision": "request",
            "project": self._context.project,
            "who": {"actor": actor, "name": identity.name, "roles": list(identity.roles)},
            "permission": permission,
            "method": method,
            "route": route,
            "parameters": dict(parameters),
        }
        return Question("request", f"route:{route}", input)

    # -- parts --------------------------------------------------------------------------------

    @property
    def _registry(self) -> Any:
        return self._context.component("experiments").registry

    def _question(
        self,
        decision: str,
        subject: str,
        found: Mapping[str, Any],
        more: Mapping[str, Any],
        *,
        actor: str | None = None,
        refs: tuple[str, ...] = (),
    ) -> Question:
        is_approved = decision in ("promotion", "deployment", "rollout")
        input = {
            "decision": decision,
            "project": self._context.project,
            "subject": subject,
            "who": self.who(actor or current_actor()),
            "object": dict(found),
            **more,
        }
        if is_approved:
            given = self._approvals.list(subject)
            input["approvals"] = [{"by": one.by, "reason": one.reason} for one in given]
        return Question(decision, subject, input, refs)

    def who(self, actor: str) -> dict[str, Any]:
        """An actor with the roles that it has now.

        Who runs a process of the project with its files at hand is its admin. A rollout has no
        role, and says who started it.
        """
        kind, _, name = actor.partition(":")
        roles: Sequence[str] = ()
        if kind == "rollout":
            lines = self._context.ledger.lines(kind="rollout.start", subject=actor, limit=1)
            found = {"actor": actor, "name": name, "roles": []}
            return found | {"started_by": lines[0].actor} if lines else found
        if kind == "local":
            roles = ("admin",)
        elif kind == "user":
            users = self._context.component("identity").users()
            roles = next((u.roles for u in users if u.name == name and u.active), ())
        return {"actor": actor, "name": name or actor, "roles": list(roles)}

    def _arms(
        self, decision: str, endpoint: str, arms: Sequence[Arm], plan: Mapping[str, Any]
    ) -> Question:
        shown = [self._arm(arm) for arm in arms]
        digest = hashlib.sha256(canonical([[a["form"] for a in shown], dict(plan)])).hexdigest()
        served = ",".join(f"{arm.model}@{arm.version}:{arm.weight:g}" for arm in arms) or "none"
        subject = f"endpoint:{endpoint}/{decision}={served}#{digest[:12]}"
        models = [model for arm in shown for model in arm["models"]]
        datasets = dict.fromkeys(ref for model in models for ref in model.pop("datasets"))
        found = {
            "ref": f"endpoint:{endpoint}",
            "endpoint": endpoint,
            "arms": [{k: v for k, v in arm.items() if k != "form"} for arm in shown],
            **plan,
        }
        refs = tuple(dict.fromkeys(str(model["ref"]) for model in models))
        more = {"datasets": self._datasets(datasets)}
        return self._question(decision, subject, found, more, refs=refs)

    def _arm(self, arm: Arm) -> dict[str, Any]:
        from madang.deployment.serving._arms import leaves

        parts = [(arm.model, arm.version)]
        if arm.graph is not None:
            parts = [(leaf.model, leaf.version) for leaf in leaves(arm.graph)]
        models = []
        for name, version in parts:
            details: VersionDetails = self._registry.describe(name, version)
            models.append(
                {
                    "ref": details.version.ref,
                    "model": name,
                    "version": version,
                    "metrics": self._evaluation(details.version)["metrics"],
                    "tags": dict(details.version.tags),
                    "datasets": details.datasets,
                }
            )
        shown = {"model": arm.model, "version": arm.version, "weight": arm.weight}
        return {**shown, "models": models, "form": msgspec.to_builtins(asdict(arm))}

    def _evaluation(self, version: ModelVersion) -> dict[str, Any]:
        """The metrics, and of a kept report the comparison with the champion."""
        found: dict[str, Any] = {"metrics": dict(version.evaluation)}
        content, compared_with = self._registry.evaluation(version.name, version.version)
        if content is None:
            return found
        found["rows"] = content.get("rows")
        found["compared_with"] = compared_with
        if content.get("gate") is not None:
            found["gate"] = content["gate"]
        comparison = content.get("comparison")
        if comparison:
            found["comparison"] = _comparison(comparison)
        return found

    def _datasets(self, refs: Iterable[str]) -> list[dict[str, Any]]:
        """Each dataset version with the outcome of its last validation; null: none was made."""
        found = []
        for ref in refs:
            lines = self._context.ledger.lines(kind=VALIDATED, subject=ref, limit=1)
            outcome = lines[0].data.get("outcome") if lines else None
            found.append({"ref": ref, "outcome": outcome})
        return found


def _comparison(content: Mapping[str, Any]) -> dict[str, Any]:
    """The metric that decides, on all rows and on each slice."""
    metric = content["metric"]
    return {
        "metric": metric,
        "not_worse": content["not_worse"],
        "verdict": content["verdict"],
        **_pair(content["differences"][metric]),
        "slices": [
            {
                "name": part["name"],
                "rows": part["rows"],
                "verdict": part["differences"][metric]["verdict"],
                **_pair(part["differences"][metric]),
            }
            for part in content["slices"]
            if metric in part["differences"]
        ],
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no NaN and no infinity."""
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def _pair(difference: Mapping[str, Any]) -> dict[str, Any]:
    return {key: difference[key] for key in ("challenger", "champion")}
