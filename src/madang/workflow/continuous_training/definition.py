"""What makes a trigger usable, what of an event it takes, and triggers in files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import yaml

from madang.errors import InvalidInputError
from madang.ledger import format_time
from madang.workflow.continuous_training.contract import Kind, Trigger
from madang.workflow.continuous_training.cron import next_time

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REFERENCE = re.compile(r"\$\{(key|reason|due|data\.[^}]+)\}")

_NEEDS = {
    Kind.ALERT: "source",
    Kind.DATASET: "source",
    Kind.FILE: "source",
    Kind.PIPELINE: "after",
    Kind.SCHEDULE: "cron",
    Kind.TOPIC: "source",
    Kind.WEBHOOK: "secret",
}
"""The field that says what a trigger of a kind waits for; no other kind may have it."""


def check(trigger: Trigger) -> Trigger:
    """The trigger as it is kept, with plain JSON values.

    Raises:
        InvalidInputError: It can't work; says why.
    """
    trigger = _plain(trigger)
    if not _NAME.fullmatch(trigger.name):
        raise InvalidInputError(
            f"a trigger's name has letters, digits, ., - and _, at most 100; found {trigger.name!r}"
        )
    said = f"trigger {trigger.name!r}"
    if not trigger.pipeline or not trigger.pool:
        raise InvalidInputError(f"{said} needs the name of a pipeline and of a pool")
    needed = _NEEDS.get(trigger.kind)
    for name in sorted(set(_NEEDS.values())):
        if bool(getattr(trigger, name)) is not (name == needed):
            verb = "needs" if name == needed else "can't have"
            raise InvalidInputError(f"{said} of kind {trigger.kind} {verb} the field {name}")
    _check_limits(said, trigger)
    if trigger.kind is Kind.SCHEDULE:
        next_time(trigger.cron, trigger.zone, 0)
        if trigger.debounce_seconds or trigger.where:
            raise InvalidInputError(f"{said}: a schedule has no debounce_seconds and no where")
    if trigger.kind is Kind.FILE:
        parts = PurePosixPath(trigger.source)
        if parts.is_absolute() or ".." in parts.parts:
            raise InvalidInputError(
                f"{said}: source is a pattern inside of the project's folder, such as "
                f"incoming/*.csv; found {trigger.source!r}"
            )
    for path, wanted in trigger.where.items():
        if isinstance(wanted, Mapping) and not wanted.keys() <= {"min", "max"}:
            raise InvalidInputError(
                f"{said}: where {path} takes a value, a list of values, or min and max"
            )
    return trigger


def _check_limits(said: str, trigger: Trigger) -> None:
    for name, low, high in (
        ("debounce_seconds", 0, 86_400),
        ("per_seconds", 0.001, 1e9),
        ("max_active", 1, 10_000),
        ("max_runs", 1, 1_000_000),
    ):
        value = getattr(trigger, name)
        if value is not None and not low <= value <= high:
            raise InvalidInputError(f"{said}: {name} is {low} to {high:g}, found {value!r}")


def _plain(trigger: Trigger) -> Trigger:
    """The same trigger as JSON would give it; refuses values of other types."""
    try:
        text = msgspec.json.encode(asdict(trigger))
        return msgspec.json.decode(text, type=Trigger)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"trigger {trigger.name!r} is not usable: {error}") from error


def check_circle(triggers: Iterable[Trigger]) -> None:
    """Refuses pipelines that would start each other for ever.

    Raises:
        InvalidInputError: Names the circle.
    """
    graph = TopologicalSorter[str]()
    for trigger in triggers:
        graph.add(_name_of(trigger.pipeline), *map(_name_of, trigger.after))
    try:
        graph.prepare()
    except CycleError as error:
        raise InvalidInputError(
            f"pipelines would start each other for ever: {' after '.join(error.args[1])}; "
            "take one of these triggers away"
        ) from error


def _name_of(pipeline: str) -> str:
    """The pipeline's own name, as its runs have it."""
    return pipeline.rpartition(":")[2]


def waits_for(trigger: Trigger) -> frozenset[str]:
    """The names of the pipelines that must have succeeded."""
    return frozenset(map(_name_of, trigger.after))


def passes(where: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether an event's data have the values that a trigger wants."""
    return all(_fits(wanted, _look_up(data, path)) for path, wanted in where.items())


_ABSENT = object()


def _look_up(data: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return _ABSENT
        data = data[part]
    return data


def _fits(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Mapping):
        known = isinstance(found, int | float) and not isinstance(found, bool)
        low, high = wanted.get("min", found), wanted.get("max", found)
        return known and bool(low <= found <= high)
    return found in wanted if isinstance(wanted, list | tuple) else bool(found == wanted)


def fill(
    params: Mapping[str, Any], *, key: str, reason: str, due_us: int, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameters of an event's run.

    Raises:
        InvalidInputError: They refer to a field that the data don't have.
    """
    known = {"key": key, "reason": reason, "due": format_time(due_us)}

    def value_of(name: str) -> Any:
        if name in known:
            return known[name]
        found = _look_up(data, name.removeprefix("data."))
        if found is _ABSENT:
            raise InvalidInputError(
                f"the parameters refer to ${{{name}}}, and the event's data have: "
                f"{', '.join(map(str, data)) or 'nothing'}"
            )
        return found

    def filled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: filled(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [filled(item) for item in value]
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            return value_of(whole[1])
        return _REFERENCE.sub(lambda match: str(value_of(match[1])), value)

    return {name: filled(value) for name, value in params.items()}


def read(root: Path) -> list[Trigger]:
    """The triggers in `triggers/*.yaml` of a project, one in each file, named as the file.

    Raises:
        InvalidInputError: A file is not usable; says which and why.
    """
    return [_read(file) for file in sorted((root / "triggers").glob("*.yaml"))]


def _read(file: Path) -> Trigger:
    said = f"triggers/{file.name}"
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{said} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{said} needs fields such as kind and pipeline")
    try:
        return parse({"name": file.stem, **content})
    except InvalidInputError as error:
        raise InvalidInputError(f"{said}: {error}") from error


def parse(content: Mapping[str, Any]) -> Trigger:
    """A trigger from its fields, as a file or a request has them.

    Raises:
        InvalidInputError: A field is unknown, missing or not usable.
    """
    known = {field.name for field in fields(Trigger)}
    unknown = sorted(str(name) for name in content if name not in known)
    if unknown:
        raise InvalidInputError(
            f"unknown fields: {', '.join(unknown)}; known are: {', '.join(sorted(known))}"
        )
    try:
        return check(msgspec.convert(content, Trigger))
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error)) from error
