"""Charts of an evaluation as inline SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_SIZE, _PAD = 240, 30
_POINTS = 200


def roc(false_positive: Array, true_positive: Array) -> str:
    """True positive rate over false positive rate."""
    chosen = np.unique(np.linspace(0, len(false_positive) - 1, _POINTS).astype(int))
    curve = list(zip(false_positive[chosen], true_positive[chosen], strict=True))
    return _frame(
        _line([(0, 0), (1, 1)], "#bbb") + _line(curve, "#1f6feb"),
        "false positive rate",
        "true positive rate",
    )


def calibration(points: Sequence[tuple[float, float]]) -> str:
    """Observed rate over predicted probability; on the diagonal, what is said is what happens."""
    dots = "".join(_dot(x, y, 3.5) for x, y in points)
    return _frame(_line([(0, 0), (1, 1)], "#bbb") + _line(points, "#1f6feb") + dots,
                  "predicted probability", "observed rate")  # fmt: skip


def histogram(scores: Array, truth: Array) -> str:
    """How the scores of both outcomes are spread, in 20 bins of each outcome's own share."""
    bars = ""
    edges = np.linspace(0, 1, 21)
    shares = []
    for outcome in (False, True):
        counts = np.histogram(np.clip(scores[truth == outcome], 0, 1), edges)[0]
        shares.append(counts / max(1, counts.sum()))
    top = float(np.max(shares)) or 1.0
    for share, color in zip(shares, ("#999", "#1f6feb"), strict=True):
        for edge, height in zip(edges[:-1], share / top, strict=True):
            bars += _bar(edge, 0.05, float(height), color)
    return _frame(bars, "score (blue: yes, grey: no)", "share")


def scatter(predicted: Array, truth: Array) -> str:
    """Observed over predicted values of at most 500 rows."""
    chosen = np.linspace(0, len(truth) - 1, min(500, len(truth))).astype(int)
    low = float(min(predicted[chosen].min(), truth[chosen].min()))
    span = float(max(predicted[chosen].max(), truth[chosen].max())) - low or 1.0
    dots = "".join(
        _dot((p - low) / span, (t - low) / span, 1.5)
        for p, t in zip(predicted[chosen], truth[chosen], strict=True)
    )
    ends = f"{low:.4g}", f"{low + span:.4g}"
    return _frame(_line([(0, 0), (1, 1)], "#bbb") + dots, "predicted", "observed", ends)


def _at(x: float, y: float) -> tuple[float, float]:
    inner = _SIZE - 2 * _PAD
    return _PAD + x * inner, _SIZE - _PAD - y * inner


def _line(points: Iterable[tuple[float, float]], color: str) -> str:
    path = " ".join("{:.1f},{:.1f}".format(*_at(x, y)) for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def _dot(x: float, y: float, radius: float) -> str:
    left, top = _at(x, y)
    return f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius}" fill="#1f6feb"/>'


def _bar(x: float, width: float, height: float, color: str) -> str:
    left, top = _at(x, height)
    right, bottom = _at(x + width, 0)
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" fill="{color}" fill-opacity="0.55"/>'
    )


def _frame(content: str, across: str, up: str, ends: tuple[str, str] = ("0", "1")) -> str:
    middle, low, high = _SIZE / 2, _PAD, _SIZE - _PAD
    return (
        f'<svg viewBox="0 0 {_SIZE} {_SIZE}" role="img" font-size="10" fill="#555">'
        f'<rect x="{low}" y="{low}" width="{high - low}" height="{high - low}" fill="none" '
        f'stroke="#ddd"/>{content}'
        f'<text x="{middle}" y="{_SIZE - 6}" text-anchor="middle">{across}</text>'
        f'<text x="10" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 10 {middle})">{up}</text>'
        f'<text x="{low}" y="{high + 11}">{ends[0]}</text>'
        f'<text x="{high}" y="{high + 11}" text-anchor="end">{ends[1]}</text></svg>'
    )
