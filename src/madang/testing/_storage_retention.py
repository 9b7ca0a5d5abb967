"""The part of the storage contract's suite on tags and retention."""

from __future__ import annotations

import datetime as dt
from datetime import timedelta

import pyarrow as pa
import pytest

from madang.data.storage import Storage, Transaction
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from madang.testing._storage_changes import race
from madang.testing._storage_tables import HOSTILE_TABLES, rows

NOTHING = timedelta(0)
DAY = timedelta(days=1)


class RetentionContract:
    """Needs a fixture `storage`: an empty `Storage`."""

    @pytest.fixture
    def replaced(self, storage: Storage) -> Storage:
        """A table `t` whose versions 0 to 4 share no file."""
        for number in range(5):
            storage.write("t", rows(a=[number]), mode="overwrite")
        return storage

    def test_old_versions_are_dropped_and_their_files_go(self, replaced: Storage):
        assert replaced.retain("t", keep=DAY, grace=NOTHING).files == 0
        planned = replaced.retain("t", keep=NOTHING, grace=NOTHING, dry_run=True)
        assert (planned.dropped, planned.swept, planned.files) == ((0, 1, 2, 3), (0, 1, 2, 3), 4)
        assert planned.size_bytes > 0
        assert replaced.read("t", version=0).read_all() == rows(a=[0]), "it was a dry run"
        assert replaced.retain("t", keep=NOTHING, grace=NOTHING) == planned
        assert replaced.read("t").read_all() == rows(a=[4])
        for version in range(4):
            with pytest.raises(NotFoundError, match=f"version {version} .* is past its retention"):
                replaced.read("t", version=version)
        with pytest.raises(NotFoundError, match=r"these can be read: 4$"):
            replaced.read("t", at=replaced.versions("t")[2].timestamp)
        again = replaced.retain("t", keep=NOTHING, grace=NOTHING)
        assert (again.dropped, again.swept, again.files) == ((), (), 0)
        replaced.write("t", rows(a=[5]))
        assert replaced.read("t", version=4).read_all() == rows(a=[4])
        assert replaced.read("t").read_all() == rows(a=[4, 5])

    def test_a_reader_has_the_grace_to_finish(self, replaced: Storage):
        reader = replaced.read("t", version=1)
        dropped = replaced.retain("t", keep=NOTHING, grace=DAY)
        assert (dropped.dropped, dropped.swept, dropped.files) == ((0, 1, 2, 3), (), 0)
        with pytest.raises(NotFoundError, match="past its retention"):
            replaced.read("t", version=1)
        assert replaced.retain("t", keep=NOTHING, grace=DAY).files == 0
        assert reader.read_all() == rows(a=[1])
        assert replaced.retain("t", keep=NOTHING, grace=NOTHING).files == 4

    def test_files_that_a_younger_version_needs_stay(self, storage: Storage):
        for number in range(4):
            storage.write("t", rows(a=[number]))
        storage.delete_rows("t", "a = 1")
        storage.merge("t", rows(a=[2], b=[1]).select(["a"]), on=["a"])
        found = storage.read("t").read_all()
        done = storage.retain("t", keep=NOTHING, grace=NOTHING)
        assert (done.dropped, done.files) == ((0, 1, 2, 3, 4), 2)
        assert storage.read("t").read_all() == found
        storage.compact("t")
        done = storage.retain("t", keep=NOTHING, grace=NOTHING)
        assert (done.dropped, done.files) == ((5,), 3)
        assert storage.read("t").read_all() == found

    def test_a_tag_protects_its_version(self, replaced: Storage):
        replaced.tag("t", 1, "v1.0-날씨")
        replaced.tag("t", 1, "v1.0-날씨")
        replaced.tag("t", 4, "newest")
        assert replaced.tags("t") == {"newest": 4, "v1.0-날씨": 1}
        with pytest.raises(AlreadyExistsError, match="'newest' of table 't' is at version 4"):
            replaced.tag("t", 2, "newest")
        done = replaced.retain("t", keep=NOTHING, grace=NOTHING)
        assert (done.dropped, done.kept, done.files) == ((0, 2, 3), (1,), 3)
        assert replaced.read("t", version=1).read_all() == rows(a=[1])
        with pytest.raises(NotFoundError, match="these can be read: 1, 4"):
            replaced.tag("t", 2, "late")
        assert set(replaced.tags("t")) == {"newest", "v1.0-날씨"}
        replaced.untag("t", "v1.0-날씨")
        replaced.untag("t", "v1.0-날씨")
        assert replaced.retain("t", keep=NOTHING, grace=DAY).dropped == (1,)
        assert replaced.retain("t", keep=NOTHING, grace=NOTHING).files == 1

    def test_a_version_that_is_used_stays(self, replaced: Storage):
        done = replaced.retain("t", keep=NOTHING, grace=NOTHING, is_used=lambda v: v == 2)
        assert (done.dropped, done.kept) == ((0, 1, 3), (2,))
        assert replaced.read("t", version=2).read_all() == rows(a=[2])

    def test_a_use_that_comes_within_the_grace_is_in_time(self, replaced: Storage):
        replaced.retain("t", keep=NOTHING, grace=DAY)
        done = replaced.retain("t", keep=NOTHING, grace=NOTHING, is_used=lambda v: v == 2)
        assert done.files == 3
        assert replaced.read("t", version=2).read_all() == rows(a=[2])

    def test_tags_race_with_retention(self, replaced: Storage):
        """A tag that was given holds: its version can be read."""

        def act(number: int) -> bool:
            if number == 4:
                replaced.retain("t", keep=NOTHING, grace=NOTHING)
                return False
            try:
                replaced.tag("t", number, f"tag{number}")
            except NotFoundError:
                return False
            return True

        for version, held in enumerate(race(5, act)):
            assert (f"tag{version}" in replaced.tags("t")) is held
            if held:
                assert replaced.read("t", version=version).read_all() == rows(a=[version])

    def test_retention_beside_writers(self, storage: Storage):
        storage.write("t", rows(a=[-1]))

        def act(number: int) -> None:
            for step in range(4):
                if number == 0:
                    storage.retain("t", keep=NOTHING, grace=NOTHING)
                elif number == 1:
                    storage.merge("t", rows(a=[-1], b=[step]).select(["a"]), on=["a"])
                else:
                    storage.write("t", rows(a=[step]))

        race(3, act)
        assert sorted(storage.read("t").read_all()["a"].to_pylist()) == [-1, 0, 1, 2, 3]

    def test_progress_is_kept(self, storage: Storage):
        for number in range(12):
            storage.write("t", rows(a=[number]), transaction=Transaction("job", number))
        storage.compact("t")
        storage.retain("t", keep=NOTHING, grace=NOTHING)
        assert storage.progress("t", ["job"]) == {"job": 11}
        assert storage.write("t", rows(a=[0]), transaction=Transaction("job", 11)) == 12

    def test_tags_that_can_not_be(self, storage: Storage):
        for act in (
            lambda: storage.tag("t", 0, "x"),
            lambda: storage.tags("t"),
            lambda: storage.retain("t", keep=DAY),
        ):
            with pytest.raises(NotFoundError, match="no table 't'"):
                act()
        storage.write("t", rows(a=[1]))
        with pytest.raises(NotFoundError, match="no version 1; it has 0 to 0"):
            storage.tag("t", 1, "x")
        with pytest.raises(InvalidInputError, match="can't be negative"):
            storage.retain("t", keep=-DAY)
        for name in HOSTILE_TABLES:
            with pytest.raises(InvalidInputError, match="tag"):
                storage.tag("t", 0, name)
        assert storage.tags("t") == {}

    def test_times_decide(self, replaced: Storage):
        """A version counts as old from the moment that it was replaced."""
        before = dt.datetime.now(dt.UTC) - replaced.versions("t")[0].timestamp
        replaced.write("t", pa.table({"a": [9]}))
        kept = replaced.retain("t", keep=before + timedelta(minutes=1), grace=NOTHING)
        assert kept.dropped == ()
