"""What a code-versions engine promises: which code ran."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from madang.engines import Engine


@dataclass(frozen=True)
class CodeVersion:
    """The state of the project's code.

    Attributes:
        commit: The commit's id, or `None` when the project is in no repository or has no commit.
        branch: The branch's name, if on one.
        dirty: Whether the working tree differs from the commit.
        diff: What differs (a patch that `git apply` takes, untracked files included), or "".
        tree: The id of the whole state, dirty or not: equal states, equal ids.
    """

    commit: str | None
    branch: str | None
    dirty: bool
    diff: str
    tree: str | None

    @property
    def ref(self) -> str:
        """`code:COMMIT`, `code:COMMIT+TREE` when dirty, `code:none` outside of a repository."""
        if self.commit is None:
            return f"code:{self.tree or 'none'}"
        return f"code:{self.commit}" + (f"+{self.tree}" if self.dirty else "")


class CodeVersions(Engine):
    """Reads the version of the project's code; never changes the working tree or the index."""

    @abstractmethod
    def current(self) -> CodeVersion:
        """The state now. Outside of a repository every field is empty, and that is no error."""

    @abstractmethod
    def exists(self, commit: str) -> bool:
        """Whether the repository has that commit."""

    @abstractmethod
    def read(self, commit: str, path: str) -> bytes:
        """A file as it was at a commit.

        Raises:
            NotFoundError: No such commit or file.
        """
