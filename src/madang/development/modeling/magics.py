"""The extension of IPython: `%madang`, `%sql`, `%%step`.

Loaded by `madang lab` in each kernel; elsewhere by `%load_ext madang.development.modeling.magics`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from madang.development.modeling.handover import stack, start_noting
from madang.errors import MadangError

_LIMIT = 50


class Table:
    """Rows that a notebook shows as a table; nothing in them is taken for HTML."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.columns = tuple(columns)
        self.rows = [tuple(row) for row in rows]

    def __repr__(self) -> str:
        return "\n".join("\t".join(map(str, row)) for row in (self.columns, *self.rows))

    def _repr_html_(self) -> str:
        def line(cells: Sequence[Any], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)

        head = f"<thead><tr>{line(self.columns, 'th')}</tr></thead>"
        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        return f"<table>{head}<tbody>{body}</tbody></table>"


def _runs() -> Table:
    from madang.cli.output import format_us

    rows = [
        (run.id[:12], run.pipeline, run.status, format_us(run.started_us), run.reason)
        for run in stack().pipelines.list(limit=_LIMIT)
    ]
    return Table(["run", "pipeline", "status", "started (UTC)", "reason"], rows)


def _experiments() -> Table:
    rows = [
        (run.id[:12], run.experiment, run.name, run.status, _figures(run.metrics))
        for run in stack().experiments.runs(limit=_LIMIT)
    ]
    return Table(["run", "experiment", "name", "status", "metrics"], rows)


def _datasets() -> Table:
    storage = stack().storage
    rows = [(name, storage.versions(name, limit=1)[0].version) for name in storage.tables()]
    return Table(["dataset", "version"], rows)


def _models() -> Table:
    registry = stack().registry
    rows = [
        (v.name, v.version, ", ".join(v.aliases), v.format, _figures(v.evaluation))
        for name in registry.models()
        for v in registry.versions(name)
    ]
    return Table(["model", "version", "aliases", "format", "evaluation"], rows)


def _endpoints() -> Table:
    rows = [
        (e.name, ", ".join(f"{a.model}@{a.version} ({a.weight:g})" for a in e.arms), e.revision)
        for e in stack().serving.endpoints()
    ]
    return Table(["endpoint", "versions", "revision"], rows)


def _topics() -> Table:
    rows = [(topic.name, topic.partitions) for topic in stack().collection.topics()]
    return Table(["topic", "partitions"], rows)


def _figures(values: Any) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items())


_TABLES: dict[str, Callable[[], Table]] = {
    "datasets": _datasets,
    "endpoints": _endpoints,
    "experiments": _experiments,
    "models": _models,
    "runs": _runs,
    "topics": _topics,
}


@magics_class
class MadangMagics(Magics):
    """What `%madang` and `%%step` do, on the kernel's project."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        from madang.development.modeling._cells import Cells

        self._cells = Cells(shell.user_ns)

    @line_magic
    def madang(self, line: str) -> Any:
        """`%madang runs|experiments|datasets|models|endpoints|topics`, `chart`, `save`."""
        what, *rest = line.split() or [""]
        if what == "chart" and 1 <= len(rest) <= 3:
            from madang.development.modeling.charts import chart

            return _told(lambda: chart(*rest, stack=stack()))
        if what == "save" and len(rest) == 1:
            return _told(lambda: self._cells.save(stack(), rest[0]))
        if what in _TABLES and not rest:
            return _told(_TABLES[what])
        raise UsageError(
            f"%madang takes {', '.join(_TABLES)}; chart DATASET [X [Y]]; save pipelines/NAME.py"
        )

    @line_cell_magic
    def sql(self, line: str, cell: str | None = None) -> Any:
        """`%sql SELECT …` over the project's datasets and views; an Arrow table."""
        return _told(lambda: stack().processing.query(line if cell is None else cell))

    @magic_arguments()
    @argument("name", help="the step's name")
    @argument("--in", dest="inputs", nargs="+", default=[], help="variables that the cell reads")
    @argument(
        "--out",
        dest="outputs",
        nargs="+",
        default=[],
        help="variables that it makes; NAME:polars and NAME:pandas give frames",
    )
    @argument("--no-cache", action="store_true", help="run it again though nothing changed")
    @cell_magic
    def step(self, line: str, cell: str) -> Any:
        """Runs the cell as a step of a pipeline: recorded, and from the cache when unchanged."""
        given = parse_argstring(self.step, line)

        def run() -> Any:
            return self._cells.run(
                stack(), given.name, given.inputs, given.outputs, cell, cache=not given.no_cache
            )

        return _told(run)


def _told(work: Callable[[], Any]) -> Any:
    """An expected error is one line for the reader, not a traceback through our code."""
    try:
        return work()
    except MadangError as error:
        raise UsageError(f"{type(error).__name__}: {error}") from error


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by IPython."""
    start_noting()
    shell.register_magics(MadangMagics)
