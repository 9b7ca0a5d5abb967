"""`make demo` after the install: seconds until the first prediction, and peak memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BOOK = "the book: 104 commands, 12 GB"


def main() -> None:
    script = Path(__file__).parents[1] / "examples" / "flights" / "demo" / "run.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    first = re.search(r"FIRST PREDICTION over HTTP, ([0-9.]+) s", done.stdout)
    memory = re.search(r"peak memory of all processes: (\d+) MB", done.stdout)
    assert first
    assert memory
    print(f"first prediction over HTTP after {first[1]} s (limit 60 s)")
    print(f"peak memory of all processes {memory[1]} MB (limit 1000 MB; {BOOK})")
    print(f"first prediction / limit: {float(first[1]) / 60:.2f}")
    print(f"12 GB / Madang: {12_000 / int(memory[1]):.0f} x")


if __name__ == "__main__":
    main()
