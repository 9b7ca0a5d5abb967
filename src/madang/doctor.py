"""`madang doctor`: how each box of the map is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from madang.engines import Health
from madang.errors import MadangError
from madang.stack import COMPONENTS

if TYPE_CHECKING:
    from madang.stack import Stack


@dataclass(frozen=True)
class Box:
    """One box: its place in the map, its engine's scheme, its health."""

    box: str
    engine: str
    ok: bool
    detail: str
    advice: str = ""


def examine(stack: Stack) -> list[Box]:
    """Asks every component's engine, and the metadata database, how it is."""
    boxes = [_box("metadata", _scheme(stack, "metadata", "sqlite"), lambda: stack.metadata)]
    for name, place in COMPONENTS.items():
        from importlib import import_module

        default = import_module(f"madang.{place}").DEFAULT
        boxes.append(_box(place, _scheme(stack, name, default), lambda n=name: getattr(stack, n)))
    return boxes


def _scheme(stack: Stack, name: str, default: str) -> str:
    url = stack.project.urls.get(name)
    return default if url is None else url.partition("://")[0]


def _box(place: str, scheme: str, engine: Any) -> Box:
    try:
        health: Health = engine().health()
    except MadangError as error:
        return Box(place, scheme, ok=False, detail=str(error), advice="see madang.toml")
    return Box(place, scheme, health.ok, health.detail, health.advice)
