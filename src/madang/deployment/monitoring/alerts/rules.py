"""Alert rules as Prometheus' own YAML has them.

https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from madang.deployment.monitoring.series.promql import Query, parse
from madang.errors import InvalidInputError

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_DURATION = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?"
)
_UNITS = (365 * 86_400_000, 7 * 86_400_000, 86_400_000, 3_600_000, 60_000, 1000, 1)
_ACTION = re.compile(r"\{\{\s*\$(?:labels\.([a-zA-Z_][a-zA-Z0-9_]*)|(value))\s*\}\}")
_KEYS = {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}


@dataclass(frozen=True)
class Rule:
    """When something is an alert.

    Attributes:
        name: The alert's name, unique in a project.
        query: Each series of its result is an alert of its own.
        for_ms: It is pending until it held for so long, in milliseconds.
        keep_firing_ms: It fires for so long after it held last.
        labels: Are added to those of the series; may hold `{{ $labels.NAME }}` and `{{ $value }}`.
        annotations: As `labels`, for people.
        group: The group's name in its file.
    """

    name: str
    query: Query
    for_ms: int = 0
    keep_firing_ms: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `1h30m`.

    Raises:
        InvalidInputError: It is none.
    """
    found = _DURATION.fullmatch(text)
    if text == "0":
        return 0
    if not found or not text:
        raise InvalidInputError(f"{text!r} is no duration such as 30s, 5m or 1h30m")
    return sum(int(n) * unit for n, unit in zip(found.groups(), _UNITS, strict=True) if n)


def render(text: str, labels: Mapping[str, str], value: float) -> str:
    """A template's text: names are replaced once, so what a label says is never a template."""

    def replaced(match: re.Match[str]) -> str:
        return labels.get(match[1], "") if match[1] else f"{value:.12g}"

    return _ACTION.sub(replaced, text)


def read_rules(folder: Path) -> list[Rule]:
    """The rules of `alerts/*.yaml`, by file and place in it; `notify.yaml` is no rules' file.

    Raises:
        InvalidInputError: A file can't be used; says which, where and why.
    """
    found: list[Rule] = []
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "notify.yaml":
            found += parse_rules(path.read_text("utf-8"), str(path.name))
    names = [rule.name for rule in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(
            f"{folder}: each alert has a name of its own; more than once there is: "
            f"{', '.join(twice)}"
        )
    return found


def parse_rules(text: str, where: str) -> list[Rule]:
    """The rules of one file.

    Args:
        text: YAML of groups of rules.
        where: What messages call it.

    Raises:
        InvalidInputError: It can't be used; says where and why.
    """
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{where}: {error}") from error
    if not isinstance(content, dict) or set(content) != {"groups"}:
        raise InvalidInputError(f"{where}: a file of rules has one key, groups")
    found = []
    for group in _list(content["groups"], f"{where}: groups"):
        if not isinstance(group, dict) or not {"name", "rules"} <= set(group):
            raise InvalidInputError(f"{where}: each group has a name and rules")
        if extra := sorted(set(group) - {"name", "rules"}):
            raise InvalidInputError(
                f"{where}: group {group['name']}: {', '.join(extra)} can't be set; "
                "rules are evaluated after each scrape"
            )
        for number, rule in enumerate(_list(group["rules"], where), 1):
            found.append(
                _rule(rule, str(group["name"]), f"{where}: {group['name']}, rule {number}")
            )
    return found


def _list(value: Any, where: str) -> Iterable[Any]:
    if not isinstance(value, list):
        raise InvalidInputError(f"{where} must be a list")
    return value


def _rule(content: Any, group: str, where: str) -> Rule:
    if not isinstance(content, dict) or not {"alert", "expr"} <= set(content):
        raise InvalidInputError(f"{where} needs alert and expr; recording rules are not evaluated")
    if unknown := sorted(set(content) - _KEYS):
        raise InvalidInputError(
            f"{where}: unknown {', '.join(unknown)}; known are: {', '.join(sorted(_KEYS))}"
        )
    if not isinstance(content["alert"], str) or not _NAME.fullmatch(content["alert"]):
        raise InvalidInputError(f"{where}: {content['alert']!r} can't be an alert's name")
    try:
        return Rule(
            content["alert"],
            parse(str(content["expr"])),
            duration_ms(str(content.get("for", "0"))),
            duration_ms(str(content.get("keep_firing_for", "0"))),
            _texts(content.get("labels"), "labels"),
            _texts(content.get("annotations"), "annotations"),
            group,
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error


def _texts(content: Any, kind: str) -> dict[str, str]:
    found = {}
    for name, text in ({} if content is None else content).items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise InvalidInputError(f"{name!r} can't be a name of {kind}")
        if not isinstance(text, str):
            raise InvalidInputError(f"{kind}: {name} must be a text, found {text!r}")
        if "{{" in _ACTION.sub("", text):
            raise InvalidInputError(
                f"{kind}: {name} has a template other than {{{{ $labels.NAME }}}} and "
                "{{ $value }}, which are all there are"
            )
        found[name] = text
    if kind == "labels" and "alertname" in found:
        raise InvalidInputError("the label alertname is the alert's name")
    return found


def document(rules: Iterable[Rule]) -> str:
    """The rules as a file that Prometheus takes."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for rule in rules:
        entry: dict[str, Any] = {"alert": rule.name, "expr": rule.query.text}
        if rule.for_ms:
            entry["for"] = f"{rule.for_ms}ms"
        if rule.keep_firing_ms:
            entry["keep_firing_for"] = f"{rule.keep_firing_ms}ms"
        if rule.labels:
            entry["labels"] = dict(rule.labels)
        if rule.annotations:
            entry["annotations"] = dict(rule.annotations)
        groups.setdefault(rule.group or "madang", []).append(entry)
    content = {"groups": [{"name": name, "rules": found} for name, found in groups.items()]}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
