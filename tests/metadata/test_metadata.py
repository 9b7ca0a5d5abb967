from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import free_port

from madang.engines import Context
from madang.errors import ConfigurationError, ConflictError, IntegrityError, UnavailableError
from madang.metadata import connect
from madang.testing.metadata import DatabaseContract


class TestSQLite(DatabaseContract):
    @pytest.fixture
    def metadata_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/folder/metadata.db"

    def test_the_default_lies_in_the_home_folder(self, tmp_path):
        database = connect(None, Context("p", tmp_path))
        assert database.path == tmp_path / ".madang" / "madang.db"
        database.close()

    def test_two_slashes_are_refused(self, context):
        with pytest.raises(ConfigurationError, match=r"write sqlite:///here\.db"):
            connect("sqlite://here.db", context)

    def test_every_commit_is_synced(self, database):
        with database.transaction() as tx:
            assert tx.execute("PRAGMA synchronous") == [(2,)]
            assert tx.execute("PRAGMA journal_mode") == [("wal",)]

    def test_another_file_is_refused(self, context, tmp_path):
        (tmp_path / "x.db").write_bytes(b"hello, I am no database at all" * 100)
        with pytest.raises(IntegrityError, match=r"x\.db: file is not a database; restore it"):
            connect("sqlite:///x.db", context)

    def test_a_folder_is_refused(self, context, tmp_path):
        (tmp_path / "x.db").mkdir()
        with pytest.raises(UnavailableError, match="unable to open database file; check"):
            connect("sqlite:///x.db", context)

    def test_a_folder_that_can_not_be_made_is_refused(self, context, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UnavailableError, match=r"file/folder can't be made|file can't be made"):
            connect("sqlite:///file/folder/x.db", context)

    def test_health_of_a_damaged_file_says_so(self, context, database):
        database.close()
        Path(database.path).write_bytes(b"zero" * 5000)
        health = database.health()
        assert not health.ok
        assert "not a database" in health.detail
        assert "backup" in health.advice

    def test_waiting_for_a_writer_ends(self, context, database, monkeypatch):
        monkeypatch.setattr("madang.metadata.sqlite._BUSY_SECONDS", 0.1)
        other = connect(context.metadata_url, context)
        with database.transaction(), pytest.raises(ConflictError, match="database is locked; "):
            with other.transaction():
                pass
        other.close()

    def test_damage_in_an_index_is_found(self, database):
        with database.transaction() as tx:
            rows = [(f"name-{n}", n) for n in range(1000)]
            tx.executemany("INSERT INTO item (name, value) VALUES (?, ?)", rows)
        assert database.damage() == ""
        with database.transaction(write=False) as tx:
            sql = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_item_1'"
            page = tx.execute(sql)[0][0]
        database.close()
        content = bytearray(database.path.read_bytes())
        for at in range((page - 1) * 4096 + 8, page * 4096):
            content[at] ^= 0x55
        database.path.write_bytes(content)
        assert "restore it from a backup" in database.damage()
        database.close()

    def test_processes_that_open_a_new_file_at_once_all_succeed(self, metadata_url, tmp_path):
        code = (
            "import sys; from pathlib import Path; from madang.engines import Context\n"
            "from madang.metadata import connect\n"
            "connect(sys.argv[1], Context('p', Path('.'))).close()"
        )
        command = [sys.executable, "-c", code, metadata_url]
        processes = [subprocess.Popen(command, cwd=tmp_path) for _ in range(6)]
        assert [process.wait(60) for process in processes] == [0] * 6


class TestPostgreSQL(DatabaseContract):
    @pytest.fixture
    def metadata_url(self, postgresql_url):
        return postgresql_url

    def test_a_schema_that_is_no_name_is_refused(self, context, postgresql_server):
        with pytest.raises(ConfigurationError, match="takes letters, digits and _"):
            connect(f"{postgresql_server}?schema=a%20-c%20x", context)

    def test_a_missing_schema_is_refused(self, context, postgresql_server):
        with pytest.raises(ConfigurationError, match="create the schema that the URL names"):
            connect(f"{postgresql_server}?schema=nowhere", context)

    def test_waiting_for_a_writer_ends(self, context, database, monkeypatch):
        monkeypatch.setattr("madang.metadata.postgresql._LOCK_SECONDS", 0.1)
        other = connect(context.metadata_url, context)
        with database.transaction(), pytest.raises(ConflictError, match="lock timeout; it stayed"):
            with other.transaction():
                pass
        other.close()

    def test_a_lost_connection_is_replaced(self, database, other):
        self.put(database, "a")
        with other.transaction() as tx:
            mine = tx.execute("SELECT pg_backend_pid()")[0][0]
            tx.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'madang' AND pid <> ?",
                (mine,),
            )
        self.put(database, "b")
        assert self.names(database) == ["a", "b"]

    def test_a_connection_lost_inside_of_a_transaction_changes_nothing(self, database, other):
        with pytest.raises(UnavailableError, match="check the server"):
            with database.transaction() as tx:
                tx.execute("INSERT INTO item (name) VALUES ('a')")
                pid = tx.execute("SELECT pg_backend_pid()")[0][0]
                with other.transaction(write=False) as killer:
                    killer.execute("SELECT pg_terminate_backend(?)", (pid,))
                tx.execute("INSERT INTO item (name) VALUES ('b')")
        assert self.names(database) == []


def test_a_server_that_is_not_there_is_named(tmp_path):
    url = f"postgresql://user:hidden@127.0.0.1:{free_port()}/name"
    context = Context("p", tmp_path, metadata_url=url)
    with pytest.raises(UnavailableError, match=r"PostgreSQL at 127\.0\.0\.1 does not answer") as e:
        connect(url, context)
    assert "hidden" not in str(e.value)


def test_postgresql_comes_back_after_a_restart(stopped_postgresql, tmp_path):
    server = stopped_postgresql
    context = Context("p", tmp_path, metadata_url=server.url)
    with server.running():
        database = connect(server.url, context)
        context.ledger.record("test.done", "x:1")
    with pytest.raises(UnavailableError):
        database.schema_version()
    health = database.health()
    assert not health.ok
    assert "start the server" in health.advice
    with server.running():
        assert database.health().ok
        assert context.ledger.verify().ok
        assert context.ledger.record("test.done", "x:2") == 2
        database.close()
        context.close()
