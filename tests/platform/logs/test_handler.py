from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from madang.platform import logs as package
from madang.platform.logs import LogRecord, bound, handler
from madang.platform.logs.contract import Logs
from madang.platform.logs.local import LocalLogs


@pytest.fixture
def logs(tmp_path):
    opened = LocalLogs(tmp_path / "logs")
    yield opened
    opened.close()


@pytest.fixture
def log():
    made = logging.getLogger("test.handler")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    yield made
    for attached in list(made.handlers):
        made.removeHandler(attached)
        attached.close()


@pytest.fixture(params=[0.0, 0.01])
def attached(request, logs, log):
    made = handler(logs, batch_seconds=request.param)
    log.addHandler(made)
    return made


class Failing(Logs):
    """An engine that can be switched off, and that logs itself."""

    def __init__(self):
        self.records = []
        self.broken = False
        self.log = logging.getLogger("test.engine")
        self.log.propagate = False
        self.log.addHandler(logging.NullHandler())

    @classmethod
    def from_url(cls, url, context):
        return cls()

    def health(self):
        raise AssertionError

    def search(self, text="", **others):
        raise AssertionError

    def append(self, records):
        self.log.warning("appending")
        if self.broken:
            raise OSError("no space")
        self.records += records


def test_a_record_becomes_structured(logs, log, attached):
    before = time.time_ns() // 1000 - 1
    log.info("trained %s in %.1f s", "m1", 2.5, extra={"epoch": 3})
    attached.flush()
    (found,) = logs.search()
    assert found.message == "trained m1 in 2.5 s"
    assert (found.level, found.logger, found.fields) == ("INFO", "test.handler", {"epoch": 3})
    assert before <= found.time_us <= time.time_ns() // 1000


def test_bound_fields_nest_and_end(logs, log, attached):
    with bound(run="r1"):
        with bound(step="train", run="r2"):
            log.info("inner", extra={"step": "mine"})
        log.info("outer")
    log.info("none")
    attached.flush()
    found = {each.message: each.fields for each in logs.search()}
    assert found == {"inner": {"run": "r2", "step": "mine"}, "outer": {"run": "r1"}, "none": {}}


