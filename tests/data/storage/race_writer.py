"""Appends and merges into one table beside other processes that do the same.

Run as: python race_writer.py PROJECT_FOLDER NUMBER; begins when a line comes in.
"""

from __future__ import annotations

import sys

import pyarrow as pa

import madang
from madang.data.storage import Transaction

STEPS = 6

if __name__ == "__main__":
    number = int(sys.argv[2])
    with madang.open(sys.argv[1]) as stack:
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(STEPS):
            rows = pa.table({"k": [1000 * (number + 1) + step], "by": [number]})
            done = Transaction(f"writer/{number}", step, after=step - 1)
            stack.storage.write("t", rows, transaction=done)
            stack.storage.merge("t", pa.table({"k": [step], "by": [number]}), on=["k"])
