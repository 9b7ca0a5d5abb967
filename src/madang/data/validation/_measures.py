"""Checks about the whole table: what is counted in each part, how parts add up, what is then wrong.

Whatever can be is counted, not estimated: a quantile lies between two bounds if few enough values
lie beyond them, and a distribution is compared by the counts in the reference's own bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from madang.data.validation._expressions import below, beyond, equal, named
from madang.data.validation.bins import Bins, cumulated, distances
from madang.data.validation.contract import Check

State = dict[str, Any]

MIN_ROWS = 500
"""Fewer values than this are not judged by `distribution`, unless the check says otherwise."""


@dataclass(frozen=True)
class Against:
    """What a check compares with: a distribution, or a number of rows (`None`: there is none)."""

    bins: Bins | None = None
    rows: int | None = None


def measure(check: Check, type: pa.DataType | None, against: Against) -> dict[str, pl.Expr]:
    """What a check asks of some rows, each value by its name."""
    if check.kind in ("row_count", "volume"):
        return {}
    column = named(str(check.column))
    if check.kind == "mean":
        whole = type is not None and pa.types.is_integer(type)
        # Exact for integers, as a text because it may have more than 64 bits.
        total = column.cast(pl.Int128).sum().cast(pl.String) if whole else column.sum()
        return {"count": column.count(), "sum": total}
    if check.kind == "freshness":
        return {"newest_us": column.max().dt.timestamp("us")}
    if check.kind == "max_null_fraction":
        return {"nulls": column.null_count()}
    if type is None:
        raise ValueError(f"{check.kind} needs a column")
    if check.kind == "quantile":
        asked = {"count": column.count()}
        if "min" in check.arguments:
            asked["below"] = beyond(column, type, check.arguments["min"], low=True).sum()
        if "max" in check.arguments:
            asked["above"] = beyond(column, type, check.arguments["max"], low=False).sum()
        return asked
    return _counted(column, type, against.bins)


def _counted(column: pl.Expr, type: pa.DataType, bins: Bins | None) -> dict[str, pl.Expr]:
    if bins is None:
        raise ValueError("a distribution needs a reference")
    if pa.types.is_floating(type):
        column = column.filter(column.is_finite())
    asked = {"count": column.count()}
    if not bins.values:
        # Up to each edge: counts that differ by one bin.
        asked |= {str(i): below(column, type, edge).sum() for i, edge in enumerate(bins.edges)}
    else:
        asked |= {str(i): equal(column, type, value).sum() for i, value in enumerate(bins.values)}
    return asked


def merged(kind: str, one: State, other: State) -> State:
    """The state of two parts together."""
    if not one or not other:
        return one or other
    if kind == "freshness":
        times = [part["newest_us"] for part in (one, other) if part["newest_us"] is not None]
        return {"newest_us": max(times, default=None)}
    if kind == "mean":
        total: Any = _number(one["sum"]) + _number(other["sum"])
        return {
            "count": one["count"] + other["count"],
            "sum": str(total) if isinstance(one["sum"], str) else total,
        }
    return {name: (one[name] or 0) + (other[name] or 0) for name in one}


def _number(total: Any) -> Any:
    return int(total) if isinstance(total, str) else total


def judge(check: Check, state: State, rows: int, now_us: int, against: Against) -> tuple[bool, str]:
    """Whether the rows pass, and what was found; a check that can't be judged says so and passes."""
    arguments = check.arguments
    if check.kind == "row_count":
        low, high = arguments.get("min", 0), arguments.get("max", math.inf)
        return _told(low <= rows <= high, f"found {rows} rows")
    if check.kind == "volume":
        return _volume(arguments, rows, against.rows)
    if check.kind == "max_null_fraction":
        share = state.get("nulls", 0) / rows if rows else 0.0
        return _told(share <= arguments["max"], f"{share:.4g} of the values are null")
    if check.kind == "freshness":
        newest = state.get("newest_us")
        if newest is None:
            return False, "there is no time at all"
        age = (now_us - newest) / 1e6
        return _told(age <= arguments["max_age_seconds"], f"the newest is {age:.0f} s old")
    if not state.get("count") and check.kind != "distribution":
        return False, "there is no value at all"
    if check.kind == "mean":
        low, high = arguments.get("min", -math.inf), arguments.get("max", math.inf)
        mean = _number(state["sum"]) / state["count"]
        return _told(low <= mean <= high, f"found {mean:.6g}")
    if check.kind == "quantile":
        return _quantile(arguments, state)
    return _distribution(arguments, state, against.bins)


def _told(ok: bool, text: str) -> tuple[bool, str]:  # noqa: FBT001 - the answer itself
    return ok, "" if ok else text


def _volume(arguments: Mapping[str, Any], rows: int, wanted: int | None) -> tuple[bool, str]:
    if wanted is None:
        return True, "not judged: there is no version before this one"
    if wanted == 0:
        return True, "not judged: there were no rows before"
    ratio = rows / wanted
    low, high = arguments.get("min_ratio", 0), arguments.get("max_ratio", math.inf)
    return _told(low <= ratio <= high, f"found {rows} rows, {ratio:.4g} times {wanted}")


def _quantile(arguments: Mapping[str, Any], state: State) -> tuple[bool, str]:
    """The quantile is the least value up to which at least the share q of all values lies.

    It is not below `min` if less than q lie below `min`, nor above `max` if q lie up to `max`.
    """
    q, count = arguments["q"], state["count"]
    # At q = 0 the quantile is the least value.
    rank = max(1, math.ceil(round(q * count, 9)))
    found = []
    if "min" in arguments and state["below"] >= rank:
        found.append(f"{state['below']} of {count} values are below {arguments['min']}")
    if "max" in arguments and count - state["above"] < rank:
        found.append(f"{state['above']} of {count} values are above {arguments['max']}")
    return not found, "; ".join(found)


def _distribution(
    arguments: Mapping[str, Any], state: State, bins: Bins | None
) -> tuple[bool, str]:
    if bins is None:
        raise ValueError("a distribution needs a reference")
    least = arguments.get("min_rows", MIN_ROWS)
    count = state.get("count", 0) or 0
    if count < least or count == 0:
        return True, f"not judged: {count} values, and at least {max(least, 1)} are asked for"
    if sum(bins.counts) == 0:
        return True, "not judged: the reference has no values"
    found = distances(bins.counts, counts_of(state, bins), ordered=not bins.values)
    limits = [
        (name, arguments[f"max_{name}"])
        for name in ("psi", "ks", "js")
        if f"max_{name}" in arguments
    ]
    text = ", ".join(f"{name} {found[name]:.4g}" for name, _ in limits if name in found)
    return _told(all(found.get(name, math.inf) <= limit for name, limit in limits), text)


def counts_of(state: State, bins: Bins) -> list[int]:
    """The counts in the reference's bins."""
    told = [int(state[str(index)] or 0) for index in range(len(bins.edges or bins.values))]
    if bins.values:
        return [*told, int(state["count"]) - sum(told)]
    return cumulated(told, int(state["count"]))
