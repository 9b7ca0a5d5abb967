"""Who did what, when and from where, with proofs that a third party can check.

The record is the ledger (`madang.ledger`). Its checkpoints are signed by Ed25519 and can be handed
out; a line is proven against one by `Audit.prove`.
"""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.security.audit.contract import Agreement, Audit, Checkpoint, InclusionProof, SealProof

ENGINES = {"ledger": "madang.security.audit.ledger:LedgerAudit"}
DEFAULT = "ledger"


def connect(url: str | None, context: engines.Context) -> Audit:
    """Opens the audit engine that `url` names."""
    return cast("Audit", engines.connect("security.audit", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Agreement",
    "Audit",
    "Checkpoint",
    "InclusionProof",
    "SealProof",
    "connect",
]
