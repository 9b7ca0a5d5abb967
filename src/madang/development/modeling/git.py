"""Notebooks in git: what their cells show never gets into a commit or a diff (by nbstripout)."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from madang.errors import ConfigurationError, InvalidInputError, NotFoundError

_ATTRIBUTES = "*.ipynb filter=madang-notebook diff=madang-notebook\n"


def set_up(root: Path) -> list[str]:
    """Sets git's filter in the repository that `root` lies in; repeating it changes nothing.

    The filter stands in the repository's own configuration, which git does not share, so each clone
    runs this once; `.gitattributes` is for the commit.

    Returns:
        What was done, a line each.

    Raises:
        ConfigurationError: `root` is in no git repository.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    strip = f"{shlex.quote(sys.executable)} -m nbstripout"
    settings = {
        "filter.madang-notebook.clean": strip,
        "filter.madang-notebook.smudge": "cat",
        # Without the program a commit fails, instead of carrying what was to be left out.
        "filter.madang-notebook.required": "true",
        "diff.madang-notebook.textconv": f"{strip} -t",
    }
    for key, value in settings.items():
        _git(root, "config", key, value)
    file = Path(top) / ".gitattributes"
    text = file.read_text() if file.exists() else ""
    done = ["the filter is set in this repository's configuration"]
    if _ATTRIBUTES not in text:
        file.write_text(text + ("" if not text or text.endswith("\n") else "\n") + _ATTRIBUTES)
        done.append(f"{file.name}: *.ipynb use it; commit this file")
    return done


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def clear_file(notebook: str | Path) -> bool:
    """Removes outputs and execution counts from a notebook's file; says whether it had any.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: It is no notebook.
    """
    import nbformat
    from nbstripout import strip_output

    path = Path(notebook).resolve()  # a link stays one
    if not path.is_file():
        raise NotFoundError(f"there is no file {notebook}")
    try:
        before = path.read_text("utf-8")
        node = nbformat.reads(before, as_version=nbformat.NO_CONVERT)
    except (ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise InvalidInputError(f"{notebook} is no Jupyter notebook: {error}") from error
    after = nbformat.writes(strip_output(node, keep_output=False, keep_count=False, keep_id=True))
    if not after.endswith("\n"):
        after += "\n"
    if after == before:
        return False
    part = path.with_name(f".{path.name}.part")
    part.write_text(after, "utf-8")
    part.chmod(path.stat().st_mode)
    part.replace(path)
    return True
