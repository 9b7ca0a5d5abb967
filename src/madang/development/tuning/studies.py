"""`@study`: an objective with its space, in a file of the project's `studies/` folder.

    @study({"x": Float(0, 1)}, trials=50)
    def late(params):
        return (params["x"] - 0.5) ** 2

`madang tune run late` finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.development.tuning.contract import Objective, Space, Study
from madang.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from madang.stack import Stack


@dataclass(frozen=True)
class StudyDefinition:
    """An objective with what to search.

    Attributes:
        name: The experiment that its runs belong to.
        function: The objective.
        space: Parameter name to range.
        options: Further arguments of `Tuning.tune`.
    """

    name: str
    function: Objective
    space: Space
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, stack: Stack, **options: Any) -> Study:
        """Searches; `options` win over those of the definition."""
        chosen = {"name": self.name, **self.options, **options}
        return stack.tuning.tune(self.function, self.space, **chosen)


def study(space: Space, **options: Any) -> Callable[[Objective], StudyDefinition]:
    """Makes a function the objective of a study.

    Args:
        space: Parameter name to range.
        options: Further arguments of `Tuning.tune`; `name` is the function's own if it is left out.
    """

    def decorate(function: Objective) -> StudyDefinition:
        name = str(options.get("name") or getattr(function, "__name__", "study"))
        return StudyDefinition(name, function, space, options)

    return decorate


def find_study(root: Path, target: str) -> StudyDefinition:
    """A study of the project by its name, or by `FILE:NAME` (`studies/late.py:late`).

    Args:
        root: The project's folder.
        target: The name; or a file, relative to `root`, with or without `:NAME`.

    Raises:
        NotFoundError: There is none of that name; lists what there is.
        InvalidInputError: Several have it, or a file can't be imported.
    """
    from madang.workflow.pipelines.discovery import import_file, inside

    file, _, name = target.rpartition(":") if ".py" in target else ("", "", target)
    if name.endswith(".py"):
        file, name = name, ""
    files = [inside(root, file)] if file else sorted((root / "studies").glob("*.py"))
    known = {
        f"{path.relative_to(root)}:{attribute}": value
        for path in files
        for attribute, value in vars(import_file(root, path)).items()
        if isinstance(value, StudyDefinition)
    }
    found = {place: one for place, one in known.items() if name in ("", one.name)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InvalidInputError(f"{target!r} could be any of: {', '.join(found)}")
    names = ", ".join(sorted({one.name for one in known.values()})) or "none"
    raise NotFoundError(f"there is no study {target!r} in the project's files; there is: {names}")
