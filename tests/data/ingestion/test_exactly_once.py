"""Killed at every sync and rename, on every pair of engines: nothing is lost, nothing doubled."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import faults
from tests.data.ingestion.conftest import PROGRAM, check, fill, ids, write_contract

import madang
from madang.loop import QUARANTINE, ingest

_names = itertools.count()


def prepared(root, events=24, toml=""):
    madang.init(root, name=f"once{next(_names)}")
    with (root / "madang.toml").open("a") as file:
        file.write(toml)
    write_contract(root)
    with madang.open(root) as stack:
        stack.collection.create_topic("trips", partitions=2)
        fill(stack, 0, events)
    return root


@pytest.mark.timeout(900)
def test_killed_at_every_sync_and_rename(tmp_path):
    whole, root = prepared(tmp_path / "whole"), tmp_path / "root"

    def reset():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)

    command = [sys.executable, PROGRAM, root, "trips", "trips", "24", "armed"]
    for fault in faults.each("kill", command, under=root, reset=reset, armed=False):
        fault.run()
        with madang.open(root) as stack:
            for table in ("trips", "trips" + QUARANTINE):
                found = ids(stack, table)
                assert len(found) == len(set(found)), fault.what
            ingest(stack, "trips", batch_events=7)  # other batches than before
            check(stack, 24)
            assert ingest(stack, "trips").events == 0, fault.what
            assert stack.ledger.verify().ok


@pytest.mark.timeout(600)
def test_a_full_disk_is_told_and_gone_on_from(tmp_path):
    whole, root = prepared(tmp_path / "whole"), tmp_path / "root"

    def reset():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)

    command = [sys.executable, PROGRAM, root, "trips", "trips", "24", "armed"]
    for fault in itertools.islice(
        faults.each("full", command, under=root, reset=reset, armed=False), 0, None, 7
    ):
        done = fault.run()
        # At the very end the metadata database tidies up, and may do that another time.
        assert done.returncode == 1 or fault.what.endswith("/madang.db"), fault.what
        assert done.returncode == 0 or "is full" in done.stderr, done.stderr
        with madang.open(root) as stack:
            if done.returncode == 0:
                check(stack, 24)
            ingest(stack, "trips")
            check(stack, 24)


@pytest.fixture(params=["local", "kafka"])
def collection(request):
    if request.param == "local":
        return ""
    server = request.getfixturevalue("kafka_server")
    return f'collection = "kafka://{server}"\n'


@pytest.fixture(params=["local", "s3"])
def storage(request):
    if request.param == "local":
        return ""
    return f'storage = "{request.getfixturevalue("s3_url")}"\n'


@pytest.mark.timeout(600)
def test_killed_between_all_steps_on_every_pair_of_engines(tmp_path, collection, storage):
    toml = f"\n[stack]\n{collection}{storage}"
    root = prepared(tmp_path / "root", events=90, toml=toml)
    program = Path(__file__).parents[2] / "crash_ingest.py"
    points = [
        ("put", "after", 0, 20), ("write", "before", 1, 11), ("write", "after", 0, 16),
        ("write", "after", 1, 9), ("delete", "before", 0, 12), ("landed", "before", 0, 30),
        ("commit", "before", 0, 13), ("commit", "after", 0, 10),
    ]  # fmt: skip
    for what, when, passings, size in points:
        done = subprocess.run(
            [sys.executable, program, root, what, when, str(passings), str(size)],
            check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        with madang.open(root) as stack:
            for table in ("trips", "trips" + QUARANTINE):
                found = ids(stack, table)
                assert len(found) == len(set(found)), (what, when)
    with madang.open(root) as stack:
        ingest(stack, "trips")
        check(stack, 90)
        assert ingest(stack, "trips").events == 0