def test_bound_fields_belong_to_their_thread_and_task(logs, log, attached):
    def work():
        log.info("in a thread")

    async def task(name):
        with bound(request=name):
            await asyncio.sleep(0)
            log.info(name)

    async def both():
        await asyncio.gather(task("a"), task("b"))

    with bound(run="r1"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    asyncio.run(both())
    attached.flush()
    found = {each.message: dict(each.fields) for each in logs.search()}
    assert found == {"in a thread": {}, "a": {"request": "a"}, "b": {"request": "b"}}


def test_an_exception_is_a_field(logs, log, attached):
    try:
        raise RuntimeError("deep trouble")
    except RuntimeError:
        log.exception("it failed", stack_info=True)
    attached.flush()
    (found,) = logs.search(level="ERROR")
    assert found.message == "it failed"
    assert "RuntimeError: deep trouble" in found.fields["exception"]
    assert "test_an_exception_is_a_field" in found.fields["stack"]


def test_any_value_becomes_a_scalar(logs, log, attached):
    class Odd:
        def __str__(self):
            return "odd"

    extra = {"nan": float("nan"), "huge": 10**30, "list": [1], "odd": Odd(), "name\udcff": "\udcff"}
    log.info("file %s", "\udcff", extra=extra)
    attached.flush()
    (found,) = logs.search()
    assert found.message == "file \\udcff"
    assert found.fields == {
        "nan": "nan",
        "huge": str(10**30),
        "list": "[1]",
        "odd": "odd",
        "name\\udcff": "\\udcff",
    }


def test_levels_of_libraries_are_rounded_down(logs, log, attached):
    log.setLevel(1)
    for number in (5, 25, 60):
        log.log(number, str(number))
    attached.flush()
    found = {each.message: each.level for each in logs.search()}
    assert found == {"5": "DEBUG", "25": "INFO", "60": "CRITICAL"}


def test_a_bad_record_never_raises(attached, capsys):
    class Bad:
        def __str__(self):
            raise ValueError("bad str")

    # Given to the handler alone: pytest's own handler raises.
    for content in (
        {"msg": "%d", "args": ("not a number",)},
        {"msg": "x", "bad": Bad()},
        {"msg": "fine"},
    ):
        attached.handle(logging.makeLogRecord({"name": "x", "levelno": 20, **content}))
    attached.flush()
    assert [r.message for r in attached._logs.search()] == ["fine"]
    assert "not a number" in capsys.readouterr().err


def test_while_the_engine_fails_records_wait(log, capsys):
    engine = Failing()
    log.addHandler(handler(engine))
    engine.broken = True
    for number in range(3):
        log.info("%d", number)
    assert capsys.readouterr().err == "madang: logs can't be written now, they wait: no space\n"
    engine.broken = False
    log.info("3")
    assert [r.message for r in engine.records] == ["0", "1", "2", "3"]


def test_what_was_lost_is_told(log, monkeypatch, capsys):
    from madang.platform.logs import _handler

    monkeypatch.setattr(_handler, "_MAX_WAITING", 3)
    engine = Failing()
    log.addHandler(handler(engine))
    engine.broken = True
    for number in range(10):
        log.info("%d", number)
    engine.broken = False
    log.info("10")
    first, *others = engine.records
    assert [r.message for r in others] == ["8", "9", "10"]
    assert (first.level, first.fields) == ("WARNING", {"lost": 8})
    assert first.message == "8 log records before this one were lost"
    capsys.readouterr()


def test_a_closed_standard_error_is_no_reason_to_raise(log, monkeypatch):
    engine = Failing()
    engine.broken = True
    log.addHandler(handler(engine))
    monkeypatch.setattr(sys, "stderr", None)
    log.info("a")


def test_an_engine_that_logs_itself_does_not_go_round(log):
    engine = Failing()
    made = handler(engine)
    engine.log.addHandler(made)
    log.addHandler(made)
    log.info("a")
    engine.log.removeHandler(made)
    assert [r.message for r in engine.records] == ["a"]


def test_a_batch_is_written_without_asking(logs, log):
    log.addHandler(handler(logs, batch_seconds=0.01))
    for number in range(100):
        log.info("%d", number)
    deadline = time.monotonic() + 30
    while len(logs.search(limit=1000)) < 100:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [r.message for r in logs.search(limit=2)] == ["99", "98"]


def test_after_closing_nothing_is_lost(logs, log):
    made = handler(logs, batch_seconds=60)
    log.addHandler(made)
    log.info("a")
    made.close()
    made.close()
    log.info("b")
    assert [r.message for r in logs.search()] == ["b", "a"]


def test_a_forked_child_does_not_write_what_the_parent_holds(logs, log):
    made = handler(logs, batch_seconds=60)
    log.addHandler(made)
    log.info("parent")
    pid = os.fork()
    if pid == 0:
        log.info("child")
        made.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    made.flush()
    assert sorted(r.message for r in logs.search()) == ["child", "parent"]


@pytest.mark.parametrize("seconds", [0, 60])
def test_everything_is_there_after_the_exit(logs, tmp_path, seconds):
    code = (
        "import logging, pathlib, sys\n"
        "from madang.platform.logs import handler\n"
        "from madang.platform.logs.local import LocalLogs\n"
        f"logs = LocalLogs(pathlib.Path({str(tmp_path / 'logs')!r}))\n"
        f"logging.basicConfig(level=10, handlers=[handler(logs, batch_seconds={seconds})])\n"
        "logging.info('last words')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [r.message for r in logs.search()] == ["last words"]


def test_the_package_exports_them_without_importing_logging():
    assert {"bound", "handler"} <= set(package.__all__)
    for name in package.__all__:
        getattr(package, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing
    assert LogRecord
