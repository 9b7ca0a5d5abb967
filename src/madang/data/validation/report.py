"""Reports of a validation for people and programs: a page of text, a page of HTML, JSON.

Their size depends on the columns and the checks, not on the rows; a page's has a limit as well.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from madang.data.validation._display import as_json
from madang.data.validation._rules import title
from madang.data.validation.contract import Check, CheckResult, Report

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_PLOT_WIDTH, _PLOT_HEIGHT = 120, 28
_CELL_CHARACTERS = 300
_CHECKS_BYTES = 1_500_000
_COLUMNS_BYTES = 3_000_000


def status(result: CheckResult) -> str:
    """`ok`, or what the failure did: `blocked`, `quarantined` or `warned`."""
    if result.ok:
        return "ok"
    return {"block": "blocked", "quarantine": "quarantined", "warn": "warned"}[
        result.check.severity
    ]


def verdict(report: Report) -> str:
    """The outcome in a sentence."""
    if report.blocked:
        return "Blocked: a check that blocks failed, so nothing should be written."
    if report.quarantined:
        share = 100 * report.quarantined / report.rows
        return f"{report.quarantined:,} of {report.rows:,} rows set aside ({share:.3g} %)."
    if any(not result.ok for result in report.results):
        return "All rows are valid; some checks warn."
    return "All rows are valid."


def outcome(report: Report) -> str:
    """The outcome in a word: `valid`, `warned`, `quarantined` or `blocked`."""
    if report.blocked:
        return "blocked"
    if report.quarantined:
        return "quarantined"
    return "valid" if all(result.ok for result in report.results) else "warned"


def from_dict(document: Mapping[str, Any]) -> Report:
    """The report that `to_dict` wrote; values that JSON has no word for stay texts."""
    results = tuple(
        CheckResult(
            Check(one["kind"], one["column"], one["severity"], one["arguments"]),
            one["rows"],
            one["failed"],
            tuple(one["examples"]),
            one["message"],
        )
        for one in document["checks"]
    )
    return Report(
        document["dataset"],
        document["rows"],
        document["valid"],
        document["quarantined"],
        results,
        document["statistics"],
        document["contract"],
        tuple(document["references"]),
    )


def to_dict(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "dataset": report.dataset,
        "contract": report.contract,
        "references": list(report.references),
        "rows": report.rows,
        "valid": report.valid,
        "quarantined": report.quarantined,
        "blocked": report.blocked,
        "outcome": outcome(report),
        "verdict": verdict(report),
        "checks": [
            {
                "check": title(result.check),
                "kind": result.check.kind,
                "column": result.check.column,
                "severity": result.check.severity,
                "arguments": {k: _json(v) for k, v in result.check.arguments.items()},
                "rows": result.rows,
                "failed": result.failed,
                "status": status(result),
                "examples": [_json(example) for example in result.examples],
                "message": result.message,
            }
            for result in report.results
        ],
        "statistics": {name: dict(values) for name, values in report.statistics.items()},
    }


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(item) for item in value]
    return as_json(value)


def to_text(report: Report) -> str:
    """The report for a terminal: the checks that failed, and a line of figures for each column."""
    passed = sum(result.ok for result in report.results)
    counts = f"{report.rows:,} rows, {report.valid:,} valid, {report.quarantined:,} quarantined"
    lines = [
        f"{_line(report.dataset)}: {verdict(report)}",
        f"{counts}; {passed} of {len(report.results)} checks passed",
    ]
    if report.contract:
        against = ", ".join([report.contract.removeprefix("contract:"), *report.references])
        lines.append(f"by contract {_line(against, 200)}")
    failed = sorted(
        (result for result in report.results if not result.ok),
        key=lambda r: ("block", "quarantine", "warn").index(r.check.severity),
    )
    if failed:
        rows = [[status(r), f"{r.failed:,}", title(r.check), _found(r)] for r in failed]
        lines += ["", *_table(["status", "failed", "check", "found"], rows, right={1})]
    if report.statistics:
        rows = [_figures(name, values) for name, values in report.statistics.items()]
        heads = ["column", "type", "nulls", "min", "mean", "max", "distinct", "shape"]
        lines += ["", *_table(heads, rows, right={2, 3, 4, 5, 6})]
    return "\n".join(lines) + "\n"


def _found(result: CheckResult) -> str:
    examples = ", ".join(_shown(example) for example in result.examples[:3])
    return "; ".join(part for part in (result.message, examples) if part)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "null" if value is None else str(value)


def _figures(name: str, values: Mapping[str, Any]) -> list[str]:
    nulls = values["nulls"] / values["rows"] if values["rows"] else 0.0
    figures = [_shown(values[key]) if key in values else "" for key in ("min", "mean", "max")]
    counts = values.get("histogram", {}).get("counts", [])
    sampled = "~" if values["sample_rows"] < values["rows"] else ""
    distinct = f"{sampled}{values['distinct']:,}"
    shape = _bars(counts) if counts else _frequent(values)
    return [name, values["type"], f"{nulls:.3g}" if nulls else "", *figures, distinct, shape]


def _frequent(values: Mapping[str, Any]) -> str:
    return ", ".join(_shown(value) for value, _ in values["top"][:4])


def _bars(counts: Sequence[int]) -> str:
    most = max(counts)
    # What is not empty must not look empty.
    return "".join(_BARS[-(-count * 8 // most)] for count in counts)


def _line(text: str, width: int = _WIDTH) -> str:
    """The text in one line without anything that a terminal would obey, cut to the width."""
    if len(text) > width:
        text = text[: width - 1] + "…"
    return "".join("�" if unicodedata.category(c)[0] == "C" else c for c in text)


def _table(heads: list[str], rows: list[list[str]], right: set[int]) -> list[str]:
    cells = [heads, *[[_line(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    cells.insert(1, ["─" * width for width in widths])
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def to_html(report: Report) -> str:
    """The report as one page of less than 5 MB that needs nothing else: no script, no font, no request.

    Long texts are cut. Where there are too many checks or columns for a page, those that failed
    come first, and the page says how many more there are; `to_dict` has all of them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("madang.data.validation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"shown": _cell, "plot_width": _PLOT_WIDTH, "plot_height": _PLOT_HEIGHT}
    rows: Any = environment.get_template("report_rows.html.j2").module
    order = {"blocked": 0, "quarantined": 1, "warned": 2, "ok": 3}
    results = sorted(report.results, key=lambda result: order[status(result)])
    checks, checks_shown = _within(
        _CHECKS_BYTES,
        ((result.ok, rows.check(_check_cells(result))) for result in results),
    )
    columns, columns_shown = _within(
        _COLUMNS_BYTES,
        (
            (True, rows.column(_cut(name), values, _plot(values)))
            for name, values in report.statistics.items()
        ),
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        dataset=_cut(report.dataset),
        contract=_cut(", ".join([report.contract.removeprefix("contract:"), *report.references])),
        verdict=verdict(report),
        passed=sum(result.ok for result in report.results),
        failing=[row for ok, row in checks if not ok],
        passing=[row for ok, row in checks if ok],
        checks_left_out=len(results) - checks_shown,
        columns=[row for _, row in columns],
        columns_left_out=len(report.statistics) - columns_shown,
        sample_rows=max((v["sample_rows"] for v in report.statistics.values()), default=0),
    )


def _within(
    limit_bytes: int, rows: Iterable[tuple[bool, Any]]
) -> tuple[list[tuple[bool, Any]], int]:
    """The first rows that have a place, and how many they are."""
    found: list[tuple[bool, Any]] = []
    size = 0
    for ok, row in rows:
        size += len(row.encode("utf-8", "replace"))
        if size > limit_bytes:
            break
        found.append((ok, row))
    return found, len(found)


def _check_cells(result: CheckResult) -> dict[str, Any]:
    return {
        "status": status(result),
        "title": _cut(title(result.check)),
        "rows": result.rows,
        "failed": result.failed,
        "found": _cut(_found(result)),
    }


def _cell(value: Any) -> str:
    return _cut(_shown(value))


def _cut(text: str) -> str:
    return _line(text, _CELL_CHARACTERS)


def _plot(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bars of a small chart: of a histogram, or of the most frequent values."""
    histogram = values.get("histogram")
    if histogram:
        counts, edges = histogram["counts"], histogram["edges"]
        names = [f"{_shown(edges[i])} to {_shown(edges[i + 1])}" for i in range(len(counts))]
    else:
        counts = [count for _, count in values["top"]]
        names = [_shown(value) for value, _ in values["top"]]
    if not counts:
        return []
    step = _PLOT_WIDTH / len(counts)
    most = max(counts)
    bars = []
    for index, (name, count) in enumerate(zip(names, counts, strict=True)):
        height = max(1.0, _PLOT_HEIGHT * count / most) if count else 0.0
        bars.append(
            {
                "x": round(index * step, 2),
                "y": round(_PLOT_HEIGHT - height, 2),
                "width": round(max(step - 1, 0.5), 2),
                "height": round(height, 2),
                "title": f"{_cut(name)[:80]}: {count:,}",
            }
        )
    return bars
