"""The kernels' side of a project: which interpreter, which folder, which extension."""

from __future__ import annotations

import os
from pathlib import Path

from madang.engines import Context

_CONFIGURATION = """\
# Written by madang lab: each kernel of this project knows %madang, %sql and %%step.
c.InteractiveShellApp.extensions = ["madang.development.modeling.magics"]
# Kernels speak over the loopback address with signed messages; they would warn of it at each start.
c.IPKernelApp.log_level = 40
"""


def write_configuration(folder: Path) -> None:
    """Makes the project's own IPython folder, so that nobody's home is touched."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # Jupyter writes tokens and logs there
    profile = folder / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True, mode=0o700)
    (profile / "ipython_kernel_config.py").write_text(_CONFIGURATION)


def environment(context: Context, folder: Path) -> dict[str, str]:
    """The environment of a lab or of a kernel of this project."""
    env = {
        **os.environ,
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "MADANG_PROJECT": str(context.root),
        "PYTHONPATH": _search_path(context.root),
    }
    name = context.stack.project.env if context.stack else None
    return env if name is None else env | {"MADANG_ENV": name}


def _search_path(root: Path) -> str:
    """The project first; absolute, because a kernel runs in another folder."""
    known = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([str(root), *map(os.path.abspath, known)]))
