"""Tokens: how they look, what is stored of them, and the file of the first one."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from madang.errors import ConfigurationError

PREFIX = "mdg_"  # lets people and secret scanners recognize a token
_TOKEN = re.compile(r"mdg_[A-Za-z0-9_-]{43}")


def new_token() -> str:
    """A token: the prefix and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """What is stored of a token: its SHA-256, 64 hex digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def kept_token(path: Path) -> str:
    """The token that `path` holds, made (mode 0600) when it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = new_token()
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename it never replaces a file that somebody has read
    except FileExistsError:
        return _read_token(path)
    finally:
        temporary.unlink()
    return token


def _read_token(path: Path) -> str:
    token = path.read_text("utf-8", errors="replace").strip()
    if path.stat().st_mode & 0o077 or not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            f"{path} is not a token that only its owner may read; delete it and start again"
        )
    return token
