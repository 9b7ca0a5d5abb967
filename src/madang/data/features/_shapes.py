"""The shapes of windows: where they end, and which events are in them.

Everything here is integers: microseconds since 1970 UTC, entities as small numbers, events sorted by
both. A shape's `slices` are for all windows whose end is in a range, so that a stream asks for those
that have just become final, and history asks for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from madang.data.features._aggregates import Slices

_MAX_BITS = 63


@dataclass(frozen=True)
class Windows:
    """Windows, each array (windows,), by entity and end.

    Attributes:
        ids: The entities.
        ends: When each ends, microseconds.
        slices: The events in each.
    """

    ids: np.ndarray
    ends: np.ndarray
    slices: Slices


class Shape(Protocol):
    """How windows lie over an entity's events."""

    def windows(self, ids: np.ndarray, times: np.ndarray) -> Windows:
        """All windows of these events, which are sorted by entity and time."""
        ...

    def leaves(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The last end of a window that each event has a part in, (events,), microseconds."""
        ...

    def settled(self, clock_us: int) -> int:
        """The last end that no event from `clock_us` on can change."""
        ...

    @property
    def reach_us(self) -> int | None:
        """How long before its end a window may have events, or its row a cause; `None`: any time."""
        ...


@dataclass(frozen=True)
class Rolling:
    """(end - period, end] for every end; one window for each moment when an event enters or leaves."""

    period_us: int

    def windows(self, ids: np.ndarray, times: np.ndarray) -> Windows:
        return _changing(ids, times, (times, times + self.period_us), self.period_us, last=0)

    def leaves(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        return times + self.period_us

    def settled(self, clock_us: int) -> int:
        return clock_us - 1  # an event at the end itself is in the window

    @property
    def reach_us(self) -> int | None:
        return self.period_us


@dataclass(frozen=True)
class Hopping:
    """[end - size, end) for every end at offset + a multiple of step; those whose content changes."""

    size_us: int
    step_us: int
    offset_us: int

    def windows(self, ids: np.ndarray, times: np.ndarray) -> Windows:
        moments = (self._end(times - self.size_us), self._end(times))
        return _changing(ids, times, moments, self.size_us, last=-1)

    def leaves(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        return self._end(times)

    def settled(self, clock_us: int) -> int:
        return clock_us

    @property
    def reach_us(self) -> int | None:
        return self.size_us + self.step_us

    def _end(self, times: np.ndarray) -> np.ndarray:
        """The end of the first window that begins after each time: the first without it."""
        step, offset = self.step_us, self.offset_us
        return (times - offset) // step * step + step + offset + self.size_us


@dataclass(frozen=True)
class Session:
    """From an event on until none has come for `gap`, which is when it ends."""

    gap_us: int

    def windows(self, ids: np.ndarray, times: np.ndarray) -> Windows:
        first, end = self._bounds(ids, times)
        return Windows(ids[first], times[end - 1] + self.gap_us, Slices(first, end))

    def leaves(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        first, end = self._bounds(ids, times)
        return np.repeat(times[end - 1] + self.gap_us, end - first)

    def settled(self, clock_us: int) -> int:
        return clock_us

    @property
    def reach_us(self) -> int | None:
        return None

    def _bounds(self, ids: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(ids):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        begins = (ids[1:] != ids[:-1]) | (times[1:] - times[:-1] >= self.gap_us)
        first = np.concatenate([[0], np.flatnonzero(begins) + 1])
        return first, np.append(first[1:], len(ids))


def _changing(
    ids: np.ndarray,
    times: np.ndarray,
    moments: tuple[np.ndarray, np.ndarray],
    length_us: int,
    *,
    last: int,
) -> Windows:
    """The windows that end at `moments`, of (end + last - length, end + last], each once."""
    if not len(ids):
        return Windows(ids, times, Slices(ids, ids))
    order = _Order(ids, (times, *moments))
    events = order.pack(ids, times)
    # Two sorted runs: a stable sort merges them.
    ends = np.concatenate([order.pack(ids, moment) for moment in moments])
    ends.sort(kind="stable")
    ends = ends[np.append(True, ends[1:] != ends[:-1])]
    of, at = order.unpack(ends)
    upto = order.pack(of, at + last)
    before = order.pack(of, at + last - length_us)
    first, end = (np.searchsorted(events, bound, side="right") for bound in (before, upto))
    return Windows(of, at, Slices(first, end))


class _Order:
    """(entity, time) as one integer that sorts alike; times are offsets or, if too wide, ranks.

    Args:
        ids: The entities, from 0 on.
        times: All times that are to be unpacked again.
    """

    def __init__(self, ids: np.ndarray, times: tuple[np.ndarray, ...]) -> None:
        self._first = min(int(part.min()) for part in times) - 1
        self._span = max(int(part.max()) for part in times) - self._first
        self._bits = self._span.bit_length()
        self._known = None
        if self._bits + int(ids.max()).bit_length() > _MAX_BITS:
            self._known = np.unique(np.concatenate(times))
            self._bits = len(self._known).bit_length()

    def pack(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Times between known ones become the one before; those before all become 0."""
        if self._known is None:
            offsets = np.clip(times - self._first, 0, self._span)
        else:
            offsets = np.searchsorted(self._known, times, side="right")
        packed: np.ndarray = (ids << self._bits) | offsets
        return packed

    def unpack(self, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entities and times."""
        offsets = packed & ((1 << self._bits) - 1)
        times = offsets + self._first if self._known is None else self._known[offsets - 1]
        return packed >> self._bits, times
