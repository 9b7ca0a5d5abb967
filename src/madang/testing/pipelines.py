"""The contract suite of `workflow.pipelines`.

class TestMyPipelines(PipelinesContract):
    pass        # over the fixture `stack`, a project whose `pipelines` is the engine under test
"""

from __future__ import annotations

import importlib
import sys
import textwrap
import uuid

import pytest

from madang.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StepFailedError,
    StepTimeoutError,
)
from madang.workflow.pipelines import Status


def define(stack, source: str):
    """Writes a module of the project and imports it; `marks()` in it leaves traces in a file."""
    name = f"flow_{uuid.uuid4().hex[:8]}"
    return redefine(stack, name, source)


def redefine(stack, name: str, source: str):
    """Writes the module `name` anew and imports it as a new process would."""
    prelude = """
        import os, time
        from pathlib import Path
        from typing import Any
        from madang import pipeline, step, Stack

        def mark(name):
            with open(os.environ["MARKS"], "a") as file:
                file.write(name + "\\n")
    """
    (stack.root / f"{name}.py").write_text(textwrap.dedent(prelude) + textwrap.dedent(source))
    if str(stack.root) not in sys.path:
        sys.path.insert(0, str(stack.root))
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def _marks(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path / "marks.txt"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # a file rewritten within a second
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("flow_"):
            del sys.modules[name]


@pytest.fixture
def marks(tmp_path):
    """What steps marked so far, in order."""

    def read():
        file = tmp_path / "marks.txt"
        return file.read_text().split() if file.exists() else []

    return read


class PipelinesContract:
    """Over the fixture `stack`."""

    def test_a_chain_hands_values_on(self, stack):
        flow = define(
            stack,
            """
            @step
            def one() -> int:
                return 1

            @step
            def add(x: int, y: int = 10) -> int:
                return x + y

            @pipeline
            def flow(y: int = 5):
                return add(add(one()), y)
            """,
        ).flow
        run = flow.run(stack, y="7")
        assert run.status is Status.SUCCEEDED
        assert stack.pipelines.load(run.results["result"]) == 18
        assert [s.name for s in run.steps] == ["one", "add", "add_2"]
        assert all(s.attempts == 1 and s.ended_us >= s.started_us for s in run.steps)
        assert run.params == {"y": 7}
        stored = stack.pipelines.get(run.id[:20])
        assert stored == run
        assert [r.id for r in stack.pipelines.list()] == [run.id]

    def test_an_unchanged_step_is_a_cache_hit_and_a_changed_one_is_not(self, stack, marks):
        source = """
            FACTOR = 2

            def helper(x):
                return x * FACTOR

            @step
            def make(n: int) -> int:
                mark("make")
                return n

            @step
            def use(x: int) -> int:
                mark("use")
                return helper(x)

            @pipeline
            def flow(n: int = 1):
                return use(make(n))
            """
        module = define(stack, source)
        name = module.__name__
        module.flow.run(stack)
        again = module.flow.run(stack)
        assert [s.status for s in again.steps] == [Status.CACHED, Status.CACHED]
        assert stack.pipelines.load(again.results["result"]) == 2
        assert marks() == ["make", "use"]
        module.flow.run(stack, n=3)  # another argument
        assert marks() == ["make", "use"] * 2
        stack.scheduling.close()  # worker processes keep the modules that they imported
        changed = redefine(stack, name, source.replace("FACTOR = 2", "FACTOR = 5"))
        run = changed.flow.run(stack)  # a constant that a helper of the second step reads
        assert [s.status for s in run.steps] == [Status.CACHED, Status.SUCCEEDED]
        assert stack.pipelines.load(run.results["result"]) == 5
        stack.scheduling.close()
        commented = redefine(stack, name, source.replace("FACTOR = 2", "FACTOR = 5  # five\n"))
        run = commented.flow.run(stack)
        assert [s.status for s in run.steps] == [Status.CACHED, Status.CACHED]

    def test_a_step_that_must_not_be_cached_is_repeated(self, stack, marks):
        flow = define(
            stack,
            """
            @step(cache=False)
            def now() -> float:
                mark("now")
                return time.time()

            @pipeline
            def flow():
                return now()
            """,
        ).flow
        flow.run(stack)
        flow.run(stack)
        assert marks() == ["now", "now"]

    def test_a_dataset_that_was_read_is_part_of_the_cache(self, stack, marks):
        import pyarrow as pa

        stack.storage.write("numbers", pa.table({"x": [1, 2]}))
        flow = define(
            stack,
            """
            @step
            def total(stack: Stack) -> int:
                mark("total")
                return sum(stack.storage.read("numbers").read_all()["x"].to_pylist())

            @pipeline
            def flow():
                return total()
            """,
        ).flow
        first = flow.run(stack)
        assert "dataset:numbers@0" in first.steps[0].inputs
        assert flow.run(stack).steps[0].status is Status.CACHED
        stack.storage.write("numbers", pa.table({"x": [10]}))
        assert stack.pipelines.load(flow.run(stack).results["result"]) == 13
        assert marks() == ["total", "total"]

    def test_feature_definitions_that_were_loaded_are_part_of_the_cache(self, stack):
        file = stack.root / "features" / "views.py"
        file.parent.mkdir(exist_ok=True)
        text = (
            "from madang.data.features import FeatureView\n"
            'v = FeatureView("v", ("k",), "t", ("x",), sql="SELECT k, t, x FROM numbers")\n'
        )
        file.write_text(text)
        flow = define(
            stack,
            """
            @step
            def load(stack: Stack) -> str:
                return stack.features.load_definitions()["v"]

            @pipeline
            def flow():
                return load()
            """,
        ).flow
        first = stack.pipelines.load(flow.run(stack).results["result"])
        assert flow.run(stack).steps[0].status is Status.CACHED
        file.write_text(text.replace("FROM numbers", "FROM others"))
        assert stack.pipelines.load(flow.run(stack).results["result"]) != first

    def test_branches_run_beside_each_other(self, stack):
        # Each waits for the other's file: run one after the other, the first would time out.
        flow = define(
            stack,
            """
            @step(cache=False, timeout_seconds=60)
            def meet(mine: str, other: str) -> str:
                folder = Path(os.environ["MARKS"]).parent
                (folder / mine).write_text("here")
                while not (folder / other).exists():
                    time.sleep(0.01)
                return mine

            @step
            def join(names: list[str]) -> str:
                return "+".join(names)

            @pipeline
            def flow():
                return join([meet("left", "right"), meet("right", "left")])
            """,
        ).flow
        run = flow.run(stack)
        assert stack.pipelines.load(run.results["result"]) == "left+right"

    def test_a_failed_attempt_is_repeated(self, stack, marks):
        flow = define(
            stack,
            """
            @step(retries=2, retry_delay_seconds=0.01)
            def unsteady() -> int:
                mark("try")
                tries = Path(os.environ["MARKS"]).read_text().count("try")
                if tries < 3:
                    raise ValueError(f"try {tries}")
                return tries

            @pipeline
            def flow():
                return unsteady()
            """,
        ).flow
        run = flow.run(stack)
        assert run.steps[0].attempts == 3
        assert stack.pipelines.load(run.results["result"]) == 3

    def test_a_failure_is_told_and_only_what_needs_it_is_skipped(self, stack, marks):
        flow = define(
            stack,
            """
            @step
            def bad() -> int:
                raise ValueError("the reason")

            @step
            def good() -> int:
                mark("good")
                return 1

            @step
            def after(x: int) -> int:
                mark("after")
                return x

            @pipeline
            def flow():
                return after(bad()), after(good())
            """,
        ).flow
        with pytest.raises(StepFailedError, match=r"step 'bad' failed after 1 attempt.*the reason"):
            flow.run(stack)
        run = stack.pipelines.get(stack.pipelines.list()[0].id)
        assert run.status is Status.FAILED
        states = {s.name: s.status for s in run.steps}
        assert states == {
            "bad": Status.FAILED,
            "after": Status.SKIPPED,
            "good": Status.SUCCEEDED,
            "after_2": Status.SUCCEEDED,
        }
        assert sorted(marks()) == ["after", "good"]
        assert "Traceback" in run.steps[0].error
        (logged,) = stack.logs.search("bad failed", fields={"run": run.id}, level="ERROR")
        assert logged.fields["step"] == "bad"
        assert "the reason" in logged.message
        assert set(run.results) == {"result_2"}

    def test_a_step_that_takes_too_long_is_killed_with_its_children(self, stack):
        flow = define(
            stack,
            """
            import subprocess

            @step(timeout_seconds=1)
            def slow() -> int:
                child = subprocess.Popen(["sleep", "600"])
                (Path(os.environ["MARKS"]).parent / "pid").write_text(str(child.pid))
                time.sleep(600)
                return 1

            @pipeline
            def flow():
                return slow()
            """,
        ).flow
        with pytest.raises(StepTimeoutError, match="took longer than 1 s"):
            flow.run(stack)
        pid = int((stack.root / "pid").read_text())
        assert _ended(pid)

    def test_a_step_that_takes_too_much_memory_is_killed(self, stack):
        flow = define(
            stack,
            """
            @step(memory_bytes=200 << 20)
            def hungry() -> int:
                held = []
                while True:
                    held.append(bytearray(10 << 20))
                    time.sleep(0.02)

            @pipeline
            def flow():
                return hungry()
            """,
        ).flow
        with pytest.raises(StepFailedError, match="its limit is 200 MiB"):
            flow.run(stack)

    def test_a_step_whose_process_dies_is_told(self, stack):
        flow = define(
            stack,
            """
            @step(retries=1)
            def crash() -> int:
                os.kill(os.getpid(), 9)

            @pipeline
            def flow():
                return crash()
            """,
        ).flow
        with pytest.raises(
            StepFailedError, match=r"after 2 attempt.*its process ended by signal SIGKILL"
        ):
            flow.run(stack)

    def test_a_failed_run_is_resumed_without_repeating_finished_steps(self, stack, marks):
        module = define(
            stack,
            """
            @step(cache=False)
            def first() -> int:
                mark("first")
                return 1

            @step(cache=False)
            def second(x: int) -> int:
                mark("second")
                if not (Path(os.environ["MARKS"]).parent / "ready").exists():
                    raise RuntimeError("not yet")
                return x + 1

            @pipeline
            def flow():
                return second(first())
            """,
        )
        with pytest.raises(StepFailedError):
            module.flow.run(stack)
        failed = stack.pipelines.list()[0]
        (stack.root / "ready").touch()
        run = stack.pipelines.resume(module.flow, failed.id)
        assert run.id == failed.id
        assert run.status is Status.SUCCEEDED
        assert stack.pipelines.load(run.results["result"]) == 2
        assert marks() == ["first", "second", "second"]
        assert stack.pipelines.get(run.id).status is Status.SUCCEEDED
        assert stack.pipelines.resume(module.flow, run.id).status is Status.SUCCEEDED

    def test_several_outputs(self, stack):
        flow = define(
            stack,
            """
            @step
            def split(n: int) -> tuple[int, str]:
                return n // 10, str(n % 10)

            @step
            def join(a: int, b: str) -> str:
                return f"{a}/{b}"

            @pipeline
            def flow():
                tens, ones = split(42)
                return {"text": join(tens, ones), "tens": tens}
            """,
        ).flow
        run = flow.run(stack)
        assert stack.pipelines.load(run.results["text"]) == "4/2"
        assert stack.pipelines.load(run.results["tens"]) == 4

    def test_values_of_each_kind_arrive_unchanged(self, stack):
        flow = define(
            stack,
            """
            import numpy as np
            import polars as pl
            import pyarrow as pa

            @step
            def make() -> tuple[pa.Table, pl.DataFrame, np.ndarray, bytes, dict, str, None]:
                big = pa.table({"x": np.arange(10_000), "s": [str(i) for i in range(10_000)]})
                return (big, pl.DataFrame({"y": [1.5, None]}), np.eye(3), b"bytes",
                        {"auc": 0.9}, "text", None)

            @step
            def check(a: pl.DataFrame, b: pa.Table, c: np.ndarray, d: bytes, e: dict, f: str, g: Any) -> str:
                assert isinstance(a, pl.DataFrame) and a["x"].sum() == 49_995_000
                assert isinstance(b, pa.Table) and b["y"].to_pylist() == [1.5, None]
                assert c.tolist() == np.eye(3).tolist()
                assert (d, e, f, g) == (b"bytes", {"auc": 0.9}, "text", None)
                return "same"

            @pipeline
            def flow():
                made = make()
                return check(*made), *made
            """,
        ).flow
        run = flow.run(stack)
        assert stack.pipelines.load(run.results["result_1"]) == "same"
        kinds = [a.kind for a in run.steps[0].outputs]
        assert kinds == ["table", "table", "array", "bytes", "metrics", "text", "json"]
        assert run.steps[0].outputs[0].inline is None  # a large one is in the storage

    def test_what_cannot_be_handed_on_is_refused(self, stack):
        flow = define(
            stack,
            """
            @step
            def make() -> Any:
                return object()

            @pipeline
            def flow():
                return make()
            """,
        ).flow
        with pytest.raises(StepFailedError, match=r"can't hand on a builtins.object"):
            flow.run(stack)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return one() + 1", "has no value yet"),
            ("return add(one(), z=3)", "step 'add': got an unexpected keyword argument 'z'"),
            ("return add(text())", "parameter 'x' takes int, and .* is str"),
            ("return 5", "must return outputs of its steps"),
        ],
    )
    def test_a_wrong_graph_is_refused_before_anything_runs(self, stack, body, message):
        module = define(
            stack,
            f"""
            @step
            def one() -> int:
                return 1

            @step
            def text() -> str:
                return "a"

            @step
            def add(x: int, y: int = 1) -> int:
                return x + y

            @pipeline
            def flow():
                {body}
            """,
        )
        with pytest.raises(InvalidInputError, match=message):
            module.flow.run(stack)
        assert stack.pipelines.list() == []

    def test_wrong_parameters_are_refused(self, stack):
        module = define(
            stack,
            """
            @step
            def same(x: int) -> int:
                return x

            @pipeline
            def flow(x: int):
                return same(x)
            """,
        )
        with pytest.raises(InvalidInputError, match="needs the parameter 'x'"):
            module.flow.run(stack)
        with pytest.raises(InvalidInputError, match="has no parameter y; it has: x"):
            module.flow.run(stack, y=1)
        with pytest.raises(InvalidInputError, match="'x' = 'many'"):
            module.flow.run(stack, x="many")

    def test_the_ledger_tells_where_a_result_comes_from(self, stack):
        flow = define(
            stack,
            """
            @step
            def one() -> int:
                return 1

            @step
            def add(x: int) -> int:
                return x + 1

            @pipeline
            def flow():
                return add(one())
            """,
        ).flow
        run = stack.pipelines.run(flow, reason="a test")
        lines = stack.ledger.origin(run.results["result"].ref)
        subjects = [line.subject for line in lines]
        assert f"step:{run.id}/add" in subjects
        assert f"step:{run.id}/one" in subjects
        start = next(line for line in lines if line.kind == "pipeline.start")
        assert start.data["reason"] == "a test"
        assert start.inputs == (run.code,)
        assert stack.ledger.verify().ok

    def test_unknown_runs(self, stack):
        with pytest.raises(NotFoundError, match="no run 'nothing'"):
            stack.pipelines.get("nothing")

    def test_a_run_of_another_pipeline_is_not_resumed(self, stack):
        module = define(
            stack,
            """
            @step
            def bad() -> int:
                raise ValueError("no")

            @pipeline
            def flow():
                return bad()

            @pipeline
            def other():
                return bad()
            """,
        )
        run = stack.pipelines.run(module.flow)
        with pytest.raises(InvalidInputError, match="one of 'flow'"):
            stack.pipelines.resume(module.other, run.id)

    def test_a_running_run_is_not_resumed(self, stack):
        module = define(
            stack,
            """
            @step(process="shared", cache=False)
            def inner(stack: Stack) -> str:
                run = stack.pipelines.list()[0]
                try:
                    stack.pipelines.resume(flow, run.id)
                except Exception as error:
                    return type(error).__name__ + ": " + str(error)

            @pipeline
            def flow():
                return inner()
            """,
        )
        run = module.flow.run(stack)
        text = stack.pipelines.load(run.results["result"])
        assert text.startswith(ConflictError.__name__)
        assert "is still running" in text


def _ended(pid: int) -> bool:
    """Whether a process is gone, or is a zombie that its parent has yet to collect."""
    import time

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False
