"""Code versions by git's command line, which is faster here than its Python bindings.

The working tree's state becomes a tree in a temporary index and a temporary object folder: HEAD's
tree with each changed file as it is now. So the id is the one that a commit of everything would
have, and neither the user's index nor the repository gets anything written.
"""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, NotFoundError
from madang.platform.code_versions._command import Git, GitMissingError, NoRepositoryError
from madang.platform.code_versions.contract import CodeVersion, CodeVersions

_MAX_FILE_BYTES = 1 << 20
_MAX_DIFF_BYTES = 16 << 20
_NOTHING = CodeVersion(commit=None, branch=None, dirty=False, diff="", tree=None)
_DIFF = (
    "diff-index", "--cached", "--patch", "--binary", "--full-index", "--no-renames", "--no-color",
    "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty",
    "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


@dataclass(frozen=True)
class _Status:
    """What `git status` says: the commit (`None` before the first), the branch, changed paths."""

    commit: str | None
    branch: str | None
    changed: tuple[str, ...]


class GitCodeVersions(CodeVersions):
    """The git repository that the project's folder is in, all of it.

    Files that git ignores are no code. Untracked repositories inside are left out. A changed file
    above 1 MB counts in `tree` but stands in `diff` by its git blob id alone, in a comment before
    the patch; of a diff above 16 MB only the list of files is kept, which `git apply` can't take.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._git = Git(folder)
        self._trees: dict[str, str] = {}

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(url.local_path(context.root) if url.path else context.root)

    def current(self) -> CodeVersion:
        """The state now.

        Raises:
            ConfigurationError: git refuses to read the repository, for example because another
                user owns it.
        """
        try:
            status = self._status()
        except (GitMissingError, NoRepositoryError):
            return _NOTHING
        head = self._tree_of(status.commit)
        if not status.changed:
            return CodeVersion(status.commit, status.branch, dirty=False, diff="", tree=head)
        tree, diff = self._snapshot(status, head)
        dirty = tree != head
        return CodeVersion(status.commit, status.branch, dirty, diff if dirty else "", tree)

    def exists(self, commit: str) -> bool:
        return self._resolve(commit) is not None

    def read(self, commit: str, path: str) -> bytes:
        """A file as it was at a commit; `path` is relative to the project's folder."""
        found = self._resolve(commit)
        if found is None:
            raise NotFoundError(
                f"{self._folder} has no commit {commit!r} in git; commit the file first, or name a "
                "commit that exists"
            )
        done = self._git.attempt("cat-file", "blob", f"{found}:./{path}")
        if done.returncode:
            raise NotFoundError(f"commit {commit} has no file {path!r}")
        return done.stdout

    def health(self) -> Health:
        try:
            version = self._git.run("version").decode().strip()
            top = self._git.run("rev-parse", "--show-toplevel").decode().strip()
        except GitMissingError as error:
            return Health(False, str(error), "install git, so that runs record their code")
        except NoRepositoryError as error:
            # No fault: a project may live without, and its runs say so.
            return Health(True, str(error), "run: git init, so that runs record their code")
        except (ConfigurationError, OSError) as error:
            return Health(False, str(error), "do what git says")
        return Health(True, f"{version}, {top}")

    # -- reading ------------------------------------------------------------------------------

    def _status(self) -> _Status:
        output = self._git.run(
            "status", "--porcelain=v2", "--branch", "-z",
            "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty",
        )  # fmt: skip
        commit = branch = None
        changed: list[str] = []
        for entry in os.fsdecode(output).split("\0"):
            kind, _, rest = entry.partition(" ")
            if kind == "#":
                name, _, value = rest.partition(" ")
                if name == "branch.oid" and value != "(initial)":
                    commit = value
                elif name == "branch.head" and value != "(detached)":
                    branch = value
            elif kind in _FIELDS_BEFORE_PATH:
                changed.append(rest.split(" ", _FIELDS_BEFORE_PATH[kind])[-1])
        return _Status(commit, branch, tuple(p for p in changed if not p.endswith("/")))

    def _tree_of(self, commit: str | None) -> str:
        """The tree of a commit; the empty tree before the first commit."""
        if commit is None:
            return self._git.run("hash-object", "-t", "tree", "--stdin").decode().strip()
        if commit not in self._trees:
            found = self._git.run("rev-parse", "--verify", f"{commit}^{{tree}}")
            self._trees[commit] = found.decode().strip()
        return self._trees[commit]

    def _resolve(self, commit: str) -> str | None:
        if not commit or "\0" in commit:
            return None
        done = self._git.attempt(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"
        )
        return done.stdout.decode().strip() if done.returncode == 0 else None

    # -- the working tree ---------------------------------------------------------------------

    def _snapshot(self, status: _Status, head: str) -> tuple[str, str]:
        """The tree id of the working tree, and its patch against `head`."""
        paths = self._git.run("rev-parse", "--show-toplevel", "--git-path", "objects")
        top, objects = (Path(self._folder, line) for line in os.fsdecode(paths).splitlines())
        with tempfile.TemporaryDirectory(prefix="madang-git-") as folder:
            git = Git(top).with_environment(
                GIT_INDEX_FILE=f"{folder}/index",
                GIT_OBJECT_DIRECTORY=folder,
                GIT_ALTERNATE_OBJECT_DIRECTORIES=_quoted(objects),
            )
            return _Snapshot(git, top, head, Path(folder)).take(status.changed)


# Porcelain v2: the fields between the entry's kind and its path.
_FIELDS_BEFORE_PATH = {"1": 7, "u": 9, "?": 0}


class _Snapshot:
    """HEAD's tree with the changed paths as they are on disk, in a temporary index."""

    def __init__(self, git: Git, top: Path, head: str, folder: Path) -> None:
        self._git = git
        self._top = top
        self._head = head
        self._folder = folder

    def take(self, changed: tuple[str, ...]) -> tuple[str, str]:
        """The tree id and the patch."""
        gone, small, large = self._sorted(changed)
        self._git.run("read-tree", self._head)
        self._update("--force-remove", "--stdin", entries=gone)
        self._update("--add", "--remove", "--replace", "--stdin", entries=small)
        patch = self._patch()
        blobs = {path: self._blob(path) for path in large}
        lines = [f"{mode} {blob}\t{path}" for path, (mode, blob, _) in blobs.items()]
        self._update("--index-info", entries=lines)
        # The large files' objects were never written, and nobody needs them for the id.
        tree = self._git.run("write-tree", "--missing-ok").decode().strip()
        return tree, _comment(blobs) + patch

    def _update(self, *arguments: str, entries: list[str]) -> None:
        if entries:  # an idle git costs milliseconds too
            stdin = b"".join(os.fsencode(entry) + b"\0" for entry in entries)
            self._git.run("update-index", "-z", *arguments, stdin=stdin)

    def _sorted(self, changed: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
        gone, small, large = [], [], []
        for path in sorted(set(changed)):
            try:
                found = (self._top / path).lstat()
            except (FileNotFoundError, NotADirectoryError):
                gone.append(path)
                continue
            if stat.S_ISDIR(found.st_mode) and not (self._top / path / ".git").exists():
                gone.append(path)  # a file or submodule became a folder; its files are listed too
            elif stat.S_ISREG(found.st_mode) and found.st_size > _MAX_FILE_BYTES:
                large.append(path)
            else:
                small.append(path)
        return gone, small, large

    def _blob(self, path: str) -> tuple[str, str, int]:
        """The mode, blob id and bytes of a file, without storing it."""
        blob = self._git.run("hash-object", "--", path).decode().strip()
        found = (self._top / path).stat()
        mode = "100755" if found.st_mode & stat.S_IXUSR else "100644"
        return mode, blob, found.st_size

    def _patch(self) -> str:
        for attributes in ("", "* -diff\n"):
            # A text file that is not UTF-8 can't be part of a str: the second time all files are
            # binary to git, which writes them in base85.
            file = self._folder / "attributes"
            file.write_text(attributes, "utf-8")
            setting = ("-c", f"core.attributesFile={file}") if attributes else ()
            raw = self._git.run_bounded(*setting, *_DIFF, self._head, max_bytes=_MAX_DIFF_BYTES)
            if raw is None:
                break
            try:
                return raw.decode("utf-8")
            except UnicodeDecodeError:
                continue
        listed = self._git.run("diff-index", "--cached", "--no-renames", "--abbrev=64", self._head)
        return "# The diff is too large, or not UTF-8; what changed:\n" + _commented(listed)


def _quoted(path: Path) -> str:
    """A path as an entry of git's list of object folders, which `:` separates."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _comment(blobs: dict[str, tuple[str, str, int]]) -> str:
    if not blobs:
        return ""
    lines = [f"{blob} {size} bytes {path}" for path, (_, blob, size) in blobs.items()]
    head = f"# Files above {_MAX_FILE_BYTES} bytes, by git blob id:\n"
    return head + _commented("\n".join(lines).encode("utf-8", "backslashreplace") + b"\n")


def _commented(lines: bytes) -> str:
    text = lines.decode("utf-8", "backslashreplace")
    return "".join(f"# {line}\n" for line in text.split("\n") if line)
