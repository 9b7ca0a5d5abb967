"""What is new in a dataset since a version of it."""

from __future__ import annotations

import pyarrow.dataset as pads

from madang.data.storage import DeltaTables, Storage
from madang.errors import NotFoundError

KEEPS_ROWS = frozenset({"compact", "optimize", "vacuum start", "vacuum end"})
"""Operations, in our words and other programs', that leave a table's rows as they were."""


class NotGrown(Exception):  # noqa: N818 - a finding, handled where it is raised
    """The dataset did not only get new rows; says what happened."""


def added(storage: Storage, table: str, old: int, new: int) -> pads.Dataset:
    """The rows that version `new` has and version `old` had not.

    Raises:
        NotGrown: Rows were changed or removed in between, or the storage can't tell.
    """
    if not isinstance(storage, DeltaTables):
        raise NotGrown(f"the storage does not tell what is new in {table}")
    if new < old:
        raise NotGrown(f"{table} was made anew: it has no version {old} any more")
    changes = _operations(storage, table, old, new)
    for version, operation in changes:
        if operation != "append" and operation not in KEEPS_ROWS:
            raise NotGrown(f"version {version} of {table} is no append, but {operation}")
    # Rows come with their own version's files; compaction moves them into others later.
    last = _files(storage, table, new)
    fresh: dict[str, pads.Fragment] = {}
    for version, operation in changes:
        if operation == "append":
            before, after = (_files(storage, table, one) for one in (version - 1, version))
            if after.schema != last.schema:
                raise NotGrown(f"version {version} of {table} has other columns than now")
            known = set(before.files)
            # Not made anew from their paths: a fragment of a partitioned table knows its values.
            fresh.update({f.path: f for f in after.get_fragments() if f.path not in known})
    return pads.FileSystemDataset(list(fresh.values()), last.schema, last.format, last.filesystem)


def _operations(storage: Storage, table: str, old: int, new: int) -> list[tuple[int, str]]:
    newest = storage.versions(table, limit=1)[-1].version
    known = storage.versions(table, limit=newest - old) if newest > old else []
    found = [(one.version, one.operation) for one in known if old < one.version <= new]
    if [version for version, _ in found] != list(range(old + 1, new + 1)):
        raise NotGrown(f"the versions of {table} after {old} are no longer kept")
    return found


def _files(storage: DeltaTables, table: str, version: int) -> pads.FileSystemDataset:
    try:
        found = storage.dataset(table, version=version)
    except NotFoundError as error:
        raise NotGrown(str(error)) from error
    if not isinstance(found, pads.FileSystemDataset):
        raise NotGrown(f"the storage does not tell what is new in {table}")
    return found
