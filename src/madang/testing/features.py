"""What every online store must do."""

from __future__ import annotations

import threading

import pytest

from madang.errors import ConflictError, InvalidInputError

LAYOUT_A = {"layout": "aaaaaaaaaaaaaaaa", "columns": [["x", "float64"]]}
LAYOUT_B = {"layout": "bbbbbbbbbbbbbbbb", "columns": [["y", "float64"]]}


def row(timestamp_us, payload=b""):
    """A packed row, as a store sees it."""
    return timestamp_us.to_bytes(8, "little", signed=True) + payload


class OnlineStoreContract:
    """Needs the fixture `connect_online`: a function from a project's name to a store on one place."""

    @pytest.fixture
    def online(self, connect_online):
        return connect_online("test")

    def test_unknown_view_has_no_rows_and_no_description(self, online):
        assert online.get("v", [b"k", b"l"]) == [None, None]
        assert online.describe("v") is None

    def test_get_keeps_the_order_of_keys_also_repeated_ones(self, online):
        assert online.put("v", [b"a", b"b"], [row(1, b"A"), row(2, b"B")], LAYOUT_A) == 2
        found = online.get("v", [b"b", b"?", b"a", b"b"])
        assert found == [row(2, b"B"), None, row(1, b"A"), row(2, b"B")]
        assert online.get("v", []) == []
        assert online.describe("v") == LAYOUT_A

    def test_an_older_row_never_replaces_a_newer_one(self, online):
        online.put("v", [b"a", b"b", b"c"], [row(5, b"1"), row(5, b"1"), row(-5, b"1")], LAYOUT_A)
        new = [row(4, b"2"), row(5, b"2"), row(-4, b"2")]
        assert online.put("v", [b"a", b"b", b"c"], new, LAYOUT_A) == 2
        found = online.get("v", [b"a", b"b", b"c"])
        assert found == [row(5, b"1"), row(5, b"2"), row(-4, b"2")]

    def test_put_of_another_layout_is_refused_whole(self, online):
        online.put("v", [b"a"], [row(1)], LAYOUT_A)
        with pytest.raises(ConflictError, match=r"another definition.*materialize the view"):
            online.put("v", [b"a", b"b"], [row(2), row(2)], LAYOUT_B)
        assert online.get("v", [b"a", b"b"]) == [row(1), None]
        assert online.describe("v") == LAYOUT_A

    def test_put_goes_on_from_the_description_that_it_names(self, online):
        first = {**LAYOUT_A, "base": {"files": 1, "names": ["ü"]}}
        second = {**LAYOUT_A, "base": {"files": 2, "names": []}}
        online.replace("v", [b"a", b"b"], [row(5, b"1"), row(5, b"1")], first)
        assert online.put("v", [b"a"], [row(9, b"p")], LAYOUT_A) == 1  # leaves the description
        assert online.describe("v") == first
        new = [row(8, b"2"), row(8, b"2"), row(1, b"2")]
        assert online.put("v", [b"a", b"b", b"c"], new, second, after=online.describe("v")) == 2
        assert online.get("v", [b"a", b"b", b"c"]) == [row(9, b"p"), row(8, b"2"), row(1, b"2")]
        assert online.describe("v") == second
        assert online.put("v", [], [], first, after=second) == 0
        assert online.describe("v") == first

    def test_put_after_another_description_is_refused_whole(self, online):
        with pytest.raises(ConflictError, match="another materialization meanwhile"):
            online.put("v", [b"a"], [row(1)], LAYOUT_A, after=LAYOUT_A)
        assert online.describe("v") is None
        online.replace("v", [b"a"], [row(1)], {**LAYOUT_A, "number": 2})
        with pytest.raises(ConflictError, match="another materialization meanwhile"):
            online.put("v", [b"a", b"b"], [row(2)] * 2, LAYOUT_A, after={**LAYOUT_A, "number": 1})
        assert online.get("v", [b"a", b"b"]) == [row(1), None]
        assert online.describe("v") == {**LAYOUT_A, "number": 2}

    def test_replace_leaves_only_the_new_rows(self, online):
        online.put("v", [b"a", b"b"], [row(9), row(9)], LAYOUT_A)
        online.replace("v", [b"c", b"b"], [row(1, b"c"), row(2, b"b")], LAYOUT_B)
        assert online.get("v", [b"a", b"b", b"c"]) == [None, row(2, b"b"), row(1, b"c")]
        assert online.describe("v") == LAYOUT_B
        online.replace("v", [], [], LAYOUT_A)
        assert online.get("v", [b"a", b"b", b"c"]) == [None] * 3
        assert online.describe("v") == LAYOUT_A

    def test_replace_keeps_rows_that_were_put_meanwhile(self, online):
        keys = [b"old", b"new", b"own", b"less"]
        online.put("v", keys, [row(10), row(11, b"p"), row(12, b"p"), row(11, b"p")], LAYOUT_A)
        online.replace("v", [b"own", b"less"], [row(9), row(99, b"r")], LAYOUT_A, keep_after_us=10)
        found = online.get("v", keys)
        assert found == [None, row(11, b"p"), row(12, b"p"), row(99, b"r")]

    def test_replace_keeps_no_row_of_another_layout(self, online):
        online.put("v", [b"a"], [row(99)], LAYOUT_A)
        online.replace("v", [b"b"], [row(1)], LAYOUT_B, keep_after_us=0)
        assert online.get("v", [b"a", b"b"]) == [None, row(1)]

    def test_drop_may_be_repeated(self, online):
        online.drop("v")
        online.put("v", [b"a"], [row(1)], LAYOUT_A)
        online.drop("v")
        online.drop("v")
        assert online.get("v", [b"a"]) == [None]
        assert online.describe("v") is None
        assert online.put("v", [b"a"], [row(0)], LAYOUT_B) == 1

    def test_views_and_projects_are_apart(self, connect_online):
        one, two = connect_online("one"), connect_online("two")
        one.put("v", [b"a"], [row(1, b"one")], LAYOUT_A)
        one.put("w", [b"a"], [row(1, b"w")], LAYOUT_A)
        two.put("v", [b"a"], [row(1, b"two")], LAYOUT_B)
        one.drop("w")
        assert one.get("v", [b"a"]) == [row(1, b"one")]
        assert two.get("v", [b"a"]) == [row(1, b"two")]
        assert two.describe("w") is None

    def test_unusable_keys_are_refused(self, online):
        for key in (b"", b"x" * 512):
            with pytest.raises(InvalidInputError, match=f"1 to 511 bytes, found one of {len(key)}"):
                online.put("v", [b"a", key], [row(1), row(1)], LAYOUT_A)
            with pytest.raises(InvalidInputError, match="1 to 511 bytes"):
                online.replace("v", [b"a", key], [row(1), row(1)], LAYOUT_A)
        with pytest.raises(InvalidInputError, match="2 keys for 1 rows"):
            online.put("v", [b"a", b"b"], [row(1)], LAYOUT_A)
        assert online.get("v", [b"a"]) == [None]
        longest = b"x" * 511
        online.put("v", [longest], [row(1, b"y" * 5000)], LAYOUT_A)
        assert online.get("v", [longest]) == [row(1, b"y" * 5000)]

    def test_any_bytes_are_a_key(self, online):
        keys = [
            b"\0",
            b"\0\0",
            b"\0" * 511,
            b"\xff",
            b"\xff" * 511,
            b"a",
            b"a\0",
            bytes(range(256)),
        ]
        rows = [row(1, b"%d" % number) for number in range(len(keys))]
        online.put("v", keys[:4], rows[:4], LAYOUT_A)
        online.put("v", keys[4:], rows[4:], LAYOUT_A)
        assert online.get("v", keys[::-1]) == rows[::-1]
        online.replace("v", keys[::-1], rows, LAYOUT_A)
        assert online.get("v", keys[::-1]) == rows

    def test_timestamps_go_from_the_first_to_the_last_microsecond(self, online):
        first, last = -(2**63), 2**63 - 1
        assert online.put("v", [b"k"], [row(first)], LAYOUT_A) == 1
        assert online.put("v", [b"k"], [row(last, b"new")], LAYOUT_A) == 1
        assert online.put("v", [b"k"], [row(0)], LAYOUT_A) == 0
        assert online.get("v", [b"k"]) == [row(last, b"new")]

    def test_puts_of_many_threads_are_all_there(self, connect_online):
        stores = [connect_online("test") for _ in range(3)]

        def write(number):
            for turn in range(20):
                keys = [b"%d/%d" % (number, turn), b"shared"]
                stores[number].put("v", keys, [row(turn)] * 2, LAYOUT_A)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        keys = [b"%d/%d" % (number, turn) for number in range(3) for turn in range(20)]
        assert None not in stores[0].get("v", keys)
        assert stores[0].get("v", [b"shared"]) == [row(19)]

    def test_readers_see_the_old_rows_or_the_new_ones(self, connect_online):
        online, reader = connect_online("test"), connect_online("test")
        keys = [b"%03d" % number for number in range(200)]
        online.replace("v", keys, [row(0, b"0")] * 200, LAYOUT_A)
        torn, done = [], threading.Event()

        def watch():
            while not done.is_set():
                seen = set(reader.get("v", keys))
                if len(seen) != 1:
                    torn.append(seen)

        threads = [threading.Thread(target=watch) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for generation in range(1, 30):
                online.replace("v", keys, [row(generation, b"%d" % generation)] * 200, LAYOUT_A)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert torn == []
        assert set(reader.get("v", keys)) == {row(29, b"29")}

    def test_another_connection_reads_what_was_written(self, connect_online):
        first = connect_online("test")
        first.put("v", [b"a"], [row(1, b"A")], LAYOUT_A)
        first.close()
        first.close()
        assert connect_online("test").get("v", [b"a"]) == [row(1, b"A")]

    def test_health_says_that_it_works(self, online):
        health = online.health()
        assert health.ok, health
        assert health.detail
