"""Runs git so that neither the user's environment nor the user's repository changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from madang.errors import ConfigurationError, MadangError

# Inside of a hook git sets GIT_DIR and GIT_INDEX_FILE, which would point elsewhere. These name
# files of settings, or where to stop looking, and stay.
_KEPT = {
    "GIT_CEILING_DIRECTORIES",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_EXEC_PATH",
}


class GitMissingError(MadangError):
    """There is no `git` on the PATH."""


class NoRepositoryError(MadangError):
    """The folder is in no repository."""


def environment() -> dict[str, str]:
    """The user's environment without what redirects git, and with messages in English."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in _KEPT}
    # Optional locks would let a mere `git status` rewrite the user's index.
    return {**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


class Git:
    """git in one folder."""

    def __init__(self, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._extra = dict(extra or {})

    def with_environment(self, **extra: str) -> Git:
        """The same folder with more environment variables."""
        return Git(self.folder, {**self._extra, **extra})

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """What git prints.

        Raises:
            GitMissingError: There is no git.
            NoRepositoryError: The folder is in no repository.
            ConfigurationError: git refuses; says why.
        """
        done = self.attempt(*arguments, stdin=stdin)
        if done.returncode:
            message = done.stderr.decode("utf-8", "replace").strip()
            if "not a git repository" in message:
                raise NoRepositoryError(f"{self.folder} is in no git repository")
            raise ConfigurationError(f"git {arguments[0]} in {self.folder}: {message}")
        return done.stdout

    def attempt(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs git and leaves its exit code to the caller.

        Raises:
            GitMissingError: There is no git.
        """
        try:
            return subprocess.run(
                self._command(arguments),
                input=stdin,
                capture_output=True,
                cwd=self.folder,
                env={**environment(), **self._extra},
                check=False,
            )
        except FileNotFoundError as error:
            raise self._not_found(error) from error

    def run_bounded(self, *arguments: str, max_bytes: int) -> bytes | None:
        """What git prints, or `None` when that is more than `max_bytes`."""
        try:
            process = subprocess.Popen(
                self._command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                env={**environment(), **self._extra},
            )
        except FileNotFoundError as error:
            raise self._not_found(error) from error
        with process:
            assert process.stdout is not None
            output = process.stdout.read(max_bytes + 1)
            if len(output) > max_bytes:
                process.kill()
                return None
        if process.returncode:
            raise ConfigurationError(
                f"git {arguments[0]} in {self.folder} ended with {process.returncode}"
            )
        return output

    def _command(self, arguments: Sequence[str]) -> list[str]:
        # A file-system monitor would be a daemon that outlives us; safecrlf refuses what we only read.
        return ["git", "-c", "core.fsmonitor=false", "-c", "core.safecrlf=false", *arguments]

    def _not_found(self, error: FileNotFoundError) -> Exception:
        if error.filename == "git":
            return GitMissingError("git is not installed, or not on the PATH")
        return error
