"""An evaluator of Rego, of a stated part of the language, whose results are OPA's.

What it can't do as OPA does is refused when a file is loaded, never evaluated another way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madang.errors import InvalidInputError, PolicyError
from madang.security.policy.rego.compile import Program
from madang.security.policy.rego.parser import parse
from madang.security.policy.rego.resolve import resolve
from madang.security.policy.rego.values import UNDEFINED, to_json


def compile_modules(files: Mapping[str, str], data: dict[str, Any] | None = None) -> Program:
    """Compiles Rego files and base data.

    Args:
        files: File name to text.
        data: What `data` holds beside the rules.

    Raises:
        InvalidInputError: A file is not Rego, has an unsafe variable, a builtin that is not there
            or would differ from OPA's, or something else that the engine hasn't; says where.
    """
    modules = [parse(text, file) for file, text in files.items()]
    found = data or {}
    try:
        return Program(resolve(modules, found), found)
    except (PolicyError, RecursionError) as error:
        raise InvalidInputError(str(error) or "it is nested too deeply") from error


__all__ = ["UNDEFINED", "Program", "compile_modules", "to_json"]
