"""The closed loop: what calls what, from event to prediction and back.

    event → topic → dataset version → feature view → training set → pipeline run → model version
    → endpoint → rollout → prediction → outcome → monitor → alert → trigger → pipeline run

This version holds the forward half that joins components: `ingest` moves a topic's events, or the
rows of a source, through validation into a dataset. Training sets are the feature store's, runs are
the pipelines', model versions the registry's, endpoints and predictions the serving component's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from madang.data.ingestion import QUARANTINE, Ingested, ingest

if TYPE_CHECKING:
    from madang.stack import Stack


def settle(stack: Stack) -> None:
    """Writes down the outcome of what a killed process left open in outside systems."""
    from madang.ledger import Settles

    for component in (stack.storage, stack.collection, stack.features, stack.experiments):
        if isinstance(component, Settles):
            component.settle()


__all__ = ["QUARANTINE", "Ingested", "ingest", "settle"]
