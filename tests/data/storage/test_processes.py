"""Several processes on one table, and a server that is killed and started again under a writer."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from tests.data.storage.race_writer import STEPS

import madang
from madang.data.storage import Transaction, connect
from madang.engines import Context
from madang.errors import ConflictError, UnavailableError

WRITER = Path(__file__).with_name("race_writer.py")
WRITERS = 2


@pytest.mark.parametrize("place", ["local", "s3"])
def test_processes_on_one_table(place, tmp_path, request):
    """All rows of all of them are there, once; each merged key has the value of one of them."""
    madang.init(tmp_path, name="race")
    if place == "s3":
        url = request.getfixturevalue("s3_url")
        (tmp_path / "madang.toml").write_text(
            f'[project]\nname = "race"\n[stack]\nstorage = "{url}"\n'
        )
    processes = [
        subprocess.Popen(
            [sys.executable, str(WRITER), str(tmp_path), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(WRITERS)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    with madang.open(tmp_path) as stack:
        found = stack.storage.read("t").read_all().to_pylist()
        rows = {row["k"]: row["by"] for row in found}
        own = {1000 * (n + 1) + s: n for n in range(WRITERS) for s in range(STEPS)}
        assert len(found) == len(rows) == len(own) + STEPS
        assert {k: by for k, by in rows.items() if k >= 1000} == own
        assert len(stack.storage.versions("t")) == 2 * STEPS * WRITERS
        lines = stack.ledger.lines(kind="dataset.write", limit=1000)
        made = [ref for line in lines if line.phase == "done" for ref in line.outputs]
        assert sorted(made) == sorted(f"dataset:t@{v.version}" for v in stack.storage.versions("t"))
        assert stack.ledger.verify().ok


def test_a_server_killed_in_the_middle(stopped_s3, tmp_path):
    """A writer that goes on where the table says that it is writes each number once."""
    count, is_back, half = 30, threading.Event(), threading.Event()
    told: list[str] = []

    def write(storage):
        done = -1
        while done < count - 1:
            try:
                done = storage.progress("t", ["writer"]).get("writer", -1)
                step = Transaction("writer", done + 1, after=done)
                if done < count - 1:
                    storage.write("t", pa.table({"n": [done + 1]}), transaction=step)
            except UnavailableError as error:
                told.append(str(error))
                is_back.wait(120)
            except ConflictError:
                continue  # the write before it landed, and its answer was lost
            if done >= count // 3:
                half.set()

    with stopped_s3.running() as process:
        storage = connect(stopped_s3.s3.url("x"), Context("project", tmp_path))
        writer = threading.Thread(target=write, args=(storage,), daemon=True)
        writer.start()
        assert half.wait(120)
        process.kill()
        process.wait()
    with stopped_s3.running():
        is_back.set()
        writer.join(240)
        assert not writer.is_alive()
        assert storage.read("t").read_all()["n"].to_pylist() == list(range(count))
        assert storage.progress("t", ["writer"]) == {"writer": count - 1}
