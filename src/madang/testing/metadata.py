"""What every metadata database must do."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from madang.engines import Context
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    InvalidInputError,
    MadangError,
)
from madang.metadata import connect
from madang.metadata.contract import Migration, migrations

_ADD = """
import sys
from pathlib import Path
from madang.engines import Context
from madang.metadata import connect
database = connect(sys.argv[1], Context("other", Path(sys.argv[2])))
for _ in range(int(sys.argv[3])):
    with database.transaction() as tx:
        value = tx.execute("SELECT value FROM item WHERE name = ?", ("counter",))[0][0]
        tx.execute("UPDATE item SET value = ? WHERE name = ?", (value + 1, "counter"))
"""


class DatabaseContract:
    """Needs the fixture `metadata_url`: the URL of a fresh, empty database."""

    @pytest.fixture
    def context(self, tmp_path, metadata_url):
        return Context("test", tmp_path, metadata_url=metadata_url)

    @pytest.fixture
    def database(self, context):
        database = connect(context.metadata_url, context)
        with database.transaction() as tx:
            tx.execute("CREATE TABLE item (name TEXT PRIMARY KEY, value BIGINT, raw BYTEA)")
        yield database
        database.close()

    @pytest.fixture
    def other(self, database, context):
        """The same database, opened a second time."""
        other = connect(context.metadata_url, context)
        yield other
        other.close()

    def put(self, database, name, value=0):
        with database.transaction() as tx:
            tx.execute("INSERT INTO item (name, value) VALUES (?, ?)", (name, value))

    def names(self, database):
        with database.transaction(write=False) as tx:
            return [row[0] for row in tx.execute("SELECT name FROM item ORDER BY name")]

    def test_values_come_back_as_they_were(self, database):
        with database.transaction() as tx:
            sql = "INSERT INTO item VALUES (?, ?, ?) RETURNING value"
            assert tx.execute(sql, ("100% ?ö𝄞", 2**63 - 1, bytes(range(256)))) == [(2**63 - 1,)]
        with database.transaction(write=False) as tx:
            rows = tx.execute("SELECT * FROM item")
        assert [tuple(row) for row in rows] == [("100% ?ö𝄞", 2**63 - 1, bytes(range(256)))]

    def test_executemany_runs_for_each_row(self, database):
        with database.transaction() as tx:
            rows = [(str(n), n) for n in range(10)]
            tx.executemany("INSERT INTO item (name, value) VALUES (?, ?)", rows)
        assert self.names(database) == [str(n) for n in range(10)]

    def test_a_committed_change_is_seen_by_others(self, database, other):
        self.put(database, "a")
        assert self.names(other) == ["a"]

    def test_an_exception_rolls_everything_back(self, database, other):
        with pytest.raises(KeyError), database.transaction() as tx:
            tx.execute("INSERT INTO item (name) VALUES ('a')")
            raise KeyError
        assert self.names(other) == []
        self.put(database, "b")
        assert self.names(other) == ["b"]

    def test_an_uncommitted_change_is_not_seen(self, database, other):
        with database.transaction() as tx:
            tx.execute("INSERT INTO item (name) VALUES ('a')")
            assert self.names(other) == []
        assert self.names(other) == ["a"]

    def test_a_reader_keeps_its_snapshot(self, database, other):
        self.put(database, "a")
        with other.transaction(write=False) as tx:
            assert len(tx.execute("SELECT name FROM item")) == 1
            self.put(database, "b")
            assert len(tx.execute("SELECT name FROM item")) == 1
        assert self.names(other) == ["a", "b"]

    def test_a_reader_can_not_write(self, database):
        with pytest.raises(Exception, match=r"read.?only"), database.transaction(write=False) as tx:
            tx.execute("INSERT INTO item (name) VALUES ('a')")
        assert self.names(database) == []
        self.put(database, "b")
        assert self.names(database) == ["b"]

    def test_a_failed_statement_can_not_be_committed_around(self, database):
        self.put(database, "a")
        with pytest.raises(MadangError, match="error was caught"), database.transaction() as tx:
            tx.execute("INSERT INTO item (name) VALUES ('b')")
            with pytest.raises(AlreadyExistsError, match="key is taken"):
                tx.execute("INSERT INTO item (name) VALUES ('a')")
        assert self.names(database) == ["a"]

    def test_a_taken_key_is_refused(self, database):
        self.put(database, "a")
        with pytest.raises(AlreadyExistsError, match="key is taken"):
            self.put(database, "a")

    def test_half_of_a_surrogate_pair_is_refused(self, database):
        with pytest.raises(InvalidInputError, match="can't be stored"):
            self.put(database, "\ud800")

    def test_too_large_integer_is_refused(self, database):
        with pytest.raises(InvalidInputError, match="can't be stored"):
            self.put(database, "a", 2**63)

    def test_transactions_do_not_nest(self, database):
        for write in (True, False):
            nested = pytest.raises(MadangError, match="don't nest")
            with database.transaction(write=write), nested, database.transaction():
                pass
        self.put(database, "a")
        assert self.names(database) == ["a"]

    def test_writers_in_threads_take_turns(self, database):
        self.put(database, "counter")

        def add(_):
            with database.transaction() as tx:
                sql = "SELECT value FROM item WHERE name = 'counter'"
                value = tx.execute(sql)[0][0]
                tx.execute("UPDATE item SET value = ? WHERE name = 'counter'", (value + 1,))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(200)))
        with database.transaction(write=False) as tx:
            assert tx.execute("SELECT value FROM item")[0][0] == 200

    def test_writers_that_touch_rows_in_opposite_order_both_get_through(self, database):
        self.put(database, "a")
        self.put(database, "b")

        def both(names):
            for _ in range(20):
                with database.transaction() as tx:
                    for name in names:
                        tx.execute("UPDATE item SET value = value + 1 WHERE name = ?", (name,))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(both, ("ab", "ba")))
        with database.transaction(write=False) as tx:
            assert tx.execute("SELECT DISTINCT value FROM item") == [(40,)]

    def test_writers_in_processes_take_turns(self, database, context):
        self.put(database, "counter")
        command = [sys.executable, "-c", _ADD, context.metadata_url, str(context.root), "25"]
        processes = [subprocess.Popen(command) for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        with database.transaction(write=False) as tx:
            assert tx.execute("SELECT value FROM item")[0][0] == 75

    def test_many_short_threads_leave_no_connections_behind(self, database):
        def count():
            return len(list(Path("/proc/self/fd").iterdir()))

        self.put(database, "0")
        before = count()
        for number in range(1, 30):
            thread = threading.Thread(target=self.put, args=(database, str(number)))
            thread.start()
            thread.join()
        assert count() <= before
        assert len(self.names(database)) == 30

    def test_works_on_both_sides_of_a_fork(self, context, database):
        code = (
            "import os, sys; from pathlib import Path\n"
            "from madang.engines import Context; from madang.metadata import connect\n"
            "database = connect(sys.argv[1], Context('other', Path(sys.argv[2])))\n"
            "def put(name):\n"
            "    with database.transaction() as tx:\n"
            "        tx.execute('INSERT INTO item (name) VALUES (?)', (name,))\n"
            "put('before'); child = os.fork()\n"
            "for n in range(20): put(f'{child == 0}{n:02}')\n"
            "if child: assert os.waitpid(child, 0)[1] == 0; put('after')\n"
        )
        command = [sys.executable, "-c", code, context.metadata_url, str(context.root)]
        subprocess.run(command, check=True, timeout=60)
        assert len(self.names(database)) == 42

    def test_migrates_to_each_version_and_back(self, context):
        from madang import engines

        database = engines.connect("metadata", context.metadata_url, context)
        try:
            assert database.schema_version() == 0
            newest = len(migrations())
            for version in [*range(1, newest + 1), *range(newest - 1, -1, -1)]:
                assert database.migrate(version) == version == database.schema_version()
            assert database.migrate() == newest
            assert database.migrate(0) == 0
            assert database.migrate() == newest
        finally:
            database.close()

    def test_an_unknown_version_is_refused(self, database):
        newest = len(migrations())
        with pytest.raises(ConfigurationError, match=f"no schema {newest + 1}; choose 0 to"):
            database.migrate(newest + 1)

    def test_a_newer_schema_is_refused(self, database, context):
        with database.transaction() as tx:
            tx.execute("UPDATE schema_version SET version = 9999")
        with pytest.raises(ConfigurationError, match=r"schema 9999.*install a newer madang"):
            connect(context.metadata_url, context)
        with pytest.raises(ConfigurationError, match="schema 9999"):
            database.migrate(1)

    def test_a_failing_migration_changes_nothing(self, database, monkeypatch):
        newest = len(migrations())
        up = "CREATE TABLE half (a TEXT); CREATE TABLE half (a TEXT)"
        bad = (*migrations(), Migration(newest + 1, "bad", up, "DROP TABLE half"))
        monkeypatch.setattr("madang.metadata.contract.migrations", lambda: bad)
        with pytest.raises(Exception, match="already exists"):
            database.migrate()
        assert database.schema_version() == newest
        with pytest.raises(Exception, match="half"), database.transaction(write=False) as tx:
            tx.execute("SELECT * FROM half")

    def test_two_first_openings_at_once_migrate_once(self, context):
        def opened(_):
            database = connect(context.metadata_url, context)
            database.close()
            return database

        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(opened, range(4)))) == 4

    def test_unknown_options_are_refused(self, context):
        joint = "&" if "?" in context.metadata_url else "?"
        with pytest.raises(ConfigurationError, match="has no option colour"):
            connect(f"{context.metadata_url}{joint}colour=red", context)

    def test_health_names_engine_and_schema(self, database):
        health = database.health()
        assert health.ok
        assert f"schema {len(migrations())}" in health.detail

    def test_closing_twice_is_safe(self, database):
        database.close()
        database.close()
