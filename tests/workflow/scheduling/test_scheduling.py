"""The local pool of processes against the contract, and what is its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import madang
from madang.errors import ConfigurationError
from madang.ledger import is_alive, process_name
from madang.testing.scheduling import STEPS, SchedulingContract, until
from madang.workflow.scheduling import Argument, StepTask


@pytest.fixture
def stack(tmp_path):
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write('[stack]\nscheduling = "local://?slots=2"\n')
    with madang.open(tmp_path) as opened:
        yield opened


class TestLocal(SchedulingContract):
    @pytest.fixture
    def stack(self, stack):
        return stack

    def test_a_process_is_kept_for_the_next_step(self, run, task, values):
        (first,), (second,) = values(run(task("where"))), values(run(task("where")))
        assert first == second


@pytest.mark.parametrize("slots", ["0", "-1", "x", "1.5", "²"])
def test_slots_that_are_none(tmp_path, slots):
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(f'[stack]\nscheduling = "local://?slots={slots}"\n')
    with (
        madang.open(tmp_path) as stack,
        pytest.raises(ConfigurationError, match="slots must be a positive number"),
    ):
        stack.scheduling.health()


def test_unknown_options_are_refused(tmp_path):
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write('[stack]\nscheduling = "local://?slot=2"\n')
    with madang.open(tmp_path) as stack, pytest.raises(ConfigurationError, match="slot"):
        stack.scheduling.health()


RUNNER = """
import sys, time
import madang
from madang.workflow.scheduling import Argument, StepTask

stack = madang.open(sys.argv[1])
arguments = {"name": Argument(value="running")}
stack.scheduling.submit(StepTask("t", "tasks", "with_child", arguments, 1, sys.argv[1]))
stack.scheduling.wait({"t"})
"""


def test_when_its_runner_is_killed_no_process_stays(stack):
    (stack.root / "tasks.py").write_text(textwrap.dedent(STEPS))
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(stack.root)])
    mark = stack.root / "running"
    until(lambda: mark.exists() or runner.poll() is not None)
    processes = [process_name(int(pid)) for pid in mark.read_text().split()]
    assert all(map(is_alive, processes))
    runner.kill()
    runner.wait()
    until(lambda: not any(map(is_alive, processes)))


HOLDS = """
import os

HELD = []

def hold(megabytes):
    block = bytearray(megabytes << 20)
    block[::4096] = b"1" * len(block[::4096])
    HELD.append(block)
    return os.getpid()
"""


def test_an_idle_process_that_holds_much_memory_ends_soon(stack, monkeypatch):
    monkeypatch.setattr("madang.workflow.scheduling.local._IDLE_SECONDS", 3600.0)
    (stack.root / "holds.py").write_text(HOLDS)
    found = {}
    for megabytes in (1, 300):
        arguments = {"megabytes": Argument(value=megabytes)}
        task = StepTask(str(megabytes), "holds", "hold", arguments, 1, str(stack.root))
        stack.scheduling.submit(task)
        (result,) = stack.scheduling.wait({task.id})
        found[megabytes] = process_name(int(result.outputs[0].inline))
        if megabytes == 1:
            assert is_alive(found[1])
    assert found[1] == found[300]  # a light one is kept for the next step
    until(lambda: not is_alive(found[300]))


# -- steps that no other process can import --------------------------------------------------------


def run_script(root, source, **options):
    return subprocess.run(
        [sys.executable, *options.pop("arguments", ["-"])], input=textwrap.dedent(source), cwd=root,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


NOTEBOOK = """
    import os
    from madang import pipeline, step

    {decorator}
    def where() -> int:
        return os.getpid()

    @pipeline
    def flow():
        return where()

    run = flow.run()
    import madang
    with madang.open() as stack:
        print(run.steps[0].process, stack.pipelines.load(run.results["result"]) == os.getpid())
"""


def test_a_step_of_a_main_without_a_file_runs_shared(stack):
    done = run_script(stack.root, NOTEBOOK.format(decorator="@step"))
    assert done.stdout == "shared True\n", done.stderr


def test_a_step_of_a_main_without_a_file_can_have_no_limits(stack):
    done = run_script(stack.root, NOTEBOOK.format(decorator="@step(timeout_seconds=5)"))
    assert done.returncode == 1
    assert (
        "InvalidInputError: step 'where' has limits, and no process of its own can import it: "
        "define it in a module or a script, not inside of a function or a notebook"
    ) in done.stderr


def test_a_step_of_a_script_runs_in_a_process_of_its_own(stack):
    script = stack.root / "script.py"
    body = textwrap.dedent(NOTEBOOK.format(decorator="@step(timeout_seconds=50)"))
    start, run, end = body.partition("run = flow.run()")
    script.write_text(
        start + "if __name__ == '__main__':\n" + textwrap.indent(run + end, "    ") + "\n"
    )
    done = run_script(stack.root, "", arguments=["script.py"])
    assert done.stdout == "own False\n", done.stderr


def test_a_script_that_starts_its_pipeline_when_imported_is_told(stack):
    (stack.root / "script.py").write_text(textwrap.dedent(NOTEBOOK.format(decorator="@step")))
    done = run_script(stack.root, "", arguments=["script.py"])
    assert done.returncode == 1
    assert "put the start under: if __name__ == '__main__':" in done.stderr


def test_a_step_inside_of_a_function_runs_shared(stack):
    from madang import pipeline, step
    from madang.errors import InvalidInputError

    def make(**settings):
        @step(**settings)
        def inner() -> int:
            import os

            return os.getpid()

        @pipeline
        def flow():
            return inner()

        return flow

    import os

    run = make().run(stack)
    assert run.steps[0].process == "shared"
    assert stack.pipelines.load(run.results["result"]) == os.getpid()
    with pytest.raises(InvalidInputError, match="has limits, and no process of its own"):
        make(memory_bytes=1 << 30).run(stack)
