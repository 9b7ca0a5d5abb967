"""A backfill that may be killed at any moment: python -m tests.data.features.backfill_program FOLDER."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

from tests import faults

import madang
from madang.data.features.store import FeatureStore

START = datetime(2026, 3, 8, tzinfo=UTC)


def backfill(features: FeatureStore) -> None:
    features.backfill(
        "recent",
        "history",
        start=START,
        end=START + timedelta(days=6),
        part=timedelta(days=2),
    )


def main(folder: str) -> None:
    with madang.open(folder) as stack:
        stack.features.load_definitions()
        if "--armed" in sys.argv:
            faults.arm()
        backfill(stack.features)


if __name__ == "__main__":
    main(sys.argv[1])
