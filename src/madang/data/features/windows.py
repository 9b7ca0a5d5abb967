"""Windows over events as feature views: the recent mean delay of a route, the last hour's orders.

recent = rolling(
    "route_delays",
    source="flights",
    entity=("origin", "dest"),
    timestamp="arrived",
    aggregates={"delay_mean": ("arr_delay", "mean"), "arrivals": (None, "count")},
    period=timedelta(hours=2),
)

One definition serves history and streams (`madang.data.features.streaming`), and both give the same
rows: a window's value depends on its own events alone, not on their order nor on what came before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from madang.data.features._aggregates import FUNCTIONS
from madang.data.features._shapes import Hopping, Rolling, Session, Shape
from madang.data.features._window import Window
from madang.data.features.contract import FeatureView
from madang.errors import InvalidInputError

_NOTHING = timedelta(0)
_MICROSECOND = timedelta(microseconds=1)

Aggregates = Mapping[str, tuple[str | None, str]]


def rolling(
    name: str,
    *,
    source: str,
    entity: Sequence[str],
    timestamp: str,
    aggregates: Aggregates,
    period: timedelta,
    lateness: timedelta = _NOTHING,
    ttl: timedelta | None = None,
    description: str = "",
    owner: str = "",
) -> FeatureView:
    """A view of aggregates over each entity's events of the last `period`.

    As of a time T, a feature is the aggregate of the entity's events with a timestamp in
    (T - period, T]. That is exact at every T and not only when an event happens: the view has a row
    for each event, and one for the moment when it leaves the window. When a window has emptied,
    `count` and `sum` are 0 and the others null; before an entity's first event nothing is known.
    Nulls are left out of the aggregates; events with a null entity or timestamp are left out.

    Args:
        name: The view's name.
        source: The dataset of events.
        entity: The key columns.
        timestamp: When an event is known, which is not always when it happened: a flight's delay
            is known when it arrives, not when it was to depart.
        aggregates: Feature name to (column, function); functions are `count`, `max`, `mean`,
            `min`, `std` (of a sample, n - 1) and `sum`. The column is `None` to count events.
            Sums are exact and rounded once; means are such a sum divided by the count.
        period: The window's length.
        lateness: How much later than others an event may come and still count. What is known of a
            window is known so much after its end: the row's timestamp is the end + lateness.
        ttl: As of a feature view; a window that has emptied says so without it.
        description: For people.
        owner: Whom to ask.

    Raises:
        InvalidInputError: An unknown function, or a period that isn't positive.
    """
    shape = Rolling(_us(name, "period", period))
    window = _window(name, shape, source, entity, timestamp, aggregates, lateness)
    return _view(name, window, ttl=ttl, description=description, owner=owner)


def tumbling(
    name: str,
    *,
    source: str,
    entity: Sequence[str],
    timestamp: str,
    aggregates: Aggregates,
    size: timedelta,
    offset: timedelta = _NOTHING,
    lateness: timedelta = _NOTHING,
    ttl: timedelta | None = None,
    description: str = "",
    owner: str = "",
) -> FeatureView:
    """A view of aggregates over whole hours, days or other windows that follow one another.

    A window has the entity's events with a timestamp in [end - size, end), for every end that is
    `offset` + a multiple of `size` since 1970 UTC. As of a time T, a feature is the aggregate of
    the last window that had ended. There is a row for each window with events, and one for the
    first without any after it: `count` and `sum` are 0 there and the others null.

    Args:
        name: The view's name.
        source: The dataset of events.
        entity: The key columns.
        timestamp: When an event is known.
        aggregates: As of `rolling`.
        size: The window's length.
        offset: Moves all windows: days that begin at 15:00 UTC are days in Seoul.
        lateness: As of `rolling`.
        ttl: As of a feature view.
        description: For people.
        owner: Whom to ask.

    Raises:
        InvalidInputError: An unknown function, or a size that isn't positive.
    """
    size_us = _us(name, "size", size)
    shape = Hopping(size_us, size_us, offset // _MICROSECOND)
    window = _window(name, shape, source, entity, timestamp, aggregates, lateness)
    return _view(name, window, ttl=ttl, description=description, owner=owner)


def hopping(
    name: str,
    *,
    source: str,
    entity: Sequence[str],
    timestamp: str,
    aggregates: Aggregates,
    size: timedelta,
    step: timedelta,
    offset: timedelta = _NOTHING,
    lateness: timedelta = _NOTHING,
    ttl: timedelta | None = None,
    description: str = "",
    owner: str = "",
) -> FeatureView:
    """A view of aggregates over windows of one size that begin at every step: sliding by steps.

    A window has the entity's events with a timestamp in [end - size, end), for every end that is
    `offset` + `size` + a multiple of `step` since 1970 UTC. As of a time T, a feature is the
    aggregate of the last window that had ended. There is a row for each window that holds other
    events than the one before; until the next row nothing has changed.

    Args:
        name: The view's name.
        source: The dataset of events.
        entity: The key columns.
        timestamp: When an event is known.
        aggregates: As of `rolling`.
        size: The window's length.
        step: From one window's begin to the next one's; not longer than `size`.
        offset: Moves all windows.
        lateness: As of `rolling`.
        ttl: As of a feature view.
        description: For people.
        owner: Whom to ask.

    Raises:
        InvalidInputError: An unknown function, or a size or step that can't be.
    """
    shape = Hopping(_us(name, "size", size), _us(name, "step", step), offset // _MICROSECOND)
    if step > size:
        raise InvalidInputError(
            f"window {name!r}: step must not be longer than size, found {step} > {size}; events "
            "between two windows would be in none"
        )
    window = _window(name, shape, source, entity, timestamp, aggregates, lateness)
    return _view(name, window, ttl=ttl, description=description, owner=owner)


def session(
    name: str,
    *,
    source: str,
    entity: Sequence[str],
    timestamp: str,
    aggregates: Aggregates,
    gap: timedelta,
    lateness: timedelta = _NOTHING,
    ttl: timedelta | None = None,
    description: str = "",
    owner: str = "",
) -> FeatureView:
    """A view of aggregates over an entity's sessions: events with less than `gap` between them.

    A session ends `gap` after its last event; an event exactly then begins the next one. As of a
    time T, a feature is the aggregate of the last session that had ended. `(timestamp, "min")` as
    an aggregate says when it began.

    Args:
        name: The view's name.
        source: The dataset of events.
        entity: The key columns.
        timestamp: When an event is known.
        aggregates: As of `rolling`.
        gap: How long nothing must come until a session has ended.
        lateness: As of `rolling`.
        ttl: As of a feature view.
        description: For people.
        owner: Whom to ask.

    Raises:
        InvalidInputError: An unknown function, or a gap that isn't positive.
    """
    shape = Session(_us(name, "gap", gap))
    window = _window(name, shape, source, entity, timestamp, aggregates, lateness)
    return _view(name, window, ttl=ttl, description=description, owner=owner)


def _us(name: str, what: str, length: timedelta) -> int:
    if length <= _NOTHING:
        raise InvalidInputError(f"window {name!r}: {what} must be positive, found {length}")
    return length // _MICROSECOND


def _window(  # noqa: PLR0917 - the arguments of the functions above, in their order
    name: str,
    shape: Shape,
    source: str,
    entity: Sequence[str],
    timestamp: str,
    aggregates: Aggregates,
    lateness: timedelta,
) -> Window:
    if lateness < _NOTHING:
        raise InvalidInputError(f"window {name!r}: lateness must not be negative, found {lateness}")
    for feature, (column, function) in aggregates.items():
        if function not in FUNCTIONS or (column is None and function != "count"):
            raise InvalidInputError(
                f"window {name!r}: feature {feature!r} asks for {function!r} of {column!r}; "
                f"functions are: {', '.join(FUNCTIONS)}, and only count works without a column"
            )
    return Window(
        source=source,
        entity=tuple(entity),
        timestamp=timestamp,
        aggregates=tuple((key, column, how) for key, (column, how) in aggregates.items()),
        shape=shape,
        lateness_us=lateness // _MICROSECOND,
    )


def _view(
    name: str, window: Window, *, ttl: timedelta | None, description: str, owner: str
) -> FeatureView:
    return FeatureView(
        name=name,
        entity=window.entity,
        timestamp=window.timestamp,
        features=tuple(name for name, _, _ in window.aggregates),
        ttl=ttl,
        function=window,
        sources=(window.source,),
        description=description,
        owner=owner,
    )
