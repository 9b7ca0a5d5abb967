"""Madang: the whole of MLOps in one place.

    import madang

    stack = madang.open()               # the project of this folder
    stack.storage.write("numbers", table)

Everything is imported on first use, so that `import madang` costs milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madang.stack import Stack, init, open
    from madang.workflow.pipelines import pipeline, step

_LAZY = {
    "Stack": "madang.stack",
    "init": "madang.stack",
    "open": "madang.stack",
    "pipeline": "madang.workflow.pipelines",
    "step": "madang.workflow.pipelines",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("madang")
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'madang' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_LAZY, "__version__"])


__all__ = ["Stack", "init", "open", "pipeline", "step"]
