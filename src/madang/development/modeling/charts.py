"""Charts of a dataset by its name, as Vega-Lite: JupyterLab draws it by itself, offline.

What is drawn is aggregated by the processing component first, so that a chart holds at most some
thousand numbers however large the dataset is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.stack import Stack

_MEDIA_TYPE = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"  # its name; nothing is fetched
_BINS = 40
_MOMENTS = 200


class Chart:
    """A chart that notebooks draw; `spec` is its Vega-Lite."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = {"$schema": _SCHEMA, "width": 480, "height": 260, **spec}

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {_MEDIA_TYPE: self.spec, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<chart: {self.spec['title']}, {len(self.spec['data']['values'])} marks>"


def chart(dataset: str, x: str = "", y: str = "", *, stack: Stack | None = None) -> Chart:
    """Draws a column of a dataset, or one over another.

    One column: a histogram of numbers, counts over time, or the most frequent values. Two: the mean
    of numbers over time or by category, or how often two numbers come together.

    Args:
        dataset: Its name.
        x: A column.
        y: A column of numbers.
        stack: The project; by default that of this folder.

    Raises:
        NotFoundError: There is no such dataset.
        InvalidInputError: There is no such column, or its type can't be drawn; lists the columns.
    """
    if stack is None:
        from madang.development.modeling.handover import stack as own

        stack = own()
    schema = stack.processing.query(f"SELECT * FROM {_quoted(dataset)} LIMIT 0").schema  # noqa: S608 - quoted
    kind = _kind(schema, dataset, x)
    if not y:
        return _of_one(stack, dataset, x, kind)
    if _kind(schema, dataset, y) != "number":
        raise InvalidInputError(f"{dataset}.{y} is {schema.field(y).type}; y takes numbers")
    return _of_two(stack, dataset, x, y, kind)


def _kind(schema: pa.Schema, dataset: str, column: str) -> str:
    if column not in schema.names:
        raise InvalidInputError(
            f"dataset {dataset} has no column {column!r}; its columns are: {', '.join(schema.names)}"
        )
    found = schema.field(column).type
    if pa.types.is_temporal(found) and not (pa.types.is_duration(found) or pa.types.is_time(found)):
        return "time"
    if pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found):
        return "number"
    if pa.types.is_nested(found):
        raise InvalidInputError(f"{dataset}.{column} is {found}, which has no chart")
    return "category"


def _of_one(stack: Stack, dataset: str, x: str, kind: str) -> Chart:
    if kind == "category":
        rows = _rows(
            stack, _BY_CATEGORY.format(value="count(*)", table=_quoted(dataset), x=_quoted(x))
        )
        return _bars(rows, f"{dataset}: {x}", x, "rows")
    names = {"table": _quoted(dataset), "x": _quoted(x)}
    if kind == "time":
        rows = _rows(stack, _OVER_TIME.format(**names, y="1", value="count(*)", bins=_MOMENTS))
        return _line(rows, f"{dataset}: rows over {x}", x, "rows")
    rows = _rows(stack, _HISTOGRAM.format(**names, bins=_BINS))
    spec = {
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "low", "bin": {"binned": True}, "type": "quantitative", "title": x},
            "x2": {"field": "high"},
            "y": {"field": "value", "type": "quantitative", "title": "rows"},
        },
    }
    return Chart({"title": f"{dataset}: {x}", "data": {"values": rows}, **spec})


def _of_two(stack: Stack, dataset: str, x: str, y: str, kind: str) -> Chart:
    names = {"table": _quoted(dataset), "x": _quoted(x), "y": _quoted(y)}
    if kind == "number":
        rows = _rows(stack, _TOGETHER.format(**names, bins=_BINS))
        return _heat(rows, f"{dataset}: {y} over {x}", x, y)
    if kind == "category":
        mean = _MEAN.format(y=names["y"])
        rows = _rows(stack, _BY_CATEGORY.format(value=mean, **names))
        return _bars(rows, f"{dataset}: mean of {y} by {x}", x, f"mean of {y}")
    rows = _rows(stack, _OVER_TIME.format(**names, value=_MEAN.format(y="y"), bins=_MOMENTS))
    return _line(rows, f"{dataset}: mean of {y} over {x}", x, f"mean of {y}")


