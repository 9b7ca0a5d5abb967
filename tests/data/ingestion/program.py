"""Ingests in a process of its own, for tests that kill it.

    program.py ROOT SOURCE DATASET BATCH_EVENTS [armed | follow]

`armed`: faults count from the ingestion on, not from the opening of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests import faults

import madang
from madang.loop import ingest


def main(root, source, dataset, batch_events, mode=""):
    with madang.open(root) as stack:
        if mode == "armed":
            _ = stack.storage, stack.collection, stack.validation, stack.metadata
            faults.arm()
        ingest(stack, source, dataset, batch_events=int(batch_events), follow=mode == "follow")


if __name__ == "__main__":
    main(*sys.argv[1:])
