"""A disk that is full in the middle of a write: what is online stays whole, and goes on later."""

from __future__ import annotations

import shutil
import sys
import textwrap

import pytest
from tests import faults

from madang.data.features.lmdb import LMDBOnlineStore
from madang.testing.features import row

KEYS = [b"%05d" % number for number in range(2000)]
OLD = {"layout": "a" * 16, "number": 1}
NEW = {"layout": "a" * 16, "number": 2}

_PROGRAM = """
import sys
from pathlib import Path
from madang.data.features.lmdb import LMDBOnlineStore
from madang.errors import UnavailableError
from madang.testing.features import row
from tests import faults
from tests.data.features.test_disk_full import KEYS, NEW, OLD
store = LMDBOnlineStore(Path(sys.argv[1]), "test")
store.describe("v")
faults.arm()
try:
    if sys.argv[2] == "replace":
        store.replace("v", KEYS, [row(2, b"y" * 100)] * len(KEYS), NEW)
    else:
        store.put("v", KEYS, [row(2, b"y" * 100)] * len(KEYS), NEW, after=OLD)
except UnavailableError as error:
    print("refused:", error)
else:
    print("written")
"""


@pytest.mark.parametrize("change", ["replace", "put"])
def test_a_full_disk_leaves_the_old_rows_or_the_new_ones(tmp_path, change):
    """Refused with the reason, at each write; and with room again, the next one lands."""
    fresh, folder = tmp_path / "fresh", tmp_path / "online"
    store = LMDBOnlineStore(fresh, "test")
    store.replace("v", KEYS, [row(1, b"x" * 100)] * len(KEYS), OLD)
    store.close()

    def reset():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fresh, folder)

    program = [sys.executable, "-c", textwrap.dedent(_PROGRAM), folder, change]
    told = set()
    for fault in faults.each("full", program, under=folder, reset=reset, armed=False):
        done = fault.run()
        assert done.returncode == 0, (fault.what, done.stderr)
        refused = done.stdout.startswith("refused:")
        told.add(refused)
        assert ("can't be used" in done.stdout) == refused
        store = LMDBOnlineStore(folder, "test")
        rows = set(store.get("v", KEYS))
        if refused:
            assert (rows, store.describe("v")) == ({row(1, b"x" * 100)}, OLD), fault.what
        else:
            assert (rows, store.describe("v")) == ({row(2, b"y" * 100)}, NEW), fault.what
        store.replace("v", KEYS, [row(3)] * len(KEYS), NEW)
        assert set(store.get("v", KEYS)) == {row(3)}
        store.close()
    assert True in told
