"""Environments of their own for the peers, whose pins clash with Madang's; made once and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "madang-peers"

REQUIREMENTS = {
    "casbin": ["casbin>=1.43"],
    "dagster": ["dagster", "pandas", "pyarrow"],
    "hamilton": ["apache-hamilton", "pandas", "pyarrow"],
    "kedro": ["kedro", "kedro-datasets[pandas-parquetdataset,pickle]", "pandas", "pyarrow"],
    "mlflow": ["mlflow"],
    "mlserver": ["mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22", "setuptools<81"],
}


def python(name: str, *, build: bool) -> Path | None:
    """The peer's interpreter; built first if asked, `None` if it isn't there."""
    venv = FOLDER / name
    done = venv / ".complete"
    if not done.exists() and build:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run(
            [venv / "bin" / "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True
        )
        done.touch()
    return venv / "bin" / "python" if done.exists() else None
