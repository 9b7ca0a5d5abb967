from __future__ import annotations

import hashlib
import threading

import pytest
from tests.security.processes import child, ended, fresh, killed_at

from madang.engines import Context
from madang.errors import ConfigurationError, ConflictError
from madang.platform.configuration import connect
from madang.testing.configuration import ConfigurationContract


@pytest.fixture
def configuration(context):
    return connect(None, context)


class TestLocalConfiguration(ConfigurationContract):
    pass


def test_two_processes_count_by_compare_and_set(context):
    connect(None, context).set("counter", 0)

    def count(own):
        configuration = connect(None, own)
        for _ in range(25):
            while True:
                now = configuration.get("counter")
                try:
                    configuration.set("counter", now.value + 1, expected_version=now.version)
                    break
                except ConflictError:
                    continue

    pids = [child(context, count) for _ in range(2)]
    assert [ended(pid) for pid in pids] == [0, 0]
    after = fresh(context)
    configuration = connect(None, after)
    assert configuration.get("counter").value == 50
    assert [s.value for s in configuration.history("counter")] == list(range(51))
    assert len(after.ledger.lines(kind="configuration.set")) == 51
    assert after.ledger.verify().ok
    after.close()


def test_a_watcher_sees_what_another_process_sets(context):
    connect(None, context).set("a", 0)
    pid = child(context, lambda own: [connect(None, own).set("a", n) for n in (1, 2, 3)])
    configuration = connect(None, context)
    seen = []
    for setting in configuration.watch(timeout_seconds=30):
        seen.append(setting.value)
        if setting.value == 3:
            break
    assert ended(pid) == 0
    assert seen == [0, 1, 2, 3]


def test_a_long_history_is_watched_in_parts(context, monkeypatch):
    from madang.platform.configuration import local

    monkeypatch.setattr(local, "_BATCH", 3)
    configuration = connect(None, context)
    for number in range(10):
        configuration.set("a" if number % 3 else "b", number)
    watched = configuration.watch("a", timeout_seconds=0.01)
    assert [s.value for s in watched] == [1, 2, 4, 5, 7, 8]


def test_waiting_reads_one_row_at_a_time(context, monkeypatch):
    configuration = connect(None, context)
    last = configuration.set("a", 1)
    naps = []
    monkeypatch.setattr(
        "time.sleep", lambda seconds: naps.append(seconds) or threading.Event().wait(0.01)
    )
    assert list(configuration.watch(after_version=last.version, timeout_seconds=0.1)) == []
    assert 1 < len(naps) < 12
    assert max(naps) <= 0.05


def test_every_change_stands_in_the_ledger(context, configuration):
    configuration.set("a/b", {"x": [1]})
    configuration.delete("a/b")
    configuration.delete("a/b")
    first, second = context.ledger.lines(newest_first=False)
    assert (first.kind, first.subject, first.outputs) == (
        "configuration.set",
        "setting:a/b",
        ("setting:a/b@1",),
    )
    assert first.data["sha256"] == hashlib.sha256(b'{"x": [1]}').hexdigest()
    assert (second.kind, second.data) == ("configuration.delete", {"version": 2})


def test_kill_at_every_step_of_set(context):
    connect(None, context).set("a", 0)
    step = 1
    while killed_at(context, step, lambda own: connect(None, own).set("a", 1)):
        after = fresh(context)
        assert len(connect(None, after).history("a")) == len(after.ledger.lines())
        after.close()
        step += 1
    assert step > 4
    assert connect(None, context).get("a").value == 1


def test_projects_do_not_see_each_other(context, configuration):
    other_context = Context("other", context.root, metadata_url=context.metadata_url)
    other = connect(None, other_context)
    configuration.set("a", 1)
    assert other.list() == []
    assert list(other.watch(timeout_seconds=0.01)) == []
    assert other.set("b", 1).version == 1
    assert other.history("a") == []
    other_context.close()


def test_no_options(context):
    with pytest.raises(ConfigurationError, match="local:// has no option ttl"):
        connect("local://?ttl=1", context)
