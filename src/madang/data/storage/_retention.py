"""Which versions of a table stay readable: tags, dropped versions, and files that nobody needs.

In a table's folder: `_madang/tags/NAME.json` is a tag, and the files in `_madang/dropped/` together
say which versions are dropped, since when, and which have no files any more. (Readers of the Delta
format leave out what begins with an underscore.) A tag wins over a file that says "dropped": so a
tag and a retention at the same moment need no lock.
"""

from __future__ import annotations

import itertools
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deltalake import DeltaTable

from madang.data.storage._log import actions_of, entry_name
from madang.data.storage._tables import FileInfo, TablePlace
from madang.data.storage.contract import Retained, TableVersion
from madang.errors import AlreadyExistsError, IntegrityError, InvalidInputError, NotFoundError
from madang.ledger import new_id

_TAGS = "_madang/tags"
_DROPPED = "_madang/dropped"

_ABANDONED = timedelta(days=7)
"""A file of no version is a killed writer's after so long; `MAX_WRITE_SECONDS` is less."""


class Opens(Protocol):
    """What retention needs to see of the tables."""

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """A version, dropped or not."""
        ...

    def versions(self, table: str, limit: int | None = None) -> list[TableVersion]:
        """All versions, dropped or not."""
        ...

    def errors(self, table: str) -> AbstractContextManager[None]:
        """Translates the Delta library's errors."""
        ...


@dataclass
class State:
    """Which versions are dropped.

    Attributes:
        dropped: Version to the time when it was dropped, in milliseconds since 1970.
        swept: Those whose files are gone.
        names: The files that say so.
        saved: What they say.
    """

    dropped: dict[int, int] = field(default_factory=dict)
    swept: set[int] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    saved: bytes = b""

    @property
    def gone(self) -> set[int]:
        """All that can't be opened."""
        return {*self.dropped, *self.swept}

    def as_json(self) -> bytes:
        """The state as one file."""
        by_time: dict[int, list[int]] = {}
        for version, at in self.dropped.items():
            by_time.setdefault(at, []).append(version)
        dropped = [[at, _ranges(versions)] for at, versions in sorted(by_time.items())]
        return json.dumps({"dropped": dropped, "swept": _ranges(self.swept)}).encode()

    def add(self, data: bytes) -> None:
        """Adds what another file says."""
        found = json.loads(data)
        for at, ranges in found["dropped"]:
            for version in _members(ranges):
                self.dropped[version] = min(at, self.dropped.get(version, at))
        self.swept.update(_members(found["swept"]))


