"""MkDocs hooks: the marks that only our tests read, and the reference of all contracts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).parents[1] / "src" / "madang"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Removes `notest` from fences, and fills in the list of contracts."""
    text = re.sub(r"^```python notest$", "```python", markdown, flags=re.MULTILINE)
    if page.file.src_uri == "reference.md":
        text = text.replace("<!-- contracts -->", _contracts())
    return text


def _contracts() -> str:
    files = sorted(_SOURCE.glob("*/*/contract.py"))
    modules = [".".join(("madang", *file.relative_to(_SOURCE).parts[:2])) for file in files]
    return "\n\n".join(f"## {name}\n\n::: {name}.contract" for name in modules)
