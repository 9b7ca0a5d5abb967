"""What every storage engine promises, as tests.

class TestMyStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return MyStorage(tmp_path)
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from madang.data.storage import OBJECTS, DeltaTables, LocalFiles, Storage
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from madang.testing._storage_changes import ChangesContract
from madang.testing._storage_retention import RetentionContract
from madang.testing._storage_tables import TablesContract, rows

HOSTILE_KEYS = [
    "", "/", "/etc/passwd", "a/", "../a", "a/../b", "a//b", "./a", "a/.", "a\0b", "a\nb", "a\\b",
    "\udcff", "x" * 256, "/".join(["y" * 200] * 6),
]  # fmt: skip


class StorageContract(TablesContract, ChangesContract, RetentionContract):
    """Needs a fixture `storage`: an empty `Storage`."""

    # -- objects ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "key", ["a", "a/b/c.bin", "날씨/서울 1.csv", "a%2Fb", "a+b=c&d?e#f", "~"]
    )
    def test_what_was_put_is_got(self, storage: Storage, key: str):
        before = datetime.now(UTC) - timedelta(seconds=2)
        info = storage.put(key, b"one")
        assert (info.key, info.size_bytes) == (key, 3)
        assert before <= info.modified <= datetime.now(UTC) + timedelta(seconds=2)
        assert storage.get(key) == b"one"
        storage.put(key, memoryview(b"second"))
        assert storage.get(key) == b"second"
        assert [found.key for found in storage.list()] == [key]

    def test_an_empty_and_a_large_object(self, storage: Storage):
        large = bytes(range(256)) * (24 << 12)  # 24 MiB: several parts of an upload
        storage.put("empty", b"")
        storage.put("large", large)
        assert storage.get("empty") == b""
        assert storage.get("large") == large
        assert [info.size_bytes for info in storage.list()] == [0, len(large)]

    def test_a_file_is_put(self, storage: Storage, tmp_path):
        file = tmp_path / "source"
        file.write_bytes(b"x" * 7_000_000)
        assert storage.put("copy", file).size_bytes == 7_000_000
        assert storage.get("copy") == file.read_bytes()
        with pytest.raises(AlreadyExistsError):
            storage.put("copy", file, overwrite=False)

    def test_wider_elements_are_put_as_their_bytes(self, storage: Storage):
        storage.put("wide", memoryview(b"12345678").cast("I"))
        assert storage.get("wide") == b"12345678"

    def test_create_only(self, storage: Storage):
        storage.put("k", b"first", overwrite=False)
        with pytest.raises(AlreadyExistsError, match=r"'k' exists.*overwrite=True"):
            storage.put("k", b"second", overwrite=False)
        assert storage.get("k") == b"first"

    def test_of_racing_creators_one_wins(self, storage: Storage):
        barrier = threading.Barrier(8)

        def create(number: int) -> int | None:
            barrier.wait()
            try:
                storage.put("race", b"%d" % number, overwrite=False)
            except AlreadyExistsError:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [n for n in pool.map(create, range(8)) if n is not None]
        assert len(winners) == 1
        assert storage.get("race") == b"%d" % winners[0]

    def test_readers_see_whole_objects_while_they_are_replaced(self, storage: Storage):
        old, new = b"a" * 3_000_000, b"b" * 3_000_000
        storage.put("k", old)
        done = threading.Event()

        def replace() -> None:
            for data in [new, old] * 4:
                storage.put("k", data)
            done.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(replace)
            while not done.is_set() and not writer.done():
                assert storage.get("k") in (old, new)
            writer.result()

    def test_list_is_in_order_of_keys_and_by_prefix(self, storage: Storage):
        keys = ["a-b", "a/b", "a/c/d", "a.b", "a0", "b/a", "ab", "B", "é/x"]
        for key in keys:
            storage.put(key, key.encode())
        assert [info.key for info in storage.list()] == sorted(keys)
        for prefix in ["a", "a/", "a/c", "a/c/", "ab", "nothing", "é", "b/a"]:
            assert [i.key for i in storage.list(prefix)] == sorted(
                key for key in keys if key.startswith(prefix)
            )

    def test_delete_can_be_repeated(self, storage: Storage):
        storage.put("a/b", b"x")
        storage.delete("a/b")
        storage.delete("a/b")
        storage.delete("never/was")
        assert list(storage.list()) == []
        with pytest.raises(NotFoundError, match="no object 'a/b'"):
            storage.get("a/b")

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_hostile_keys_are_refused(self, storage: Storage, key: str):
        for act in (lambda: storage.put(key, b""), lambda: storage.get(key)):
            with pytest.raises(InvalidInputError, match="can't be used"):
                act()
        with pytest.raises(InvalidInputError):
            storage.delete(key)

    @pytest.mark.parametrize("prefix", ["/", "../", "a//b", "./x", "\0"])
    def test_hostile_prefixes_are_refused(self, storage: Storage, prefix: str):
        with pytest.raises(InvalidInputError, match="prefix"):
            list(storage.list(prefix))

    # -- what is said of objects --------------------------------------------------------------

    def test_what_is_said_of_an_object(self, storage: Storage):
        said = {"label": "고양이 100%", "split": "train", "empty": "", "odd": 'a=b;"c" %41+'}
        info = storage.put("i/cat.png", b"xyz", content_type="image/png", metadata=said)
        assert (info.content_type, info.metadata) == ("image/png", said)
        assert storage.about("i/cat.png") == info
        plain = storage.put("i/plain", b"")
        assert (plain.content_type, plain.metadata) == (None, {})
        assert storage.about("i/plain") == plain
        for key in ("i", "i/none", "i/plain/x"):
            with pytest.raises(NotFoundError, match=f"no object '{key}'"):
                storage.about(key)

    def test_what_is_said_goes_with_its_object(self, storage: Storage):
        for number in range(3):
            storage.put("k", b"same", metadata={"n": str(number)})
            assert storage.about("k").metadata == {"n": str(number)}
        with pytest.raises(AlreadyExistsError):
            storage.put("k", b"same", overwrite=False, metadata={"n": "refused"})
        assert storage.about("k").metadata == {"n": "2"}
        storage.put("k", b"same")
        assert storage.about("k").metadata == {}
        storage.put("k", b"same", metadata={"n": "3"})
        storage.delete("k")
        storage.put("k", b"same")
        assert storage.about("k").metadata == {}

    def test_readers_see_what_belongs_together(self, storage: Storage):
        """The size tells which object it is; what is said of it must be of the same one."""
        storage.put("k", b"", metadata={"size": "0"})
        done = threading.Event()

        def replace() -> None:
            try:
                for number in range(1, 20):
                    storage.put("k", b"x" * number, metadata={"size": str(number)})
            finally:
                done.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(replace)
            while not done.is_set():
                info = storage.about("k")
                assert info.metadata == {"size": str(info.size_bytes)}
            writer.result()

    def test_objects_are_a_table(self, storage: Storage):
        assert storage.objects().read_all() == OBJECTS.empty_table()
        keys = [f"img/{number:04d}" for number in range(30)] + ["other"]
        for key in keys:
            storage.put(key, key.encode(), content_type="text/plain", metadata={"k": key})
        table = storage.objects("img/").read_all()
        assert table.schema == OBJECTS
        assert table["key"].to_pylist() == keys[:-1]
        assert set(table["content_type"].to_pylist()) == {"text/plain"}
        assert table["metadata"].to_pylist() == [[("k", key)] for key in keys[:-1]]
        assert table["size_bytes"].to_pylist() == [8] * 30
        assert storage.objects().read_all().num_rows == 31

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"content_type": "image"}, "no media type"),
            ({"content_type": "a/b\r\nx: y"}, "no media type"),
            ({"metadata": {"Upper": "x"}}, "use lower case letters"),
            ({"metadata": {"a b": "x"}}, "use lower case letters"),
            ({"metadata": {"a": 1}}, "it is no text"),
            ({"metadata": {"a": "\udcff"}}, "not valid Unicode"),
            ({"metadata": {"a": "x" * 2048}}, "2049 bytes as S3 stores it, and 2048 are allowed"),
        ],
    )
    def test_what_can_not_be_said(self, storage: Storage, said: Any, message: str):
        with pytest.raises(InvalidInputError, match=message):
            storage.put("k", b"x", **said)
        assert list(storage.list()) == []

    # -- abilities ----------------------------------------------------------------------------

    def test_local_files(self, storage: Storage):
        if isinstance(storage, LocalFiles):
            storage.put("a/b", b"x")
            assert storage.path("a/b").read_bytes() == b"x"
            with pytest.raises(InvalidInputError):
                storage.path("../x")

    def test_delta_tables(self, storage: Storage):
        if isinstance(storage, DeltaTables):
            storage.write("t", rows(a=[1, 2, 3]))
            storage.write("t", rows(a=[4]))
            dataset = storage.dataset("t", version=0)
            assert dataset.to_table() == dataset.to_table() == rows(a=[1, 2, 3])
            assert storage.dataset("t").count_rows() == 4
            uri, _ = storage.delta_location("t")
            assert uri.endswith("/t")

    def test_health(self, storage: Storage):
        health = storage.health()
        assert health.ok, health
        assert health.detail
