"""A stream that may be killed at any moment: python -m tests.data.features.stream_program FOLDER."""

from __future__ import annotations

import sys

from tests import faults

import madang


def main(folder: str) -> None:
    with madang.open(folder) as stack:
        stack.features.load_definitions()
        if "--armed" in sys.argv:
            faults.arm()
        stack.features.stream("recent", "flights", dataset="windows", batch_events=5)


if __name__ == "__main__":
    main(sys.argv[1])
