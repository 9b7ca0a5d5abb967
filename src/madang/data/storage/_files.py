"""Files that are really on disk: write, sync, then give the name, then sync the folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from madang.ledger import new_id


def sync_folder(folder: Path) -> None:
    """Makes names that were added to or removed from `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Makes the content of a file that somebody else wrote durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes `folder` and those above it, durably.

    Raises:
        NotADirectoryError: One of them is a file.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is a file", str(folder)) from None
    sync_folder(folder.parent)


@contextmanager
def new_file(path: Path) -> Iterator[FileIO]:
    """Writes a new file; it is durable when the block ends, and gone when it raises.

    Raises:
        FileExistsError: The file exists.
    """
    make_folder(path.parent)
    try:
        with FileIO(path, "xb") as file:
            yield file
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replacing(path: Path, scratch: Path, *, overwrite: bool) -> Iterator[FileIO]:
    """Writes a file under a temporary name in `scratch`, then moves it to `path` in one step.

    Raises:
        FileExistsError: `overwrite=False` and `path` exists; decided by that step.
        NotADirectoryError: A folder of `path` is a file.
        IsADirectoryError: `path` is a folder.
    """
    make_folder(scratch)
    temporary = scratch / new_id()
    try:
        with FileIO(temporary, "xb") as file:
            yield file
            os.fsync(file.fileno())
        make_folder(path.parent)
        if overwrite:
            temporary.replace(path)
        elif path.is_dir():  # link(2) would say that the name exists
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        else:
            os.link(temporary, path)
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(file: FileIO, data: memoryview) -> None:
    """Writes all of `data`: one call may take only a part (Linux: 2 GiB)."""
    view = data.cast("B")
    while view:
        view = view[file.write(view) :]
