"""What the control process does again and again goes on after any failure."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from madang.errors import ConflictError
from madang.server import keeping
from madang.server.keeping import KEEPERS, Keeper


@pytest.mark.parametrize("keeper", KEEPERS, ids=lambda keeper: keeper.trouble)
def test_the_keepers_go_on_after_a_failure(stack, caplog, keeper):
    """Of their beginning and of their work."""
    stopping, calls = threading.Event(), []

    def fail(*_):
        calls.append(1)
        if len(calls) in (3, 6):
            stopping.set()
        raise OSError("the disk is away")

    quick = dataclasses.replace(keeper, seconds=0.001)
    dataclasses.replace(quick, begin=fail).keep(stack, stopping)
    stopping.clear()
    dataclasses.replace(quick, begin=lambda _: fail).keep(stack, stopping)
    assert len(calls) == 6
    assert caplog.text.count(f"{keeper.trouble}; trying again") == 6


@pytest.mark.parametrize("keeper", KEEPERS, ids=lambda keeper: keeper.trouble)
def test_each_works_in_a_new_project(stack, caplog, keeper):
    work = keeper.begin(stack)
    for _ in range(2):
        work()
    assert caplog.text == ""


def test_what_a_project_does_not_need_ends():
    stopping = threading.Event()
    Keeper(0.001, lambda _: None, "never").keep(None, stopping)
    assert not stopping.is_set()


def test_a_log_that_can_not_be_sealed_keeps_no_other_from_it(stack, monkeypatch, caplog):
    for name in ("predictions.a", "predictions.b", "other"):
        stack.collection.create_topic(name)
    sealed = []

    def seal(topic):
        if topic == "predictions.a":
            raise ConflictError("it was made anew")
        sealed.append(topic)

    monkeypatch.setattr(stack.audit, "seal", seal)
    keeping._seals(stack)()
    assert sealed == ["predictions.b"]
    assert "predictions.a could not be sealed" in caplog.text
