"""Rules as code, asked before anything that matters: Rego, embedded or on an OPA server."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.security.policy.approvals import Approval, Approvals
from madang.security.policy.contract import Bundle, Decision, PolicyEngine, Reason
from madang.security.policy.gate import Policy
from madang.security.policy.questions import Question, Questions
from madang.security.policy.testing import TestResult, run_tests

ENGINES = {
    "embedded": "madang.security.policy.embedded:EmbeddedPolicy",
    "opa": "madang.security.policy.opa:OpaPolicy",
}
DEFAULT = "embedded"


def connect(url: str | None, context: engines.Context) -> PolicyEngine:
    """Opens the policy engine that `url` names."""
    return cast("PolicyEngine", engines.connect("security.policy", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Approval",
    "Approvals",
    "Bundle",
    "Decision",
    "Policy",
    "PolicyEngine",
    "Question",
    "Questions",
    "Reason",
    "TestResult",
    "connect",
    "run_tests",
]
