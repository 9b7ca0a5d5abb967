"""Charts as inline SVG that take their colors from the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 38
_POINTS = 300


def thinned(values: Array, most: int = _POINTS) -> Array:
    """Numbers of at most `most` evenly spread items, first and last among them."""
    return np.unique(np.linspace(0, len(values) - 1, most).astype(int))


def short(value: float) -> str:
    """A number for an axis or a label."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


class Plot:
    """A chart over two numeric axes.

    Colors are CSS classes of the page: `a` and `b` for the two series, `m` for what is muted.
    """

    def __init__(
        self, x: Point, y: Point, across: str, up: str, size: tuple[int, int] = (360, 270)
    ) -> None:
        self._x, self._y = _range(x), _range(y)
        self._across, self._up = across, up
        self._width, self._height = size
        self._parts: list[str] = []

    def _at(self, x: float, y: float) -> str:
        (low, high), (under, over) = self._x, self._y
        left = _LEFT + (x - low) / (high - low) * (self._width - _LEFT - _RIGHT)
        top = _TOP + (over - y) / (over - under) * (self._height - _TOP - _BOTTOM)
        return f"{left:.1f},{top:.1f}"

    def line(self, points: Iterable[Point], kind: str = "a", *, dashed: bool = False) -> Plot:
        """A line through points."""
        path = " ".join(self._at(x, y) for x, y in points)
        extra = ' stroke-dasharray="4 4"' if dashed else ""
        self._parts.append(f'<polyline class="l {kind}" points="{path}"{extra}/>')
        return self

    def band(self, points: Sequence[tuple[float, float, float]], kind: str = "a") -> Plot:
        """The area between (x, low, high)."""
        there = [self._at(x, low) for x, low, _ in points]
        back = [self._at(x, high) for x, _, high in reversed(points)]
        self._parts.append(f'<polygon class="f {kind}" points="{" ".join(there + back)}"/>')
        return self

    def dots(self, points: Iterable[Point], kind: str = "a", radius: float = 3.5) -> Plot:
        """A dot for each point; all in one path, which keeps the page small."""
        path = "".join(f"M{self._at(x, y)}h0" for x, y in points)
        self._parts.append(f'<path class="d {kind}" stroke-width="{2 * radius:g}" d="{path}"/>')
        return self

    def spans(self, spans: Iterable[tuple[float, float, float]], kind: str = "a") -> Plot:
        """A vertical line for each (x, low, high)."""
        path = "".join(f"M{self._at(x, low)}L{self._at(x, high)}" for x, low, high in spans)
        self._parts.append(f'<path class="l {kind}" d="{path}"/>')
        return self

    def bars(self, edges: Array, heights: Array, kind: str = "a") -> Plot:
        """A bar for each pair of edges."""
        path = ""
        for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
            corners = (self._at(low, 0), self._at(low, height), self._at(high, height))
            path += f"M{corners[0]}L{corners[1]}L{corners[2]}L{self._at(high, 0)}Z"
        self._parts.append(f'<path class="f {kind}" d="{path}"/>')
        return self

    def mark(self, x: float, text: str) -> Plot:
        """A vertical line over the whole height, and its name."""
        self.line([(x, self._y[0]), (x, self._y[1])], "m", dashed=True)
        left, top = self._at(x, self._y[1]).split(",")
        end = "end" if float(left) > self._width / 2 else "start"
        shift = -4 if end == "end" else 4
        self._parts.append(
            f'<text x="{float(left) + shift:.1f}" y="{float(top) + 10:.1f}" '
            f'text-anchor="{end}">{escape(text)}</text>'
        )
        return self

    def svg(self, names: Sequence[str] | None = None) -> str:
        """The chart. `names` stand for 0, 1, … on the axis across."""
        bottom, right = self._height - _BOTTOM, self._width - _RIGHT
        grid, texts = "", ""
        for y in _ticks(*self._y):
            top = float(self._at(self._x[0], y).split(",")[1])
            grid += f"M{_LEFT},{top:.1f}H{right}"
            texts += (
                f'<text x="{_LEFT - 5}" y="{top + 3.5:.1f}" text-anchor="end">{short(y)}</text>'
            )
        marks = [(float(i), n) for i, n in enumerate(names)] if names else [
            (x, short(x)) for x in _ticks(*self._x)
        ]  # fmt: skip
        for x, name in marks:
            left = self._at(x, self._y[0]).split(",")[0]
            texts += f'<text x="{left}" y="{bottom + 14}" text-anchor="middle">{escape(name[:12])}</text>'
        middle = (_TOP + bottom) / 2
        return (
            f'<svg viewBox="0 0 {self._width} {self._height}" role="img" '
            f'aria-label="{escape(self._up)} over {escape(self._across)}">'
            f'<path class="g" d="{grid}"/>{"".join(self._parts)}{texts}'
            f'<text class="t" x="{(_LEFT + right) / 2}" y="{self._height - 6}" '
            f'text-anchor="middle">{escape(self._across)}</text>'
            f'<text class="t" x="11" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 11 {middle})">{escape(self._up)}</text></svg>'
        )


