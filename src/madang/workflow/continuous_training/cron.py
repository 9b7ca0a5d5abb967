"""A schedule's times, by cronsim: Debian cron's rules, also for daylight saving."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from madang.errors import InvalidInputError


def times_after(cron: str, zone: str, after_us: int) -> Iterator[int]:
    """The times after a moment, in microseconds since 1970 UTC, in order and without end.

    Raises:
        InvalidInputError: The cron expression or the time zone is not usable.
    """
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInputError(
            f"there is no time zone {zone!r}; write one such as Europe/Berlin or UTC"
        ) from error
    # A schedule has five fields: cronsim would take a sixth as seconds.
    if len(cron.split()) != 5:
        raise InvalidInputError(_unusable(cron, "it has five fields"))
    try:
        found = CronSim(cron, datetime.fromtimestamp(after_us // 1_000_000, place))
    except CronSimError as error:
        raise InvalidInputError(_unusable(cron, str(error))) from error
    return _increasing(found, after_us)


def _increasing(found: Iterator[datetime], after_us: int) -> Iterator[int]:
    """What cronsim gives, without a repeated time of a repeated hour, and without two of a gap."""
    latest = after_us
    for moment in found:
        at = int(moment.astimezone(UTC).timestamp()) * 1_000_000
        if at > latest:
            latest = at
            yield at


def next_time(cron: str, zone: str, after_us: int) -> int:
    """The first time after a moment.

    Raises:
        InvalidInputError: As `times_after`; or there is none, as on 30 February.
    """
    found = next(times_after(cron, zone, after_us), None)
    if found is None:
        raise InvalidInputError(_unusable(cron, "no day fits"))
    return found


def _unusable(cron: str, why: str) -> str:
    return (
        f"{cron!r} is no schedule ({why}); write minute, hour, day of month, month and day of "
        "week, for example '30 6 * * MON-FRI'"
    )
