from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from madang.development.modeling._cells import Cells
from madang.errors import InvalidInputError, StepFailedError
from madang.testing.modeling import write_notebook


@pytest.fixture
def namespace():
    return {"math": math, "np": np}


@pytest.fixture
def cells(namespace):
    return Cells(namespace)


def run(cells, stack, name, source, inputs=(), outputs=(), *, cache=True):
    return cells.run(stack, name, inputs, outputs, source, cache=cache)


def test_a_cell_is_a_recorded_step(cells, stack, namespace):
    namespace["raw"] = pa.table({"x": [1, 2, 3]})
    result = run(
        cells, stack, "count", "n = raw.num_rows\nroot = math.sqrt(n)", ["raw"], ["n", "root"]
    )
    assert (namespace["n"], namespace["root"]) == (3, math.sqrt(3))
    recorded = stack.pipelines.get(result.run.id)
    assert (recorded.pipeline, recorded.reason) == ("count", "in a notebook")
    assert [a.kind for a in recorded.steps[0].outputs] == ["json", "json"]
    assert repr(result).startswith("step count: ")


def test_an_unchanged_cell_comes_from_the_cache(cells, stack, namespace):
    namespace["x"], source = 2, "y = x + 1"
    assert run(cells, stack, "add", source, ["x"], ["y"]).run.steps[0].status == "SUCCEEDED"
    del namespace["y"]
    again = run(cells, stack, "add", source, ["x"], ["y"])
    assert again.run.steps[0].status == "CACHED"
    assert "from the cache" in repr(again)
    assert namespace["y"] == 3
    forced = run(cells, stack, "add", source, ["x"], ["y"], cache=False)
    assert forced.run.steps[0].status == "SUCCEEDED"
    namespace["x"] = 5
    assert run(cells, stack, "add", source, ["x"], ["y"]).run.steps[0].status == "SUCCEEDED"
    assert namespace["y"] == 6


def test_a_function_of_the_notebook_counts_for_the_cache(cells, stack, namespace):
    def define(source):
        names = {"__name__": "__main__"}
        exec(compile(source, "<cell>", "exec"), names)
        namespace["f"] = names["f"]

    define("def f(x): return x + 1")
    run(cells, stack, "use", "y = f(1)", (), ["y"])
    define("def f(x): return x + 2")
    assert run(cells, stack, "use", "y = f(1)", (), ["y"]).run.steps[0].status == "SUCCEEDED"
    assert namespace["y"] == 3


@pytest.mark.parametrize(
    ("frame", "kind"),
    [("", pa.Table), ("arrow", pa.Table), ("polars", pl.DataFrame), ("pandas", pd.DataFrame)],
)
def test_tables_come_back_as_asked(cells, stack, namespace, frame, kind):
    namespace["raw"] = pl.DataFrame({"x": [1, 2]})
    output = f"out:{frame}" if frame else "out"
    run(cells, stack, "keep", "out = raw.with_columns(y=1)", ["raw"], [output])
    assert type(namespace["out"]) is kind


@pytest.mark.parametrize(
    ("source", "inputs", "outputs", "message"),
    [
        ("y = data + 1", [], ["y"], r"reads the variable data \(int\); say so: %%step s --in data"),
        ("y = nothing", [], ["y"], "reads nothing, which is not there"),
        ("y = 1", ["gone"], ["y"], "no variable gone; run the cell that makes it first"),
        ("y = 1", [], ["z"], "the cell does not set z"),
        ("y = (", [], ["y"], "line 1: .*plain Python, without magics"),
        ("%time y = 1", [], ["y"], "plain Python, without magics"),
        ("y = 1", [], ["y:spark"], "loaded as arrow, pandas, polars, not as 'spark'"),
        ("y = 1", [], ["a b"], "'a b' is no name of Python"),
        ("def g():\n    return data\ny = g()", [], ["y"], "reads the variable data"),
    ],
)
def test_what_is_refused_before_anything_runs(
    cells, stack, namespace, source, inputs, outputs, message
):
    namespace["data"] = 1
    with pytest.raises(InvalidInputError, match=message):
        run(cells, stack, "s", source, inputs, outputs)
    assert stack.pipelines.list() == []
    assert "y" not in namespace


def test_a_cell_that_raises_sets_nothing(cells, stack, namespace):
    with pytest.raises(StepFailedError, match="ZeroDivisionError"):
        run(cells, stack, "bad", "y = 1 / 0", (), ["y"])
    assert "y" not in namespace


def test_the_steps_become_a_pipeline_that_gives_the_same(stack):
    notebook = write_notebook(
        stack.root,
        "import pyarrow as pa\nimport pyarrow.compute as pc\n"
        "def half(x):\n    return x / 2\n"
        "n = 10",
        "%%step make --in n --out rows\nrows = pa.table({'x': list(range(n))})",
        "%%step total --in rows --out mean\nmean = half(pc.mean(rows['x']).as_py())",
        "%madang save pipelines/flow.py",
        "from madang.development.modeling import output\noutput('mean', mean)",
    )
    run = stack.modeling.execute(notebook)
    assert stack.pipelines.load(run.outputs["mean"]) == 2.25
    text = (stack.root / "pipelines" / "flow.py").read_text()
    assert "def half(x):" in text
    assert "def flow(n: int = 10):" in text
    command = [sys.executable, "-m", "madang.cli", "--project", str(stack.root), "run", "flow"]
    done = subprocess.run([*command, "-p", "n=100"], capture_output=True, text=True, check=True)
    assert "result = 24.75" in done.stdout


def test_what_can_not_be_saved(cells, stack, namespace):
    with pytest.raises(InvalidInputError, match="no cell was run as a step yet"):
        cells.save(stack, "pipelines/flow.py")
    namespace["raw"] = pa.table({"x": [1]})
    run(cells, stack, "count", "n = raw.num_rows", ["raw"], ["n"])
    with pytest.raises(InvalidInputError, match=r"raw \(Table\) is made by no step"):
        cells.save(stack, "pipelines/flow.py")
    for file in ("flow.py", "../flow.py", "pipelines/flow.txt"):
        with pytest.raises(InvalidInputError, match=r"write pipelines/NAME\.py"):
            cells.save(stack, file)
    (stack.root / "pipelines").mkdir(exist_ok=True)
    (stack.root / "pipelines" / "taken.py").write_text("")
    with pytest.raises(InvalidInputError, match="is there already"):
        cells.save(stack, "pipelines/taken.py")
