"""Python environments of their own, for clients and servers whose pins clash with Madang's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.servers import cache, missing

LISTS = Path(__file__).parents[2] / ".ci" / "servers" / "environments"


def interpreter(name: str) -> Path:
    """The Python of the environment that `.ci/servers/environments/NAME.txt` describes.

    Skips the test where the environment isn't made; fails it where servers are required.
    """
    digest = hashlib.sha256((LISTS / f"{name}.txt").read_bytes()).hexdigest()[:12]
    folder = cache() / "environments" / f"{name}-{digest}"
    if not (folder / ".complete").exists():
        missing(
            f"the environment {folder.name} isn't there; "
            f"run .ci/servers/environments.sh {cache()} {name}"
        )
    return folder / "bin" / "python"
