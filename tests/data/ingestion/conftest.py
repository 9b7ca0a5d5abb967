"""A project with a contract, and what is in its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madang.data.collection import events
from madang.loop import QUARANTINE

CONTRACT = """
dataset: trips
columns:
  - {name: id, type: int64, nullable: false}
  - {name: minutes, type: float64}
checks:
  - {kind: range, column: minutes, severity: quarantine, arguments: {min: 0, max: 60}}
"""

PROGRAM = Path(__file__).with_name("program.py")


def write_contract(root, text=CONTRACT, name="trips"):
    (Path(root) / "contracts" / f"{name}.yaml").write_text(text.replace("trips", name))


def trip(number, minutes=5.0):
    return json.dumps({"id": number, "minutes": minutes}).encode()


def fill(stack, first, last, *, topic="trips", bad=lambda n: n % 3 == 0):
    """Events of these ids, spread by key; every third is out of range."""
    numbers = range(first, last)
    values = [trip(n, 99.0 if bad(n) else 1.0) for n in numbers]
    stack.collection.append(topic, events(values, keys=[b"%d" % n for n in numbers]))


def ids(stack, table="trips"):
    """The ids in a table, with repetitions, sorted."""
    if table not in stack.storage.tables():
        return []
    found = stack.storage.read(table).read_all()
    if table.endswith(QUARANTINE):
        return sorted(json.loads(raw)["id"] for raw in found["value"].to_pylist())
    return sorted(found["id"].to_pylist())


def check(stack, count, *, bad=lambda n: n % 3 == 0):
    """Every row is in exactly one of the two tables, exactly once."""
    assert ids(stack) == [n for n in range(count) if not bad(n)]
    assert ids(stack, "trips" + QUARANTINE) == [n for n in range(count) if bad(n)]


@pytest.fixture
def trips(stack):
    write_contract(stack.root)
    stack.collection.create_topic("trips", partitions=2)
    return stack
