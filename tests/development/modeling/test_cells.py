from __future__ import annotations

import linecache
import math
import random
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


def defined(namespace, source):
    """What a cell of the notebook defines."""
    names = {**namespace, "__name__": "__main__"}
    exec(compile(source, "<cell>", "exec"), names)
    namespace.update(names)


def test_a_class_of_the_notebook_counts_for_the_cache(cells, stack, namespace):
    for number in (1, 2):
        defined(namespace, f"class Base:\n    def get(self): return self.n\n    n = {number}")
        defined(
            namespace,
            "class Made(Base):\n    @property\n    def twice(self): return 2 * self.get()",
        )
        result = run(cells, stack, "use", "y = Made().twice", (), ["y"])
        assert result.run.steps[0].status == "SUCCEEDED"
        assert namespace["y"] == 2 * number
    again = run(cells, stack, "use", "y = Made().twice", (), ["y"])
    assert again.run.steps[0].status == "CACHED"


@pytest.mark.parametrize(
    ("helper", "reader"),
    [
        ("def f(): return data.sum()", "f"),
        ("def g(): return data.sum()\ndef f(): return g()", "g"),
        ("def f(): return [x + data for x in range(2)]", "f"),
        ("class f:\n    @staticmethod\n    def g(): return data", "f"),
        ("class f:\n    @property\n    def g(self): return data", "f"),
        ("class g:\n    def h(self): return data\nclass f(g): pass", "g"),
    ],
)
def test_data_does_not_come_in_through_the_notebooks_functions(
    cells, stack, namespace, helper, reader
):
    namespace["data"] = np.arange(3)
    defined(namespace, helper)
    message = rf"{reader} reads the variable data \(ndarray\); hand it over as an argument"
    with pytest.raises(InvalidInputError, match=message):
        run(cells, stack, "s", "y = f()", (), ["y"])
    assert stack.pipelines.list() == []


def test_a_method_of_a_list_is_data(cells, stack, namespace):
    namespace["find"] = [1, 2].index
    with pytest.raises(InvalidInputError, match=r"reads the variable find"):
        run(cells, stack, "s", "y = find(2)", (), ["y"])


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('y = """a\n  b\n\nc"""', "a\n  b\n\nc"),
        ('n = 2\ny = f"""a\n{n}\n  b"""', "a\n2\n  b"),
        ("y = ('a'\n'b')", "ab"),
        ("y = 'a\u2028b'", "a\u2028b"),
        ("if True:\n\ty = 'tab'", "tab"),
        ("match 3:\n    case y: pass", 3),
        ("# a comment\ny = 1 + \\\n  2  # another", 3),
    ],
)
def test_a_cell_gives_what_it_gives_without_the_magic(cells, stack, namespace, source, value):
    run(cells, stack, "s", source, (), ["y"])
    assert namespace["y"] == value


def test_names_that_are_given_twice_or_used_within(cells, stack, namespace):
    namespace |= {"self": 1, "function": 2}
    run(cells, stack, "s", "y = self + function", ["self", "self", "function"], ["y"])
    assert namespace["y"] == 3
    run(cells, stack, "nothing", "# only a comment")


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
        ("y = 1\nreturn y", [], ["y"], "line 2: 'return' outside function"),
        ("y = 1\nfrom math import *", [], ["y"], r"line 2: import \* only allowed at module level"),
        ("def g():\n    y = 1\ng()", [], ["y"], "the cell does not set y"),
        ("y = s(1)", [], ["y"], "the cell reads s, which would be the step itself"),
        ("y = 1", [], ["None"], "'None' is no name of Python"),
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


def test_what_the_notebooks_functions_need_is_saved_with_them(stack):
    notebook = write_notebook(
        stack.root,
        "import math\ndef root(x): return math.sqrt(x)\n"
        'def double(x):\n    text = """a\n   b"""\n    return 2 * root(x) + len(text)',
        "%%step make --out y\ny = double(4)",
        "%madang save pipelines/flow.py",
    )
    stack.modeling.execute(notebook)
    command = [sys.executable, "-m", "madang.cli", "--project", str(stack.root), "run", "flow"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "result = 10.0" in done.stdout


def test_what_has_no_name_to_import_is_not_saved(cells, stack, namespace):
    namespace["f"] = random.random
    run(cells, stack, "s", "y = f()", (), ["y"])
    with pytest.raises(InvalidInputError, match="f can't be imported by a name of its own"):
        cells.save(stack, "pipelines/flow.py")
    assert not (stack.root / "pipelines" / "flow.py").exists()


def test_a_decorator_of_the_notebook_is_missed(cells, stack, namespace):
    source = "@twice\ndef f(x): return x\n"
    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    namespace["twice"] = lambda function: function
    defined(namespace, source)
    run(cells, stack, "s", "y = f(1)", (), ["y"])
    with pytest.raises(InvalidInputError, match="the notebook's functions need twice"):
        cells.save(stack, "pipelines/flow.py")


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
