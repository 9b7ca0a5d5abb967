"""What a metadata database promises.

SQL is written once, in the part that SQLite and PostgreSQL share, with `?` for parameters.
Types in migrations: `TEXT`, `BIGINT`, `DOUBLE PRECISION`, `BYTEA`, `BOOLEAN`; times are `BIGINT`
microseconds since 1970 UTC; JSON is `TEXT`. A table may end in `WITHOUT ROWID`, which counts on
SQLite alone.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

from madang.engines import Engine
from madang.errors import ConfigurationError

Row = Sequence[Any]


class Transaction(Protocol):
    """Statements that happen together or not at all."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Runs one statement and returns all its rows (none for a statement without result)."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Runs one statement for each parameter row."""
        ...


@dataclass(frozen=True)
class Migration:
    """One step of the schema: the statements that make it and those that undo it."""

    version: int
    name: str
    up: str
    down: str


FAILED = (
    "a statement of this transaction failed and its error was caught inside of it, so nothing was "
    "committed; let the error end the transaction"
)


class Database(Engine):
    """A transactional SQL store.

    Every engine promises: transactions that write happen one after another, and what one of them
    read stays true until it ends; one that reads sees one consistent snapshot and never waits.
    When `transaction()` ends without an exception the change is on disk; when it raises, nothing
    changed. A statement that fails ends its transaction: nothing of it can be committed. Safe for
    use by many threads and many processes at once, also after a fork. Transactions don't nest.
    """

    @abstractmethod
    def transaction(self, *, write: bool = True) -> AbstractContextManager[Transaction]:
        """Opens a transaction; `write=False` reads one consistent snapshot and can't write.

        Raises:
            AlreadyExistsError: A statement broke a key that must be unique.
            ConflictError: The database stayed locked by others for 30 seconds.
            IntegrityError: The stored bytes are damaged.
            InvalidInputError: A value can't be stored, such as text with half of a surrogate pair.
            MadangError: This thread already has a transaction open.
            UnavailableError: The server or the disk does not answer.
        """

    def lock(self, tx: Transaction, name: str) -> None:
        """Holds `name` until the transaction ends.

        Writers take turns, so that a transaction that writes holds every name already.
        """
        return

    def ddl(self, statement: str) -> str:
        """A migration's statement in this engine's own words."""
        return statement

    def like(self, column: str, pattern: str, *, ignore_case: bool = False) -> tuple[str, str]:
        """A condition with one `?`, and the value for it: whether a text column is like a pattern.

        Args:
            column: SQL of a text; never of input.
            pattern: `%` for any text, `_` for any character; there is no escape.
            ignore_case: Whether upper and lower case are equal (beyond ASCII where the engine can).
        """
        # The empty escape: a backslash is a character like any other, as on SQLite.
        return f"{column} {'ILIKE' if ignore_case else 'LIKE'} ? ESCAPE ''", pattern

    def ordered(self, column: str) -> str:
        """SQL that compares and orders a text column by its characters' code points."""
        return column

    def give_back(self) -> None:
        """Gives the space of deleted rows back to the disk, where the engine doesn't by itself."""
        return

    def damage(self) -> str:
        """What the engine's own check of its files finds; empty when nothing, or without one."""
        return ""

    @abstractmethod
    def schema_version(self) -> int:
        """The number of the newest migration that was applied; 0 for an empty database."""

    def migrate(self, target: int | None = None) -> int:
        """Moves the schema up or down to `target` (default: the newest), all or nothing.

        Returns:
            The version now in force.

        Raises:
            ConfigurationError: `target` is unknown, or the database is newer than this Madang.
        """
        known = migrations()
        newest = len(known)
        target = newest if target is None else target
        if not 0 <= target <= newest:
            raise ConfigurationError(f"there is no schema {target}; choose 0 to {newest}")
        if self.schema_version() == target:
            return target
        with self.transaction() as tx:
            tx.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
            rows = tx.execute("SELECT version FROM schema_version")
            current = int(rows[0][0]) if rows else 0  # another process may have been first
            if current > newest:
                raise ConfigurationError(
                    f"the metadata database has schema {current}, and this Madang knows up to "
                    f"{newest}; install a newer madang"
                )
            steps = (
                [m.up for m in known[current:target]]
                if target > current
                else [m.down for m in reversed(known[target:current])]
            )
            for script in steps:
                for statement in statements(script):
                    tx.execute(self.ddl(statement))
            tx.execute("DELETE FROM schema_version")
            tx.execute("INSERT INTO schema_version VALUES (?)", (target,))
        return target


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in order, from `migrations/NNNN_name.sql`.

    Each file holds `-- up`, the statements, `-- down`, the statements that undo them.
    """
    found = []
    folder = resources.files("madang.metadata") / "migrations"
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            up, down = file.read_text("utf-8").split("-- down")
            found.append(Migration(int(match[1]), match[2], up.replace("-- up", ""), down))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise ConfigurationError(f"migrations are not numbered 1 to {len(found)} without gaps")
    return tuple(found)


def statements(script: str) -> list[str]:
    """The single statements of a migration (which holds no `;` inside of one)."""
    text = re.sub(r"--[^\n]*", "", script)
    return [part.strip() for part in text.split(";") if part.strip()]