def lanes(
    rows: Sequence[tuple[str, float, float, float]], across: str, *, zero: bool = True
) -> str:
    """A named line for each (name, value, low, high): a dot, with a whisker or a bar from zero.

    Args:
        rows: From the top down.
        across: What the axis says.
        zero: Whether bars begin at 0; otherwise each lane is a dot and its interval.
    """
    left, width, step = 190, 560, 22
    values = [v for _, *three in rows for v in three if math.isfinite(v)]
    low, high = _range(
        (min([*values, 0.0] if zero else values), max([*values, 0.0] if zero else values))
    )
    height = step * len(rows) + 40

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 20)

    body = "".join(
        f'<path class="g" d="M{at(x):.1f},4V{height - 34}"/>'
        f'<text x="{at(x):.1f}" y="{height - 20}" text-anchor="middle">{short(x)}</text>'
        for x in _ticks(low, high)
    )
    for number, (name, value, under, over) in enumerate(rows):
        y = step * number + 15
        cut = name if len(name) <= 32 else f"{name[:31]}…"
        body += f'<text class="n" x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(cut)}</text>'
        if zero:
            start, end = sorted((at(0.0), at(value)))
            body += (
                f'<rect class="f a" x="{start:.1f}" y="{y - 7}" width="{max(end - start, 1):.1f}" '
                'height="14" rx="2"/>'
            )
        body += f'<path class="l a" d="M{at(under):.1f},{y}H{at(over):.1f}"/>'
        body += f'<path class="d a" stroke-width="7" d="M{at(value):.1f},{y}h0"/>'
    return (
        f'<svg class="wide" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(across)}">'
        f'{body}<text class="t" x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">'
        f"{escape(across)}</text></svg>"
    )


def swarm(rows: Sequence[tuple[str, Array, Array]], across: str) -> str:
    """A lane of dots for each (name, positions, levels): levels from 0 (low) to 1 (high) color them.

    Dots at the same position are stacked around the lane's middle.
    """
    left, width, step = 190, 560, 28
    every = np.concatenate([positions for _, positions, _ in rows])
    low, high = _range((min(0.0, float(every.min())), max(0.0, float(every.max()))))
    height = step * len(rows) + 40

    def at(value: Array | float) -> Any:
        return left + (value - low) / (high - low) * (width - left - 20)

    body = f'<path class="g" d="M{at(0.0):.1f},4V{height - 34}"/>' + "".join(
        f'<text x="{at(x):.1f}" y="{height - 20}" text-anchor="middle">{short(x)}</text>'
        for x in _ticks(low, high)
    )
    for number, (name, positions, levels) in enumerate(rows):
        y = step * number + 16
        cut = name if len(name) <= 32 else f"{name[:31]}…"
        body += f'<text class="n" x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(cut)}</text>'
        places, offsets = at(positions), np.zeros(len(positions))
        taken: dict[int, int] = {}
        for i in np.argsort(places):
            column = int(places[i] // 4)
            count = taken[column] = taken.get(column, 0) + 1
            offsets[i] = min(count // 2 * 2.2, 11) * (1 if count % 2 else -1)
        shades = np.clip((levels * 4.999).astype(int), 0, 4)
        for shade in range(5):
            path = "".join(
                f"M{x:.1f},{y + o:.1f}h0"
                for x, o in zip(places[shades == shade], offsets[shades == shade], strict=True)
            )
            if path:
                body += f'<path class="d s{shade}" stroke-width="4" d="{path}"/>'
    return (
        f'<svg class="wide" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(across)}">'
        f'{body}<text class="t" x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">'
        f"{escape(across)}</text></svg>"
    )


def _range(ends: Point) -> Point:
    low, high = float(ends[0]), float(ends[1])
    if high > low:
        return low, high
    return low - 0.5, low + 0.5


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers between two ends (Heckbert, Graphics Gems, 1990)."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]
