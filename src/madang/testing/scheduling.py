"""The contract suite of `workflow.scheduling`.

class TestMyScheduling(SchedulingContract):
    pass        # over the fixture `stack`, a project whose `scheduling` has two slots
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
import time
import uuid

import pytest

from madang.ledger import is_alive, process_name
from madang.workflow.pipelines.artifacts import load
from madang.workflow.scheduling import Argument, StepTask

STEPS = """
import os, signal, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent

def add(x, y=1):
    return x + y

def two():
    return 1, "b"

def where():
    return os.getpid()

def broken():
    raise ValueError("the reason")

def said(name):
    HERE.joinpath(name).write_text(str(os.getpid()))

def waits(name, release=None):
    said(name)
    while release is None or not HERE.joinpath(release).exists():
        time.sleep(0.01)
    return name

def with_child(name):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    HERE.joinpath(name + ".part").write_text(f"{os.getpid()} {child.pid}")
    HERE.joinpath(name + ".part").rename(HERE / name)
    child.wait()

def eats(megabytes):
    held = bytearray(megabytes << 20)
    for place in range(0, len(held), 4096):
        held[place] = 1
    time.sleep(600)

def child_eats(megabytes):
    code = f"x = bytearray({megabytes} << 20); x[::4096] = b'1' * len(x[::4096]); input()"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.PIPE)
    time.sleep(600)

def dies(how):
    os.kill(os.getpid(), how)

def leaves(code):
    os._exit(code)

def environment():
    return os.environ.get("MADANG_STEP_WORKER"), os.getcwd()
"""

MIB = 1 << 20


def until(condition, seconds=60):
    """Waits for a condition, or fails."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.01)
    return found


