from __future__ import annotations

import shutil
import subprocess
import sys
import threading

import pytest
from tests import faults
from tests.deployment.monitoring.series.samples import table

from madang.deployment.monitoring.series import Matcher
from madang.deployment.monitoring.series.local import LocalSeries
from madang.errors import IntegrityError
from madang.testing.series import SeriesContract

X = [Matcher("__name__", "=", "x")]
ALWAYS = (-(2**60), 2**60)
CRASH = [sys.executable, "-m", "tests.deployment.monitoring.series.crash_series"]


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


class TestLocalSeries(SeriesContract):
    # Sealed at once, after some, and never: what a reader sees is the same.
    @pytest.fixture(params=[1, 5, 1_000_000])
    def series(self, tmp_path, request):
        return LocalSeries(tmp_path / "series", seal_samples=request.param)

    @pytest.fixture
    def again(self, series):
        return lambda: LocalSeries(series._folder, seal_samples=series._seal_samples)


def appended(folder):
    found = LocalSeries(folder).select(X, *ALWAYS)
    assert len(found) in {0, 10}
    for number, series in enumerate(found):
        assert series.times_ms.tolist() == list(range(len(series.times_ms)))
        assert series.values.tolist() == [t * 10 + number for t in range(len(series.times_ms))]
    return len(found[0].times_ms) if found else 0


def test_what_was_acknowledged_survives_a_kill_at_every_change_of_a_file(tmp_path):
    folder = tmp_path / "series"
    command = [*CRASH, folder, "12"]
    for fault in faults.each("kill", command, under=folder, reset=lambda: fresh(folder)):
        acknowledged = len(fault.run().stdout.split())
        assert acknowledged <= appended(folder) <= acknowledged + 1
        LocalSeries(folder, seal_samples=50).append(table([("y", {}, 1, 1)]))
        assert acknowledged <= appended(folder) <= acknowledged + 1


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    folder = tmp_path / "series"
    command = [*CRASH, folder, "6"]
    for fault in faults.each("full", command, under=folder, reset=lambda: fresh(folder)):
        done = fault.run()
        acknowledged = len(done.stdout.split())
        assert acknowledged <= appended(folder) <= acknowledged + 1
        LocalSeries(folder, seal_samples=50).append(table([("y", {}, 1, 1)]))
        assert acknowledged <= appended(folder) <= acknowledged + 1


def test_a_kill_at_any_moment_loses_nothing(tmp_path):
    with subprocess.Popen(
        [*CRASH, str(tmp_path), "1000000"], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if int(line) == 37:
                process.kill()
        process.wait()
    assert appended(tmp_path) >= 38


def test_a_batch_that_was_cut_off_is_overwritten(tmp_path):
    store = LocalSeries(tmp_path)
    store.append(table([("x", {}, 1, 1)]))
    log = tmp_path / "1.log"
    whole = log.read_bytes()
    for cut in (1, 7, 8, 20, len(whole) - 1):
        log.write_bytes(whole + whole[:cut])
        assert LocalSeries(tmp_path).select(X, *ALWAYS)[0].values.tolist() == [1]
        LocalSeries(tmp_path).append(table([("x", {}, 2, 2)]))
        assert LocalSeries(tmp_path).select(X, *ALWAYS)[0].values.tolist() == [1, 2]


def test_damage_in_the_middle_is_no_end(tmp_path):
    store = LocalSeries(tmp_path)
    for number in range(2):
        store.append(table([("x", {}, number, 1)]))
    content = bytearray((tmp_path / "1.log").read_bytes())
    content[30] ^= 1
    (tmp_path / "1.log").write_bytes(content)
    with pytest.raises(IntegrityError, match="the batch at byte 0 is damaged"):
        LocalSeries(tmp_path).select(X, *ALWAYS)


def test_readers_see_appends_whole_while_logs_are_sealed(tmp_path):
    writer, reader = LocalSeries(tmp_path, seal_samples=20), LocalSeries(tmp_path)
    failures = []

    def write():
        for number in range(60):
            writer.append(table([("x", {"a": str(i)}, number, number) for i in range(10)]))

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while thread.is_alive():
        found = reader.select(X, *ALWAYS)
        lengths = {len(series.times_ms) for series in found} or {0}
        if len(lengths) != 1 or max(lengths) < seen:
            failures.append((lengths, seen))
        seen = max(lengths)
    thread.join()
    assert failures == []
    assert {len(series.times_ms) for series in reader.select(X, *ALWAYS)} == {60}


def test_what_is_too_old_is_removed_by_whole_files(tmp_path):
    store = LocalSeries(tmp_path, seal_samples=2)
    for number in range(6):
        store.append(table([("x", {}, number, number)]))
    assert store.forget(4) == 4
    assert store.forget(4) == 0
    assert store.select(X, *ALWAYS)[0].times_ms.tolist() == [4, 5]
    assert store.forget(10**9) == 0  # the newest file stays
    store.append(table([("x", {}, 9, 9)]))
    assert store.select(X, *ALWAYS)[0].times_ms.tolist() == [4, 5, 9]
    assert LocalSeries(tmp_path / "none").forget(5) == 0