class Retention:
    """Tags and retention of the tables of one place.

    Args:
        place: Where the tables lie.
        tables: Opens them.
    """

    def __init__(self, place: TablePlace, tables: Opens) -> None:
        self._place = place
        self._tables = tables

    # -- tags ---------------------------------------------------------------------------------

    def tag(self, table: str, version: int, name: str) -> None:
        """As `Storage.tag`."""
        with self._tables.errors(table):
            newest = self._tables.open(table).version()
            if not 0 <= version <= newest:
                raise NotFoundError(
                    f"table {table!r} has no version {version}; it has 0 to {newest}"
                )
            path = f"{_TAGS}/{name}.json"
            said = json.dumps({"version": version, "at": _now()}).encode()
            is_new = self._place.put_new(table, path, said)
            tagged = self.tags(table).get(name)
            if tagged != version:
                raise AlreadyExistsError(
                    f"tag {name!r} of table {table!r} is at version {tagged}; untag it first, or "
                    "choose another name"
                )
            # After the tag is there: a retention that did not see it is seen here.
            if is_new and version in self.state(table).gone:
                self._place.discard(table, path)
                raise self._past(table, version)

    def untag(self, table: str, name: str) -> None:
        """As `Storage.untag`."""
        with self._tables.errors(table):
            self._place.discard(table, f"{_TAGS}/{name}.json")

    def tags(self, table: str) -> dict[str, int]:
        """As `Storage.tags`."""
        with self._tables.errors(table):
            self._tables.open(table)
            found = {}
            for file in self._place.files(table, _TAGS):
                data = self._place.get(table, file.name)
                if data is not None:
                    name = file.name.removeprefix(f"{_TAGS}/").removesuffix(".json")
                    found[name] = int(json.loads(data)["version"])
            return dict(sorted(found.items()))

    # -- which versions can be read -----------------------------------------------------------

    def state(self, table: str) -> State:
        """What was dropped so far."""
        state = State()
        for file in sorted(self._place.files(table, _DROPPED), key=lambda file: file.name):
            data = self._place.get(table, file.name)
            if data is not None:  # another retention joined it with its own
                state.add(data)
                state.names.append(file.name)
        state.saved = state.as_json()
        return state

    def check_readable(self, table: str, version: int) -> None:
        """Checks that a version that is not the newest is not past its retention.

        Raises:
            NotFoundError: It is.
        """
        if version in self.state(table).gone and version not in self.tags(table).values():
            raise self._past(table, version)

    def _past(self, table: str, version: int) -> NotFoundError:
        gone = self.state(table).gone
        newest = self._tables.open(table).version()
        left = [v for v in range(newest + 1) if v not in gone or v in self.tags(table).values()]
        shown = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in _ranges(left))
        return NotFoundError(
            f"version {version} of table {table!r} is past its retention; these can be read: {shown}"
        )

    # -- retention ----------------------------------------------------------------------------

    def retain(
        self,
        table: str,
        keep: timedelta,
        grace: timedelta,
        *,
        dry_run: bool,
        is_used: Callable[[int], bool],
    ) -> Retained:
        """As `Storage.retain`."""
        if keep < timedelta(0) or grace < timedelta(0):
            raise InvalidInputError(f"keep ({keep}) and grace ({grace}) can't be negative")
        with self._tables.errors(table):
            now = _now()
            state = self.state(table)
            old = [v for v in self._replaced(table, now - _ms(keep)) if v not in state.swept]
            needed = {*self.tags(table).values(), *filter(is_used, old)}
            dropped = [v for v in old if v not in needed and v not in state.dropped]
            state.dropped.update(dict.fromkeys(dropped, now))
            if dropped and not dry_run:
                self._save(table, state)
                # Tagged in the meantime, by somebody who did not see the file that is there now.
                needed.update(self.tags(table).values())
            # What a tag or a model came to need begins anew when that is over.
            for version in needed & set(state.dropped):
                del state.dropped[version]
            swept = [v for v, at in state.dropped.items() if at <= now - _ms(grace)]
            doomed = list(self._doomed(table, state, swept))
            if not dry_run:
                for file in doomed:
                    self._place.discard(table, file.name)
                self._finish(table, state, swept)
            return Retained(
                dropped=tuple(v for v in dropped if v not in needed),
                swept=tuple(sorted(swept)),
                kept=tuple(sorted(needed & set(old))),
                files=len(doomed),
                size_bytes=sum(file.size_bytes for file in doomed),
            )

    def _replaced(self, table: str, before: int) -> Iterator[int]:
        """The versions that were replaced by a newer one before a time."""
        known = self._tables.versions(table)
        for version, newer in itertools.pairwise(known):
            if newer.timestamp.timestamp() * 1000 <= before:
                yield version.version

    def _doomed(self, table: str, state: State, swept: Collection[int]) -> Iterator[FileInfo]:
        """The files that no version needs any more."""
        newest = self._tables.open(table).version()
        gone = {*state.swept, *swept}
        needed, once = self._lives(table, newest, gone)
        abandoned = datetime.now(UTC) - _ABANDONED
        for file in self._place.files(table, ""):
            folder = file.name.partition("/")[0]
            if (folder.startswith("_") and "=" not in folder) or file.name in needed:
                continue
            if file.name in once or file.modified < abandoned:
                yield file

    def _lives(self, table: str, newest: int, gone: set[int]) -> tuple[set[str], set[str]]:
        """The files of versions that are not gone, and all that a version ever had."""
        # Replays the log, because opening each version by itself would read it again and again.
        left = [version for version in range(newest + 1) if version not in gone]
        needed: set[str] = set()
        once: set[str] = set()
        since: dict[str, int] = {}

        def ended(name: str, version: int) -> None:
            """The file was in the versions from `since` to before this one."""
            start = bisect_left(left, since.pop(name, version))
            if start < len(left) and left[start] < version:
                needed.add(name)

        for version in range(newest + 1):
            entry = self._place.get(table, entry_name(version))
            if entry is None:
                raise IntegrityError(
                    f"table {table!r} has no log entry of version {version}, so what its versions "
                    "need can't be told; nothing was deleted"
                )
            removes, adds = actions_of(entry)
            for name in removes:
                ended(name, version)
            since.update(dict.fromkeys(adds, version))
            once |= adds
        for name in list(since):
            ended(name, newest + 1)
        return needed, once

    def _save(self, table: str, state: State) -> None:
        """Makes one file of the state, and removes those that it was read from."""
        name = f"{_DROPPED}/{new_id()}.json"
        self._place.put_new(table, name, state.as_json())
        for old in state.names:
            self._place.discard(table, old)
        state.names, state.saved = [name], state.as_json()

    def _finish(self, table: str, state: State, swept: Iterable[int]) -> None:
        for version in swept:
            del state.dropped[version]
            state.swept.add(version)
        if state.as_json() != state.saved or len(state.names) > 1:
            self._save(table, state)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _ranges(versions: Iterable[int]) -> list[list[int]]:
    """Numbers as ranges, first to last."""
    ranges: list[list[int]] = []
    for version in sorted(versions):
        if ranges and ranges[-1][1] == version - 1:
            ranges[-1][1] = version
        else:
            ranges.append([version, version])
    return ranges


def _members(ranges: Iterable[list[int]]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)
