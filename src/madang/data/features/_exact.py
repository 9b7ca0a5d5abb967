"""Sums of floats over slices without rounding: the same numbers give the same sum, in any order.

Every float is a sum of whole multiples of powers of 2**32; these digits are added as integers, which
is exact, and only the result is rounded: to 106 bits, and then to a float. So prefix sums can be subtracted, a window keeps
nothing of what has left it, and a sum does not depend on where the history before it begins. The idea
is that of a superaccumulator: Kulisch, Computer Arithmetic and Validity (2013), chapter 8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from madang.errors import InvalidInputError

_BITS = 32
_MASK = (1 << _BITS) - 1
_MAX_ROWS = 1 << 30
_SPLIT = 134_217_729.0  # 2**27 + 1: Dekker, Numerische Mathematik 18 (1971)
# Below this part of n * sum(x**2) a variance is the rounding error of 106 bits, and not a variance.
_NOISE = 2.0**-100


class Double(NamedTuple):
    """Numbers as unevaluated sums of two floats each, (windows,): 106 bits."""

    high: np.ndarray
    low: np.ndarray


class ExactSums:
    """Sums of slices of a column.

    Args:
        parts: Arrays of float64, (rows,) each, whose sum by row is the column.

    Raises:
        InvalidInputError: There are more than 2**30 rows.
    """

    def __init__(self, *parts: np.ndarray) -> None:
        if len(parts[0]) > _MAX_ROWS:
            raise InvalidInputError(f"{len(parts[0])} events are too many at once; at most 2**30")
        digits: dict[int, np.ndarray] = {}
        for part in parts:
            _add_digits(part, digits)
        # From the highest: what is added last is the smallest.
        self._prefixes = {power: _prefix(digits[power]) for power in sorted(digits, reverse=True)}
        self._special = _special(parts)

    def between(self, first: np.ndarray, end: np.ndarray) -> Double:
        """The sums of the rows [first, end) for each window."""
        high, low = np.zeros(len(first)), np.zeros(len(first))
        with np.errstate(invalid="ignore", over="ignore"):
            for power, prefix in self._prefixes.items():
                digit = prefix[end] - prefix[first]
                # Halves of the magnitude, for each is a float exactly and neither is beyond the whole.
                sign, size = np.sign(digit), np.abs(digit)
                for half in ((size >> _BITS) << _BITS, size & _MASK):
                    part = np.ldexp((sign * half).astype(float), _BITS * power)
                    high, error = _two_sum(high, part)
                    low += error
            for value, prefix in self._special:
                high = np.where(prefix[end] > prefix[first], high + value, high)
            total = high + low
            return Double(np.where(np.isfinite(high), total, high), low - (total - high))


def variances(values: np.ndarray, first: np.ndarray, end: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The variances (n - 1) of slices, from exact sums; NaN where there are fewer than 2 values.

    Args:
        values: float64, (rows,), 0 where there is no value.
        first: Where the slices begin, (windows,).
        end: Where they end.
        n: How many values are in them.
    """
    with np.errstate(all="ignore"):
        square, error = _two_product(values, values)
        error = np.where(np.isfinite(error), error, 0.0)
        squares = ExactSums(square, error).between(first, end)
        total = ExactSums(values).between(first, end)
        count = n.astype(float)
        scaled, scaled_error = _two_product(squares.high, count)
        mean_part, mean_error = _two_product(total.high, total.high)
        difference, lost = _two_sum(scaled, -mean_part)
        rest = scaled_error + squares.low * count - mean_error - 2 * total.high * total.low
        spread = difference + (lost + rest)
        spread = np.where(spread <= scaled * _NOISE, 0.0, spread)
        return np.where(n > 1, spread / (count * (count - 1)), np.nan)


def _add_digits(values: np.ndarray, digits: dict[int, np.ndarray]) -> None:
    """Adds each value's digits, by their powers of 2**32; every step is exact."""
    rest = np.where(np.isfinite(values), values, 0.0)
    top = np.abs(rest).max(initial=0.0)
    power = int(np.frexp(top)[1] - 1) // _BITS
    while rest.any():
        # In two steps, for the whole power may be beyond what a float holds.
        half = 2.0 ** (-_BITS // 2 * power)
        digit = np.trunc(rest * half * half)
        rest = rest - digit / half / half
        whole = digit.astype(np.int64)
        digits[power] = digits[power] + whole if power in digits else whole
        power -= 1


def _special(parts: tuple[np.ndarray, ...]) -> list[tuple[float, np.ndarray]]:
    """Infinities and NaN, which have no digits, with how many of them are before each row."""
    found = []
    for part in parts:
        if not np.isfinite(part).all():
            for value in (np.inf, -np.inf, np.nan):
                hits = np.isnan(part) if np.isnan(value) else part == value
                found.append((value, _prefix(hits.astype(np.int64))))
    return found


def _prefix(values: np.ndarray) -> np.ndarray:
    """Sums of all before each row, and of all: (rows + 1,)."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum and its rounding error (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    ours = total - b
    return total, (a - ours) + (b - (total - ours))


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The product and its rounding error (Dekker)."""
    product = a * b
    a_high, b_high = _high_half(a), _high_half(b)
    a_low, b_low = a - a_high, b - b_high
    return product, a_low * b_low - (product - a_high * b_high - a_low * b_high - a_high * b_low)


def _high_half(values: np.ndarray) -> np.ndarray:
    scaled = values * _SPLIT
    high: np.ndarray = scaled - (scaled - values)
    return high
