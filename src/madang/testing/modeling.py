"""What every modeling engine promises, as tests.

class TestMyModeling(ModelingContract):
    @pytest.fixture
    def stack(self, tmp_path):
        ...  # an open Stack whose `modeling` is the engine
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from madang.development.modeling import Lab, Modeling
from madang.errors import ConflictError, InvalidInputError, NotFoundError, StepFailedError
from madang.stack import Stack

Write = Callable[..., str]


def write_notebook(root: Path, *cells: str, parameters: str = "", name: str = "work") -> str:
    """Writes `notebooks/NAME.ipynb` and returns its path in the project."""
    import nbformat

    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    if parameters:
        made.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return str(path.relative_to(root))


def asked(lab: Lab, path: str, token: str | None = None) -> int:
    """The HTTP status of a request with a token (default: the right one)."""
    headers = {"Authorization": f"token {lab.token if token is None else token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(lab.url + path, headers=headers)
        ) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code


class ModelingContract:
    @pytest.fixture
    def modeling(self, stack: Stack) -> Modeling:
        return stack.modeling

    # -- the lab --

    def test_a_lab_from_start_to_stop(self, modeling: Modeling) -> None:
        lab = modeling.start(port=0)
        try:
            assert lab.url.startswith("http://127.0.0.1:")
            assert lab.token not in repr(lab)
            assert asked(lab, "/api/kernels") == 200
            assert asked(lab, "/api/kernels", "wrong") == 403
            assert not modeling.wait(0.01)
            with pytest.raises(ConflictError, match="runs already"):
                modeling.start(port=0)
        finally:
            modeling.stop()
        assert modeling.wait(5)
        with pytest.raises(urllib.error.URLError):
            asked(lab, "/api/kernels")
        modeling.stop()

    # -- notebooks --

    def test_outputs_are_handed_on(self, stack: Stack, modeling: Modeling) -> None:
        notebook = write_notebook(
            stack.root,
            "import pyarrow as pa\nfrom madang.development.modeling import output",
            "output('auc', depth / 10)\noutput('auc', depth / 100)",
            "output('rows', pa.table({'x': [depth]}))",
            parameters="depth: int = 3",
        )
        before = (stack.root / notebook).read_bytes()
        run = modeling.execute(notebook, {"depth": 5})
        found = {name: stack.pipelines.load(artifact) for name, artifact in run.outputs.items()}
        assert found == {"auc": 0.05, "rows": pa.table({"x": [5]})}
        assert (stack.root / notebook).read_bytes() == before
        assert modeling.execute(notebook).outputs["auc"].inline == b"0.03"

    def test_tables_come_as_parameters(self, stack: Stack, modeling: Modeling) -> None:
        notebook = write_notebook(
            stack.root,
            "from madang.development.modeling import output\noutput('n', rows.num_rows)",
            parameters="rows = None",
        )
        run = modeling.execute(notebook, {"rows": pa.table({"x": list(range(7))})})
        assert run.outputs["n"].inline == b"7"

    def test_what_cells_use_and_make_is_noted(self, stack: Stack, modeling: Modeling) -> None:
        stack.storage.write("given", pa.table({"x": [1]}))
        notebook = write_notebook(
            stack.root,
            "import madang\nstack = madang.open()",
            "stack.storage.write('made', stack.storage.read('given'))",
        )
        notes = modeling.execute(notebook).notes
        assert notes.newest == {"dataset:given": "0"}
        assert "dataset:given@0" in notes.inputs
        assert "dataset:made@0" in notes.outputs

    def test_a_failing_cell_is_named(self, stack: Stack, modeling: Modeling) -> None:
        notebook = write_notebook(stack.root, "x = 1", "y = x / 0\nprint(y)", "z = 3")
        with pytest.raises(StepFailedError) as caught:
            modeling.execute(notebook)
        text = str(caught.value)
        assert text.startswith("cell 2 of work.ipynb failed: ZeroDivisionError: division by zero")
        assert "    y = x / 0" in text
        key = text.rpartition(" ")[2]
        assert b"ZeroDivisionError" in stack.storage.get(key)

    def test_a_cell_that_takes_too_long(self, stack: Stack, modeling: Modeling) -> None:
        notebook = write_notebook(stack.root, "import time\ntime.sleep(600)")
        began = time.monotonic()
        with pytest.raises(StepFailedError, match=r"cell 1 .*the notebook took longer than 1 s"):
            modeling.execute(notebook, timeout_seconds=1)
        assert time.monotonic() - began < 300

    def test_the_time_is_for_all_cells_together(self, stack: Stack, modeling: Modeling) -> None:
        cells = ["import time\ntime.sleep(1.2)"] * 3
        notebook = write_notebook(stack.root, *cells)
        with pytest.raises(StepFailedError, match=r"cell [12] .*took longer than 2 s"):
            modeling.execute(notebook, timeout_seconds=2)

    def test_parameters_come_as_between_steps(self, stack: Stack, modeling: Modeling) -> None:
        notebook = write_notebook(
            stack.root,
            "from madang.development.modeling import output\noutput('found', repr(found))",
            parameters="found = None",
        )
        given = {"a b": [(1, 2), None, True, 1.5, "'\"\\\n\u2028é"]}
        wanted = {"a b": [[1, 2], None, True, 1.5, "'\"\\\n\u2028é"]}
        run = modeling.execute(notebook, {"found": given})
        assert stack.pipelines.load(run.outputs["found"]) == repr(wanted)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([pa.table({"a": [1]})], "parameter 'found' holds Table; lists and mappings hold JSON"),
            ({1: 2}, "parameter 'found' holds a mapping whose keys are no texts"),
            ([b"x"], "parameter 'found' holds bytes"),
            ("\ud800", "parameter 'found' is text that is no Unicode"),
        ],
    )
    def test_what_no_parameter_can_hold(
        self, stack: Stack, modeling: Modeling, value: Any, message: str
    ) -> None:
        notebook = write_notebook(stack.root, "1", parameters="found = None")
        with pytest.raises(InvalidInputError, match=message):
            modeling.execute(notebook, {"found": value})

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"deep": 1}, "has no parameter deep; it has: depth, rate"),
            ({"depth": "3"}, "parameter 'depth' is int, found '3'"),
            ({"depth": True}, "parameter 'depth' is int, found True"),
            ({"rate": "fast"}, "parameter 'rate' is float, found 'fast'"),
        ],
    )
    def test_bad_parameters(
        self, stack: Stack, modeling: Modeling, parameters: dict[str, Any], message: str
    ) -> None:
        notebook = write_notebook(stack.root, "1", parameters="depth: int = 3\nrate = 0.5")
        with pytest.raises(InvalidInputError, match=message):
            modeling.execute(notebook, parameters)

    def test_what_is_no_notebook(self, stack: Stack, modeling: Modeling) -> None:
        write_notebook(stack.root, "1")
        with pytest.raises(NotFoundError, match=r"no notebook nope.ipynb.*notebooks/work.ipynb"):
            modeling.execute("nope.ipynb")
        with pytest.raises(NotFoundError, match="in the project"):
            modeling.execute("../outside.ipynb")
        for content in ("", "{}", "[1]", "not json", '{"cells": 3, "nbformat": 4}'):
            (stack.root / "bad.ipynb").write_text(content)
            with pytest.raises(InvalidInputError, match=r"bad\.ipynb is no Jupyter notebook"):
                modeling.execute("bad.ipynb")
