"""The project's policy: its bundle in an engine, and questions that are asked, answered, recorded."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from madang.engines import Context, Health
from madang.errors import MadangError
from madang.ledger import acting_as, canonical
from madang.security.policy.approvals import DECIDED, Approvals
from madang.security.policy.bundle import read_bundle, signature
from madang.security.policy.contract import Bundle, Decision, PolicyEngine, Reason
from madang.security.policy.questions import Question, Questions

if TYPE_CHECKING:
    from madang.deployment.serving import Arm
    from madang.development.experiments import AliasMove
    from madang.security.identity import Identity

_CACHED = 4096
_UNRECORDED = frozenset({"dataset_read", "request", "secret_read"})
"""Asked so often that only denials stand in the ledger. (That a secret was opened does, as itself.)"""


class Policy:
    """What `stack.policy` is: asks the rules, and keeps the answers.

    A decision follows from the bundle and the input alone, and both are looked at anew for each
    question (files by time and size; roles and approvals in the database). So a kept answer is
    always the one that asking again would give. Safe for many threads.
    """

    def __init__(self, context: Context, engine: PolicyEngine) -> None:
        self.engine = engine
        self.approvals = Approvals(context.metadata, context.ledger)
        self.questions = Questions(context, self.approvals)
        self._context = context
        self._lock = threading.RLock()
        self._signature: object = None
        self._bundle = Bundle({})
        self._problem = ""
        self._kept: OrderedDict[tuple[str, str, str], Decision] = OrderedDict()

    # -- asking -------------------------------------------------------------------------------

    def bundle(self) -> Bundle:
        """The bundle in force, loaded when its files changed.

        Raises:
            InvalidInputError: It can't be loaded. Until it can, everything is denied.
            UnavailableError: The engine's server does not answer.
        """
        with self._lock:
            found = signature(self._context.root)
            if found != self._signature:
                self._signature = None
                bundle = read_bundle(self._context.root)
                self.engine.load(bundle)
                self._bundle, self._signature = bundle, found
            return self._bundle

    def decide(self, name: str, input: Any) -> Decision:
        """What the rules say; recorded nowhere.

        Args:
            name: The decision.
            input: JSON.
        """
        digest = hashlib.sha256(canonical(input)).hexdigest()
        try:
            bundle = self.bundle()
        except MadangError as error:
            reason = Reason("bundle", f"the policy can't be loaded, so all is denied: {error}")
            return Decision(name, False, (reason,), (), "", digest)
        key = (bundle.digest, name, digest)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = self.engine.decide(name, input, bundle=bundle.digest, digest=digest)
        if not any(reason.rule == "error" for reason in found.reasons):  # a server may come back
            with self._lock:
                self._kept[key] = found
                if len(self._kept) > _CACHED:
                    self._kept.popitem(last=False)
        return found

    def check(self, question: Question) -> Decision:
        """Asks, records the answer, and raises unless it is yes.

        Raises:
            PolicyDeniedError: With the rules' own messages.
        """
        decision = self.decide(question.decision, question.input)
        is_said = not decision.allow and self._is_repeated(question, decision)
        if not is_said and (not decision.allow or question.decision not in _UNRECORDED):
            self._record(question, decision)
        decision.require()
        return decision

    def _is_repeated(self, question: Question, decision: Decision) -> bool:
        """Whether a rollout that waits was denied the same before; it asks each second."""
        actor = question.input["who"]["actor"]
        if not actor.startswith("rollout:"):
            return False
        lines = self._context.ledger.lines(kind=DECIDED, subject=question.subject, limit=1)
        return any(
            (line.actor, line.data["outcome"], line.data["bundle"], line.data["input"])
            == (actor, "denied", decision.bundle, decision.input)
            for line in lines
        )

    def _record(self, question: Question, decision: Decision) -> None:
        who = question.input["who"]["actor"]
        with acting_as(who):
            self._context.ledger.record(
                DECIDED,
                question.subject,
                inputs=question.refs,
                data={
                    "decision": decision.name,
                    "outcome": "allowed" if decision.allow else "denied",
                    "reasons": [{"rule": r.rule, "message": r.message} for r in decision.reasons],
                    "exempt": list(decision.exempt),
                    "bundle": decision.bundle,
                    "input": decision.input,
                    "document": question.input,
                },
            )

    # -- what the components ask ----------------------------------------------------------------

    def check_alias(self, move: AliasMove) -> None:
        """For `Registry.alias_guard`."""
        self.check(self.questions.promotion(move))

    def check_deployment(self, endpoint: str, arms: Sequence[Arm]) -> None:
        """For `Serving.deploy_guard`."""
        self.check(self.questions.deployment(endpoint, arms))

    def check_rollout(
        self, endpoint: str, arms: Sequence[Arm], *, kind: str, **plan: Any
    ) -> Decision:
        """For `ABTesting.rollout_guard`; as `Questions.rollout`."""
        return self.check(self.questions.rollout(endpoint, arms, kind=kind, **plan))

    def check_dataset(self, name: str) -> None:
        """For `RecordedStorage.read_guard`."""
        self.check(self.questions.dataset_read(name))

    def check_secret(self, name: str) -> None:
        """For `Secrets.read_guard`."""
        self.check(self.questions.secret_read(name))

    def check_request(self, identity: Identity, permission: str, **route: Any) -> None:
        """For the HTTP API; as `Questions.request`."""
        self.check(self.questions.request(identity, permission, **route))

    # -- as other components --------------------------------------------------------------------

    def health(self) -> Health:
        """The engine's health, and whether the bundle can be loaded."""
        found = self.engine.health()
        if not found.ok:
            return found
        try:
            bundle = self.bundle()
        except MadangError as error:
            return Health(False, str(error), "mend policies/; until then everything is denied")
        files = len(bundle.files)
        return Health(True, f"{found.detail}; {files} files, bundle {bundle.digest[:12]}")

    def close(self) -> None:
        """Gives back what the engine holds."""
        self.engine.close()
