"""The LMDB online store: the contract, several processes, a full map, and kill -9."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest

from madang.data.features import connect
from madang.data.features.lmdb import LMDBOnlineStore
from madang.engines import Context
from madang.errors import ConfigurationError, IntegrityError
from madang.testing.features import LAYOUT_A, OnlineStoreContract, row


@pytest.fixture
def connect_online(tmp_path):
    opened = []

    def connect(project="test", **options):
        opened.append(LMDBOnlineStore(tmp_path / "online", project, **options))
        return opened[-1]

    yield connect
    for store in opened:
        store.close()


class TestLMDBOnlineStore(OnlineStoreContract):
    @pytest.fixture
    def connect_online(self, connect_online):
        return connect_online


def child(script, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


class TestURL:
    def test_default_lies_in_the_projects_home(self, tmp_path):
        store = connect(None, Context("p", tmp_path))
        store.put("v", [b"a"], [row(1)], LAYOUT_A)
        assert (tmp_path / ".madang" / "online" / "data.mdb").exists()
        store.close()

    def test_path_and_size(self, tmp_path):
        store = connect("lmdb:///values?map_mb=2", Context("p", tmp_path))
        store.put("v", [b"a"], [row(1)], LAYOUT_A)
        assert (tmp_path / "values" / "data.mdb").exists()
        store.close()

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("lmdb:///x?sync=no", "lmdb:// has no option sync; its options are: map_mb"),
            ("lmdb:///x?map_mb=0", "map_mb must be a whole number, found '0'"),
            ("lmdb:///x?map_mb=ten", "map_mb must be a whole number, found 'ten'"),
        ],
    )
    def test_unusable_options(self, tmp_path, url, message):
        with pytest.raises(ConfigurationError, match=message):
            connect(url, Context("p", tmp_path))


def test_a_full_map_grows(connect_online):
    store = connect_online(map_mb=1)
    keys = [b"%06d" % number for number in range(3000)]
    store.put("v", keys, [row(1, b"x" * 1000)] * 3000, LAYOUT_A)
    store.replace("v", keys, [row(2, b"y" * 2000)] * 3000, LAYOUT_A)
    assert set(store.get("v", keys)) == {row(2, b"y" * 2000)}


def test_a_map_that_another_process_grew_is_adopted(connect_online, tmp_path):
    store = connect_online(map_mb=1)
    store.put("v", [b"a"], [row(1)], LAYOUT_A)
    script = """
        import sys
        from pathlib import Path
        from madang.data.features.lmdb import LMDBOnlineStore
        from madang.testing.features import LAYOUT_A, row
        store = LMDBOnlineStore(Path(sys.argv[1]), "test", map_mb=1)
        keys = [b"%06d" % number for number in range(9000)]
        store.put("v", keys, [row(1, b"x" * 1000)] * 9000, LAYOUT_A)
    """
    with child(script, tmp_path / "online") as process:
        assert process.wait(60) == 0
    assert store.get("v", [b"a", b"008999"]) == [row(1), row(1, b"x" * 1000)]
    # A writer meets the larger map as well.
    assert store.put("w", [b"b"], [row(2)], LAYOUT_A) == 1


def test_a_forked_child_reads_and_writes(connect_online):
    store = connect_online()
    store.put("v", [b"a"], [row(1)], LAYOUT_A)

    def work(pipe):
        pipe.send(store.get("v", [b"a"]))
        store.put("v", [b"b"], [row(2)], LAYOUT_A)
        pipe.send(store.get("v", [b"b"]))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    assert ours.poll(30)
    assert ours.recv() == [row(1)]
    assert ours.poll(30)
    assert ours.recv() == [row(2)]
    process.join(30)
    assert process.exitcode == 0
    assert store.get("v", [b"a", b"b"]) == [row(1), row(2)]


def test_closing_one_store_leaves_the_others_open(connect_online):
    first, second = connect_online("a"), connect_online("b")
    first.put("v", [b"a"], [row(1)], LAYOUT_A)
    second.put("v", [b"a"], [row(2)], LAYOUT_A)
    first.close()
    assert second.get("v", [b"a"]) == [row(2)]
    assert first.get("v", [b"a"]) == [row(1)]  # opens again


def test_a_damaged_file_is_told(connect_online, tmp_path):
    store = connect_online()
    store.put("v", [b"a"], [row(1)], LAYOUT_A)
    store.close()
    (tmp_path / "online" / "data.mdb").write_bytes(b"nothing like it" * 1000)
    with pytest.raises(IntegrityError, match=r"damaged.*materialize the views again"):
        store.get("v", [b"a"])
    health = store.health()
    assert not health.ok
    assert "damaged" in health.detail


def test_two_processes_put_at_once(connect_online, tmp_path):
    script = """
        import sys
        from pathlib import Path
        from madang.data.features.lmdb import LMDBOnlineStore
        from madang.testing.features import LAYOUT_A, row
        store = LMDBOnlineStore(Path(sys.argv[1]), "test", map_mb=1)
        name = sys.argv[2].encode()
        for number in range(200):
            store.put("v", [name + b"%d" % number, b"shared"], [row(number)] * 2, LAYOUT_A)
    """
    processes = [child(script, tmp_path / "online", name) for name in ("x", "y")]
    for process in processes:
        with process:
            assert process.wait(60) == 0
    keys = [name + b"%d" % number for name in (b"x", b"y") for number in range(200)]
    assert None not in connect_online().get("v", keys)
    assert connect_online().get("v", [b"shared"]) == [row(199)]


_REPLACING = """
    import sys
    from pathlib import Path
    from madang.data.features.lmdb import LMDBOnlineStore
    from madang.testing.features import row
    store = LMDBOnlineStore(Path(sys.argv[1]), "test", map_mb=1)
    keys = [b"%06d" % number for number in range(5000)]
    for generation in range(int(sys.argv[2]), 10**6):
        rows = [row(generation, b"x" * 100)] * 5000
        store.replace("v", keys, rows, {"layout": "a" * 16, "generation": generation})
        print(generation, flush=True)
