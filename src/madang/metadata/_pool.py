"""Connections that wait for their next transaction."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from madang.errors import MadangError, UnavailableError


class Connection(Protocol):
    """What the pool needs of a connection."""

    def close(self) -> None:
        """Ends the connection."""


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """Lends each transaction a connection of its own and takes it back afterwards.

    There are as many connections as transactions were ever open at once, whatever the number of
    threads. A process that was forked gets its own ones: neither a SQLite nor a PostgreSQL
    connection survives being used on both sides of a fork.
    """

    def __init__(self) -> None:
        self._inherited: list[list[C]] = []
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._generation = object()
        self._idle: list[C] = []
        self._thread = threading.local()

    @contextmanager
    def lease(self, connect: Callable[[], C], begin: Callable[[C], bool]) -> Iterator[C]:
        """Lends a connection until the block ends; one that broke in it is not lent again.

        Args:
            connect: Opens a connection.
            begin: Begins the transaction; `False` when the server has ended this connection since
                its last one, so that another one may take its place.

        Raises:
            MadangError: This thread already has one, so a transaction would nest.
            UnavailableError: The server ends even a fresh connection.
        """
        if self._pid != os.getpid():
            # Kept, not closed: closing would say goodbye in the name of the other process.
            self._inherited.append(self._idle)
            self._renew()
        thread, generation = self._thread, self._generation
        if getattr(thread, "leased", False):
            raise MadangError(
                "this thread already has a transaction open, and transactions don't nest; "
                "pass the open one on instead"
            )
        thread.leased = True
        try:
            connection = self._begun(connect, begin)
            try:
                yield connection
            finally:
                self._give(connection, generation)
        finally:
            thread.leased = False

    def _begun(self, connect: Callable[[], C], begin: Callable[[C], bool]) -> C:
        fresh = False
        while not fresh:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection, fresh = connect(), True
            try:
                if begin(connection):
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise UnavailableError("the metadata server ends every connection at once; check its log")

    def _give(self, connection: C, generation: object) -> None:
        # After a close() in between, what was on loan is closed when it comes back.
        if generation is self._generation and not getattr(connection, "closed", False):
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Closes the connections; those on loan are closed when they come back."""
        if self._pid == os.getpid():
            self._generation = object()
            while self._idle:
                self._idle.pop().close()
