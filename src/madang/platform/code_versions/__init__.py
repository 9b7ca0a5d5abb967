"""Which code, which data, which model: git."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.platform.code_versions.contract import CodeVersion, CodeVersions

ENGINES = {"git": "madang.platform.code_versions.git:GitCodeVersions"}
DEFAULT = "git"


def connect(url: str | None, context: engines.Context) -> CodeVersions:
    """Opens the code-versions engine that `url` names."""
    return cast("CodeVersions", engines.connect("platform.code_versions", url, context))


__all__ = ["DEFAULT", "ENGINES", "CodeVersion", "CodeVersions", "connect"]
