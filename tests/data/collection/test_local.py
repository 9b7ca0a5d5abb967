"""The contract on the default event log."""

from __future__ import annotations

import pytest

from madang import engines
from madang.data.collection import connect, events
from madang.data.collection.local import LocalCollection
from madang.errors import ConfigurationError
from madang.testing.collection import CollectionContract, values


class TestLocalCollection(CollectionContract):
    @pytest.fixture
    def collection(self, tmp_path):
        return LocalCollection(tmp_path, "test")

    @pytest.fixture
    def reopen(self, tmp_path):
        return lambda: LocalCollection(tmp_path, "test")


class TestSmallSegments(CollectionContract):
    """Every append in a segment of its own."""

    @pytest.fixture
    def collection(self, tmp_path):
        return LocalCollection(tmp_path, "test", segment_bytes=1)

    @pytest.fixture
    def reopen(self, tmp_path):
        return lambda: LocalCollection(tmp_path, "test", segment_bytes=1)


def test_urls(tmp_path):
    context = engines.Context("shop", tmp_path)
    for name, url, folder in (
        ("a", None, ".madang/events"),
        ("b", "local://", ".madang/events"),
        ("c", "local:///here", "here"),
        ("d", f"local:///{tmp_path}/there?segment_bytes=1000", "there"),
    ):
        connect(url, context).create_topic(name)
        assert (tmp_path / folder / "shop" / name / "topic.json").is_file()


def test_unusable_urls(tmp_path):
    context = engines.Context("shop", tmp_path)
    with pytest.raises(
        ConfigurationError, match="no option acks; its options are: min_free_bytes, segment_bytes"
    ):
        connect("local:///x?acks=all", context)
    with pytest.raises(ConfigurationError, match="must be a positive number: '0'"):
        connect("local:///x?segment_bytes=0", context)


def test_projects_do_not_see_each_other(tmp_path):
    one, two = LocalCollection(tmp_path, "one"), LocalCollection(tmp_path, "two")
    one.create_topic("t")
    assert two.topics() == []
    two.create_topic("t")
    one.append("t", events([b"1"]))
    two.append("t", events([b"2"]))
    assert values(one.read("t", 0, 0)) == [b"1"]
    assert values(two.read("t", 0, 0)) == [b"2"]


def test_health_says_what_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    health = LocalCollection(tmp_path / "file", "test").health()
    assert not health.ok
    assert "file" in health.detail
    assert health.advice
