"""All benchmarks, one after the other: `make bench`, or `make bench ARGS="pipelines serving"`.

The peers' environments are made first, from PyPI, and kept outside of the project.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = {
    "ab_testing": [],
    "startup": ["--build-peers"],
    "pipelines": ["--build-peers"],
    "policy": [],
    "ledger": [],
    "storage": [],
    "collection": [],
    "ingestion": ["--memory"],
    "validation": [],
    "processing": [],
    "features": [],
    "features_http": [],
    "windows": [],
    "mlflow": ["--build-peers"],
    "compiled": [],
    "evaluation": [],
    "experiments": [],
    "copies": ["--build-peers"],
    "serving": ["--build-peers"],
    "series": [],
    "soak": ["--minutes", "1"],
    "monitoring": [],
    "triggers": [],
    "tuning": [],
    "demo": [],
}
"""File to its arguments, in the order of running."""


def main() -> None:
    here = Path(__file__).parent
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            raise SystemExit(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
        print(f"\n== {name}", flush=True)
        subprocess.run([sys.executable, here / f"{name}.py", *BENCHMARKS[name]], check=True)


if __name__ == "__main__":
    main()
