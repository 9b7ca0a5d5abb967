"""What every configuration engine must do."""

from __future__ import annotations

import threading

import pytest

from madang.engines import Health
from madang.errors import ConflictError, InvalidInputError, NotFoundError


class ConfigurationContract:
    """Needs the fixture `configuration`: an empty engine."""

    def test_a_value_comes_back_as_it_was_set(self, configuration):
        for value in (None, True, 0, -1.5, "", "한국어 ✓ \ud800", [1, [2]], {"a": {"b": [None]}}):
            assert configuration.set("a/b", value).value == value
            assert configuration.get("a/b").value == value

    def test_versions_grow_with_every_change_of_any_key(self, configuration):
        versions = [configuration.set(key, 1).version for key in ("a", "b", "a", "b")]
        assert versions == sorted(set(versions))
        assert configuration.get("a").version == versions[2]
        assert configuration.get("a").time_us <= configuration.get("b").time_us

    def test_an_absent_key_is_not_found(self, configuration):
        with pytest.raises(NotFoundError, match="no setting 'a'"):
            configuration.get("a")

    def test_a_setting_as_it_was(self, configuration):
        other = configuration.set("other", 0)
        first = configuration.set("a", "old")
        second = configuration.set("a", "new")
        assert configuration.get("a", version=first.version).value == "old"
        assert configuration.get("a", version=second.version).value == "new"
        with pytest.raises(NotFoundError, match=f"'a' at version {other.version}"):
            configuration.get("a", version=other.version)
        with pytest.raises(NotFoundError, match="the newest is"):
            configuration.get("a", version=second.version + 1)

    def test_what_was_handed_in_may_change_afterwards(self, configuration):
        value = [1]
        configuration.set("a", value).value.append(2)
        value.append(3)
        assert configuration.get("a").value == [1]

    def test_list_has_the_newest_of_each_key_by_key(self, configuration):
        for key, value in (("b/x", 1), ("a", 2), ("b/x", 3), ("B", 4), ("gone", 5), ("b%", 6)):
            if key != "b%":
                configuration.set(key, value)
        configuration.delete("gone")
        assert [(s.key, s.value) for s in configuration.list()] == [("B", 4), ("a", 2), ("b/x", 3)]
        assert [s.key for s in configuration.list("b/")] == ["b/x"]
        assert configuration.list("%") == []

    def test_history_is_oldest_first_and_outlives_deletion(self, configuration):
        configuration.set("a", 1)
        configuration.delete("a")
        configuration.set("a", 2)
        assert [(s.value, s.deleted) for s in configuration.history("a")] == [
            (1, False),
            (None, True),
            (2, False),
        ]
        assert configuration.history("b") == []

    def test_delete_is_safe_to_repeat(self, configuration):
        configuration.set("a", 1)
        configuration.delete("a")
        configuration.delete("a")
        configuration.delete("never")
        with pytest.raises(NotFoundError):
            configuration.get("a")
        assert len(configuration.history("a")) == 2

    def test_compare_and_set(self, configuration):
        first = configuration.set("a", 1, expected_version=0)
        configuration.set("other", 1)
        second = configuration.set("a", 2, expected_version=first.version)
        with pytest.raises(ConflictError, match=f"at version {second.version}"):
            configuration.set("a", 3, expected_version=first.version)
        with pytest.raises(ConflictError, match="retry"):
            configuration.set("a", 3, expected_version=0)
        with pytest.raises(ConflictError, match="is absent"):
            configuration.set("b", 3, expected_version=second.version)
        configuration.delete("a")
        configuration.set("a", 4, expected_version=0)
        assert configuration.get("a").value == 4

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "a b", "a\n", "ü", "a" * 256])
    def test_an_unusable_key_is_refused(self, configuration, key):
        with pytest.raises(InvalidInputError, match="setting's key"):
            configuration.set(key, 1)

    @pytest.mark.parametrize("value", [float("nan"), {1: 2}, (1,), {"a": {1, 2}}, b"x", object()])
    def test_what_is_not_json_is_refused(self, configuration, value):
        with pytest.raises(InvalidInputError, match="'a'"):
            configuration.set("a", value)
        assert configuration.history("a") == []

    def test_a_huge_value_is_refused(self, configuration):
        with pytest.raises(InvalidInputError, match="at most"):
            configuration.set("a", "x" * (1 << 20))

    def test_watch_sees_what_was_and_what_comes(self, configuration):
        configuration.set("app/a", 1)
        configuration.set("other", 0)
        watch = configuration.watch("app/", timeout_seconds=30)
        first = next(watch)
        assert (first.key, first.value) == ("app/a", 1)

        def change():
            configuration.set("other", 1)
            configuration.set("app/b", 2)
            configuration.delete("app/a")

        thread = threading.Thread(target=change)
        thread.start()
        seen = [next(watch), next(watch)]
        thread.join()
        assert [(s.key, s.value, s.deleted) for s in seen] == [
            ("app/b", 2, False),
            ("app/a", None, True),
        ]

    def test_watch_ends_after_silence(self, configuration):
        last = configuration.set("a", 1)
        assert list(configuration.watch(after_version=last.version, timeout_seconds=0.01)) == []
        assert len(list(configuration.watch(timeout_seconds=0.01))) == 1

    def test_many_writers_lose_nothing_and_a_watcher_sees_all_in_order(self, configuration):
        def work(name):
            for number in range(20):
                configuration.set(name, number)

        threads = [threading.Thread(target=work, args=(f"k{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        seen = []
        for setting in configuration.watch(timeout_seconds=30):
            seen.append(setting)
            if {s.key: s.value for s in seen} == {f"k{i}": 19 for i in range(4)}:
                break
        for thread in threads:
            thread.join()
        versions = [s.version for s in seen]
        assert versions == sorted(set(versions))
        for name in ("k0", "k1", "k2", "k3"):
            assert [s.value for s in configuration.history(name)] == list(range(20))

    def test_it_is_healthy(self, configuration):
        health = configuration.health()
        assert isinstance(health, Health)
        assert health.ok, health
