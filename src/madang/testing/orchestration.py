"""What every orchestration engine must do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from madang.errors import InvalidInputError, NotFoundError
from madang.workflow.continuous_training import EventStatus, Kind, Trigger


def utc(year, month, day, hour=0, minute=0):
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


class OrchestrationContract:
    """Needs the fixtures `orchestration` (an engine without events) and `training` (its triggers)."""

    @pytest.fixture
    def schedule(self, training):
        """Defines a schedule; gives its name."""

        def define(cron, zone="UTC", **more):
            training.define(Trigger("s", Kind.SCHEDULE, "train", cron=cron, zone=zone, **more))
            return "s"

        return define

    @pytest.mark.parametrize(
        ("cron", "after", "hours"),
        [
            # 31 March 2024: 02:00 in Berlin is 03:00; 27 October: 03:00 is 02:00 again.
            ("30 2 * * *", (2024, 3, 30), ["30T01:30", "31T01:00", "01T00:30"]),
            ("0,30 2 * * *", (2024, 3, 30, 12), ["31T01:00", "01T00:00", "01T00:30"]),
            ("0 * * * *", (2024, 3, 31, 0, 30), ["31T01:00", "31T02:00", "31T03:00"]),
            ("30 2 * * *", (2024, 10, 26, 12), ["27T00:30", "28T01:30", "29T01:30"]),
            ("30 2 * * *", (2024, 10, 27, 0, 45), ["28T01:30", "29T01:30", "30T01:30"]),
            ("30 2 * * *", (2024, 10, 27, 1, 10), ["28T01:30", "29T01:30", "30T01:30"]),
            ("30 * * * *", (2024, 10, 27), ["27T00:30", "27T01:30", "27T02:30"]),
        ],
    )
    def test_daylight_saving_neither_drops_nor_doubles(
        self, orchestration, schedule, cron, after, hours
    ):
        name = schedule(cron, "Europe/Berlin")
        found = orchestration.upcoming(name, count=3, after=utc(*after))
        assert [f"{moment.astimezone(UTC):%dT%H:%M}" for moment in found] == hours
        assert {str(moment.tzinfo) for moment in found} == {"Europe/Berlin"}

    def test_a_backfill_makes_each_time_once(self, orchestration, training, schedule):
        name = schedule("0 6 * * *", max_active=1)
        events = orchestration.backfill(name, utc(2013, 1, 1), utc(2013, 1, 4, 6))
        assert [e.key for e in events] == [
            f"2013-01-0{day}T06:00:00.000000Z" for day in (1, 2, 3)
        ]  # fmt: skip
        more = orchestration.backfill(name, utc(2013, 1, 3), utc(2013, 1, 5, 7))
        assert more[0] == events[-1]
        assert len(training.events()) == 5

    def test_what_is_no_schedule_has_no_times(self, orchestration, training, schedule):
        name = schedule("* * * * *")
        training.define(Trigger("m", Kind.MANUAL, "train"))
        with pytest.raises(InvalidInputError, match="'m' is no schedule; it waits for manual"):
            orchestration.upcoming("m")
        with pytest.raises(NotFoundError, match="no trigger 'x'; there is: m, s"):
            orchestration.backfill("x", utc(2013, 1, 1), utc(2013, 1, 2))
        with pytest.raises(InvalidInputError, match="has no time zone"):
            orchestration.backfill(name, datetime(2013, 1, 1), utc(2013, 1, 2))  # noqa: DTZ001
        with pytest.raises(InvalidInputError, match="over 10000 times"):
            orchestration.backfill(name, utc(2013, 1, 1), utc(2014, 1, 2))
        with pytest.raises(InvalidInputError, match="count is 1 to 10000"):
            orchestration.upcoming(name, count=0)
        assert training.events() == []

    def test_a_pool_without_slots_starts_nothing(self, orchestration, training):
        training.define(Trigger("a", Kind.MANUAL, "train", pool="big"))
        assert orchestration.set_pool("big", 0).slots == 0
        training.fire("a", key="k", reason="r")
        orchestration.advance()
        assert training.events()[0].status is EventStatus.WAITING
        (pool,) = orchestration.pools()
        assert (pool.name, pool.slots, pool.used, pool.waiting) == ("big", 0, 0, 1)
        with pytest.raises(InvalidInputError, match="0 to 10,000 slots"):
            orchestration.set_pool("big", -1)

    def test_a_trigger_that_is_off_starts_nothing(self, orchestration, training):
        trigger = training.define(Trigger("a", Kind.MANUAL, "train"))
        training.fire("a", key="k", reason="r")
        training.define(Trigger("a", Kind.MANUAL, "train", enabled=False))
        orchestration.advance()
        assert training.events()[0].status is EventStatus.WAITING
        assert training.get("a") != trigger
