"""The default engine: Rego evaluated in this process, of the part of the language that is certain."""

from __future__ import annotations

from typing import Any, Self

from madang.engines import Context, EngineURL, Health
from madang.errors import PolicyError
from madang.security.policy.contract import Bundle, PolicyEngine
from madang.security.policy.rego import UNDEFINED, Program, compile_modules, to_json


class EmbeddedPolicy(PolicyEngine):
    """Needs no server and no package; `rego/` says what of the language it has.

    What would differ from OPA is refused when it is loaded.
    """

    def __init__(self) -> None:
        self._program: Program | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls()

    def load(self, bundle: Bundle) -> None:
        self._program = compile_modules(bundle.files, dict(bundle.data))

    def evaluate(self, path: str, input: Any) -> tuple[bool, Any]:
        program = self._program
        if program is None:
            raise PolicyError("no policy is loaded")
        found = program.ask(tuple(path.split(".")), input)
        return (False, None) if found is UNDEFINED else (True, to_json(found))

    def health(self) -> Health:
        return Health(True, "Rego in this process")