class SchedulingContract:
    """Over the fixture `stack`, a project whose scheduling has two slots."""

    @pytest.fixture
    def stack(self):
        raise pytest.UsageError("override the fixture `stack`")

    @pytest.fixture
    def task(self, stack):
        """Makes a task of a function in `STEPS`."""
        name = f"tasks_{uuid.uuid4().hex[:8]}"
        (stack.root / f"{name}.py").write_text(textwrap.dedent(STEPS))

        def task(function, *, outputs=1, timeout_seconds=None, memory_bytes=None, **arguments):
            return StepTask(
                id=uuid.uuid4().hex,
                module=name,
                function=function,
                arguments={key: Argument(value=value) for key, value in arguments.items()},
                outputs=outputs,
                root=str(stack.root),
                timeout_seconds=timeout_seconds,
                memory_bytes=memory_bytes,
            )

        return task

    @pytest.fixture
    def run(self, stack):
        """Runs one task to its end."""

        def run(task):
            stack.scheduling.submit(task)
            (result,) = stack.scheduling.wait({task.id}, 60)
            assert result.id == task.id
            return result

        return run

    @pytest.fixture
    def values(self, stack):
        """The values of a result."""

        def values(result):
            assert result.error == "", result.traceback
            return [load(artifact, lambda: stack.storage) for artifact in result.outputs]

        return values

    @pytest.fixture
    def running(self, stack):
        """Waits until a task said so by a file; returns the names of the processes in it."""

        def running(name):
            pids = until(lambda: (f := stack.root / name).exists() and f.read_text()).split()
            return [process_name(int(pid)) for pid in pids]

        return running

    # -- what a task gives -------------------------------------------------------------------------

    def test_a_result(self, run, task, values):
        assert values(run(task("add", x=2))) == [3]
        assert values(run(task("add", x=2, y=5))) == [7]
        assert values(run(task("two", outputs=2))) == [1, "b"]

    def test_a_task_runs_in_a_process_of_its_own_in_the_project(self, run, task, values, stack):
        assert values(run(task("where"))) != [os.getpid()]
        (found,) = values(run(task("environment")))
        assert found == ["1", str(stack.root)]

    def test_an_exception_is_a_result_with_its_traceback(self, run, task):
        result = run(task("broken"))
        assert (result.reason, result.error) == ("raised", "ValueError: the reason")
        assert 'raise ValueError("the reason")' in result.traceback
        assert result.outputs == ()

    def test_what_does_not_exist_is_told(self, run, task):
        result = run(task("no_such"))
        assert result.reason == "raised"
        assert "no_such" in result.error
        result = run(dataclasses.replace(task("add", x=1), module="no_such_module"))
        assert "No module named 'no_such_module'" in result.error

    def test_another_number_of_outputs_is_told(self, run, task):
        assert (
            "says that it returns 2 values, and returned int"
            in run(task("add", outputs=2, x=1)).error
        )

    def test_every_task_ends_in_exactly_one_result(self, stack, task, values):
        tasks = {t.id: n for n in range(20) for t in [task("add", x=n)]}
        for number in range(20):
            stack.scheduling.submit(
                dataclasses.replace(
                    task("add", x=number), id=next(i for i, n in tasks.items() if n == number)
                )
            )
        waiting, found = set(tasks), {}
        while waiting:
            for result in stack.scheduling.wait(waiting, 60):
                assert result.id in waiting
                found[result.id] = values(result)[0]
                waiting.remove(result.id)
        assert found == {key: number + 1 for key, number in tasks.items()}
        assert stack.scheduling.wait(set(tasks), 0.05) == []

    def test_waiting_ends_at_the_timeout(self, stack, task):
        assert stack.scheduling.wait(set(), None) == []
        waiting = task("waits", name="w", release="go")
        stack.scheduling.submit(waiting)
        assert stack.scheduling.wait({waiting.id}, 0.01) == []
        (stack.root / "go").touch()
        assert len(stack.scheduling.wait({waiting.id}, 60)) == 1

    # -- slots -------------------------------------------------------------------------------------

    def test_as_many_run_as_there_are_slots_and_others_wait(self, stack, task, running):
        assert stack.scheduling.slots == 2
        tasks = [task("waits", name=f"t{n}", release=f"go{n}") for n in range(4)]
        for one in tasks:
            stack.scheduling.submit(one)
        running("t0"), running("t1")
        assert stack.scheduling.wait({t.id for t in tasks}, 0.1) == []
        assert not (stack.root / "t2").exists()
        (stack.root / "go1").touch()
        (done,) = stack.scheduling.wait({t.id for t in tasks}, 60)
        assert done.id == tasks[1].id
        running("t2")
        assert not (stack.root / "t3").exists()
        for n in (0, 2, 3):
            (stack.root / f"go{n}").touch()
        left = {t.id for t in tasks} - {done.id}
        while left:
            left -= {result.id for result in stack.scheduling.wait(left, 60)}

    # -- limits ------------------------------------------------------------------------------------

    def test_a_timeout_ends_the_whole_process_tree(self, stack, task, running):
        slow = task("with_child", name="tree", timeout_seconds=3)
        stack.scheduling.submit(slow)
        processes = running("tree")
        (result,) = stack.scheduling.wait({slow.id}, 60)
        assert (result.reason, result.error) == ("timeout", "took longer than 3 s and was killed")
        until(lambda: not any(map(is_alive, processes)))

    def test_memory_above_the_limit_ends_it(self, run, task):
        result = run(task("eats", megabytes=300, memory_bytes=250 * MIB))
        assert result.reason == "memory"
        assert "MiB of memory and was killed; its limit is 250 MiB" in result.error

    def test_the_memory_of_children_counts(self, run, task):
        assert run(task("child_eats", megabytes=300, memory_bytes=250 * MIB)).reason == "memory"

    def test_within_its_limits_it_ends_well(self, run, task, values):
        done = run(task("add", x=1, timeout_seconds=60, memory_bytes=2000 * MIB))
        assert values(done) == [2]

    @pytest.mark.parametrize("how", ["KILL", "SEGV", "exit"])
    def test_death_is_a_result_and_the_next_task_runs(self, run, task, values, how):
        import signal

        if how == "exit":
            result = run(task("leaves", code=7))
            assert result.error == "its process ended with exit code 7"
        else:
            result = run(task("dies", how=int(signal.Signals[f"SIG{how}"])))
            assert result.error == f"its process ended by signal SIG{how}"
        assert result.reason == "died"
        assert values(run(task("add", x=1))) == [2]

    # -- cancelling and closing --------------------------------------------------------------------

    def test_cancel_kills_what_runs_and_forgets_what_waits(self, stack, task, running):
        tasks = [task("with_child", name=f"c{n}") for n in range(3)]
        for one in tasks:
            stack.scheduling.submit(one)
        processes = running("c0") + running("c1")
        stack.scheduling.cancel(tasks[2].id)
        (waiting,) = stack.scheduling.wait({tasks[2].id}, 60)
        assert (waiting.reason, waiting.error) == ("cancelled", "was cancelled")
        for one in tasks[:2]:
            stack.scheduling.cancel(one.id)
            (result,) = stack.scheduling.wait({one.id}, 60)
            assert result.reason == "cancelled"
        until(lambda: not any(map(is_alive, processes)))
        assert not (stack.root / "c2").exists()
        stack.scheduling.cancel(tasks[0].id)  # ended ones are left alone
        stack.scheduling.cancel("unknown")
        assert stack.scheduling.wait({t.id for t in tasks}, 0.05) == []

    def test_cancel_frees_the_slot(self, stack, task, running, values):
        for n in range(2):
            stack.scheduling.submit(blocking := task("waits", name=f"b{n}"))
            running(f"b{n}")
        stack.scheduling.submit(after := task("add", x=1))
        stack.scheduling.cancel(blocking.id)
        (result,) = stack.scheduling.wait({after.id}, 60)
        assert values(result) == [2]

    def test_close_kills_everything(self, stack, task, running):
        stack.scheduling.warm_up()
        stack.scheduling.submit(task("with_child", name="closed"))
        processes = running("closed")
        stack.scheduling.close()
        until(lambda: not any(map(is_alive, processes)))
        stack.scheduling.close()  # repeating it is safe

    def test_health(self, stack):
        assert stack.scheduling.health().ok