"""


def test_kill_in_the_middle_of_replace_leaves_whole_content(connect_online, tmp_path):
    """Acknowledged generations survive kill -9, and what is there is one generation, whole."""
    keys = [b"%06d" % number for number in range(5000)]
    chance, first = random.Random(7), 1
    for _ in range(8):
        process = child(_REPLACING, tmp_path / "online", first)
        with process:
            acknowledged = int(process.stdout.readline())
            # Somewhere within the next few replacements: each takes some milliseconds.
            for _ in range(chance.randrange(3)):
                acknowledged = int(process.stdout.readline())
            for _ in range(chance.randrange(200_000)):
                pass
            os.kill(process.pid, signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        store = connect_online()
        rows = set(store.get("v", keys))
        assert len(rows) == 1
        (found,) = rows
        generation = store.describe("v")["generation"]
        assert found == row(generation, b"x" * 100)
        assert generation >= acknowledged
        store.close()
        first = generation + 1


def test_acknowledged_puts_survive_kill(connect_online, tmp_path):
    script = """
        import sys
        from pathlib import Path
        from madang.data.features.lmdb import LMDBOnlineStore
        from madang.testing.features import LAYOUT_A, row
        store = LMDBOnlineStore(Path(sys.argv[1]), "test", map_mb=1)
        for number in range(10**6):
            store.put("v", [b"%d" % number], [row(number)], LAYOUT_A)
            print(number, flush=True)
    """
    process = child(script, tmp_path / "online")
    with process:
        for _ in range(50):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        last = max(map(int, process.stdout.read().split()), default=49)
    keys = [b"%d" % number for number in range(last + 1)]
    assert None not in connect_online().get("v", keys)
