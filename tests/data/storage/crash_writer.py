"""Writes objects and versions until it is killed; prints each one that was acknowledged.

Run as: python crash_writer.py PROJECT_FOLDER FIRST_NUMBER
"""

from __future__ import annotations

import itertools
import sys

import pyarrow as pa

import madang
from madang.data.storage import Transaction

stack = madang.open(sys.argv[1])
for number in itertools.count(int(sys.argv[2])):
    data = pa.table({"n": [number] * 3, "text": [f"row of {number}"] * 3})
    version = stack.storage.write("t", data, transaction=Transaction("writer", number))
    print("version", number, version, flush=True)
    stack.storage.put(f"objects/{number}", b"%d" % number * 100_000)
    print("object", number, 0, flush=True)
    stack.storage.put("replaced", b"%d," % number * 100_000)
    print("replaced", number, 0, flush=True)