def _bars(rows: list[dict[str, Any]], title: str, x: str, y: str) -> Chart:
    encoding = {
        "y": {"field": "label", "type": "nominal", "sort": None, "title": x},
        "x": {"field": "value", "type": "quantitative", "title": y},
    }
    return Chart({"title": title, "data": {"values": rows}, "mark": "bar", "encoding": encoding})


def _line(rows: list[dict[str, Any]], title: str, x: str, y: str) -> Chart:
    encoding = {
        "x": {"field": "moment", "type": "temporal", "title": x},
        "y": {"field": "value", "type": "quantitative", "title": y},
    }
    return Chart({"title": title, "data": {"values": rows}, "mark": "line", "encoding": encoding})


def _heat(rows: list[dict[str, Any]], title: str, x: str, y: str) -> Chart:
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x},
        "x2": {"field": "x2"},
        "y": {"field": "y", "type": "quantitative", "title": y},
        "y2": {"field": "y2"},
        "color": {"field": "value", "type": "quantitative", "title": "rows"},
    }
    return Chart({"title": title, "data": {"values": rows}, "mark": "rect", "encoding": encoding})


def _rows(stack: Stack, sql: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = stack.processing.query(sql).to_pylist()
    # A notebook's file is JSON, which has neither NaN nor infinity.
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_MEAN = "avg({y}::DOUBLE) FILTER (WHERE isfinite({y}::DOUBLE))"

_BY_CATEGORY = """
SELECT coalesce({x}::VARCHAR, '(null)') AS label, ({value})::DOUBLE AS value
FROM {table} GROUP BY {x} ORDER BY count(*) DESC, label LIMIT 30
"""

# The last bin holds the largest value; a column of one value is one bin.
_HISTOGRAM = """
WITH finite AS (SELECT {x}::DOUBLE AS v FROM {table} WHERE isfinite({x}::DOUBLE)),
span AS (SELECT min(v) AS low, max(v) AS high FROM finite),
binned AS (
    SELECT CASE WHEN high = low THEN 0
           ELSE least(floor((v - low) / (high - low) * {bins}), {bins} - 1) END AS bin,
           low, high FROM finite, span
)
SELECT any_value(low + bin * (high - low) / {bins}) AS low,
       any_value(low + (bin + 1) * (high - low) / {bins}) AS high, count(*) AS value
FROM binned GROUP BY bin ORDER BY bin
"""

_OVER_TIME = """
WITH timed AS (
    SELECT epoch_ms({x}::TIMESTAMP) AS ms, {y} AS y FROM {table} WHERE {x} IS NOT NULL
),
span AS (SELECT min(ms) AS low, greatest(max(ms) - min(ms), 1) AS width FROM timed)
SELECT any_value(low + least(floor((ms - low) / width * {bins}), {bins} - 1) * width / {bins})::BIGINT
           AS moment, ({value})::DOUBLE AS value
FROM timed, span GROUP BY least(floor((ms - low) / width * {bins}), {bins} - 1) ORDER BY moment
"""

_TOGETHER = """
WITH finite AS (
    SELECT {x}::DOUBLE AS a, {y}::DOUBLE AS b FROM {table}
    WHERE isfinite({x}::DOUBLE) AND isfinite({y}::DOUBLE)
),
span AS (
    SELECT min(a) AS alow, greatest(max(a) - min(a), 1e-300) AS awide,
           min(b) AS blow, greatest(max(b) - min(b), 1e-300) AS bwide FROM finite
),
binned AS (
    SELECT least(floor((a - alow) / awide * {bins}), {bins} - 1) AS i,
           least(floor((b - blow) / bwide * {bins}), {bins} - 1) AS j, span.* FROM finite, span
)
SELECT any_value(alow + i * awide / {bins}) AS x, any_value(alow + (i + 1) * awide / {bins}) AS x2,
       any_value(blow + j * bwide / {bins}) AS y, any_value(blow + (j + 1) * bwide / {bins}) AS y2,
       count(*) AS value
FROM binned GROUP BY i, j ORDER BY i, j
"""
