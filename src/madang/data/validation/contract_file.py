"""Data contracts as files: `contracts/NAME.yaml` in the project, next to the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from madang.data.validation._rules import RULES, SEVERITIES, problems
from madang.data.validation._types import FORMS, name_of, type_of
from madang.data.validation.contract import Check, Column, DataContract
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")

_HEAD = """\
# What the rows of the dataset must be. Edit it by hand; it belongs next to the code.
#
# A column's type is one of:
{types}
# A column that is not nullable must have a value in every row.
#
# A check's severity says what a failure does:
#   block       the whole batch is refused
#   quarantine  the row is set aside with the reason
#   warn        it is only reported
# Kinds of checks: {kinds}.
# Raise the version when you change what the rows must be; madang data diff says what changed.
"""

_INFERRED = """\
#
# The ranges and sets below are guesses from a sample, so they only warn.
# Make them right and change their severity to quarantine.
"""


def contract_path(root: Path, dataset: str) -> Path:
    """Where a project keeps the contract of a dataset.

    Raises:
        InvalidInputError: The dataset's name can't be a file's name.
    """
    if not _NAME.fullmatch(dataset):
        raise InvalidInputError(
            f"{dataset!r} can't be a contract file's name; use letters, digits, . _ and -"
        )
    return root / "contracts" / f"{dataset}.yaml"


def read_contract(path: str | Path) -> DataContract:
    """Reads a contract file.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: It can't be used; lists every problem with the path of its key.
    """
    path = Path(path)
    name = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no contract file {path}; infer one from a sample and edit it: "
            f"madang data infer {path.stem} --file SAMPLE"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: not UTF-8 at byte {error.start}") from error
    return parse_contract(text, name)


def write_contract(
    contract: DataContract, path: str | Path, *, inferred: bool = False, overwrite: bool = False
) -> Path:
    """Writes a contract file; the same contract gives the same bytes.

    Args:
        contract: What to write.
        path: Where to; see `contract_path`.
        inferred: Whether to say in the file that its checks are guesses.
        overwrite: Whether to replace a file, and what people edited in it.

    Raises:
        AlreadyExistsError: The file exists, and `overwrite` is false.
        InvalidInputError: The contract makes no sense, or a type has no name in files.
    """
    path = Path(path)
    text = format_contract(contract, inferred=inferred)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise AlreadyExistsError(
            f"{path} exists, and somebody may have edited it; delete it, or ask to overwrite it "
            "(madang data infer --overwrite)"
        ) from error
    return path


def format_contract(contract: DataContract, *, inferred: bool = False) -> str:
    """The text of a contract file.

    Raises:
        InvalidInputError: The contract makes no sense, or a type has no name in files.
    """
    found = problems(contract)
    if found:
        raise InvalidInputError(_told(f"the contract of {contract.dataset!r}", found))
    types = "\n".join(f"#   {part}" for part in _wrapped(FORMS))
    head = _HEAD.format(types=types, kinds=", ".join(RULES)) + (_INFERRED if inferred else "")
    lines = [head]
    for key in ("dataset", "version", "description", "owner"):
        value = getattr(contract, key)
        if value:
            lines.append(_dump({key: value}, flow=False))
    lines.append("\ncolumns:\n")
    lines += [f"  - {_dump(_column(column))}" for column in contract.columns]
    lines.append("\nchecks:\n" if contract.checks else "\nchecks: []\n")
    lines += [f"  - {_dump(_check(check))}" for check in contract.checks]
    return "".join(lines)


def _wrapped(text: str, width: int = 90) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


class _Dumper(yaml.SafeDumper):
    """Writes sets and tuples as lists, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes some line breaks of Unicode as they are and reads them as spaces.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _kind in (set, frozenset, tuple):
    _Dumper.add_representer(_kind, lambda dumper, data: dumper.represent_list(list(data)))


def _dump(value: Any, *, flow: bool = True) -> str:
    return yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=flow,
        sort_keys=False,
        allow_unicode=True,
        width=10**9,
    )


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "type": name_of(column.type)}
    entry["nullable"] = column.nullable
    if column.description:
        entry["description"] = column.description
    return entry


def _check(check: Check) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": check.kind}
    if check.column is not None:
        entry["column"] = check.column
    entry["severity"] = check.severity
    if check.arguments:
        entry["arguments"] = {key: _plain(value) for key, value in check.arguments.items()}
    return entry


def _plain(value: Any) -> Any:
    """What YAML has no form for, as the text or number that is read back as the same value."""
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice (YAML's own loader lets the last one win) and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few nested ones make a value of gigabytes
            raise yaml.composer.ComposerError(
                None,
                None,
                "aliases are not taken",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call] # PyYAML's stubs
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The values of a YAML document without aliases and double keys.

    Raises:
        ValueError: It is none; says why in one line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def parse_contract(text: str, source: str = "contract") -> DataContract:
    """Reads the text of a contract file.

    Args:
        text: YAML.
        source: The file's name, for messages.

    Raises:
        InvalidInputError: It can't be used; lists every problem with the path of its key.
    """
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise InvalidInputError(f"{source}: not YAML: {error}") from error
    found: list[str] = []
    if not isinstance(content, dict):
        raise InvalidInputError(f"{source}: must be a mapping with dataset, columns and checks")
    known = {"dataset", "version", "description", "owner", "columns", "checks"}
    _unknown_keys(content, known, "", found)
    contract = DataContract(
        dataset=_text(content, "dataset", "", found, required=True),
        columns=tuple(_read_columns(content.get("columns"), found)),
        checks=tuple(_read_checks(content.get("checks"), found)),
        description=_text(content, "description", "", found),
        owner=_text(content, "owner", "", found),
        version=_version(content.get("version", 1), found),
    )
    if _complete(contract, content, found):
        found += [problem for problem in problems(contract) if problem not in found]
    if found:
        raise InvalidInputError(_told(source, found))
    return contract


def _complete(contract: DataContract, content: Mapping[Any, Any], found: list[str]) -> bool:
    """Whether all entries were read; else checks would be blamed for what their columns lack."""
    if any(problem.startswith(("columns", "checks: ")) for problem in found):
        return False
    return len(contract.checks) == len(content.get("checks") or [])


def _told(source: str, found: list[str]) -> str:
    return "\n".join(f"{source}: {problem}" for problem in found)


def _unknown_keys(content: Mapping[Any, Any], known: set[str], path: str, found: list[str]) -> None:
    keys = ", ".join(sorted(known))
    found += [f"{path}{key}: unknown; keys here are: {keys}" for key in content if key not in known]


def _text(
    content: Mapping[Any, Any], key: str, path: str, found: list[str], *, required: bool = False
) -> str:
    value = content.get(key)
    if isinstance(value, str):
        return value
    if value is not None or required:
        found.append(f"{path}{key}: must be a text, found {value!r}")
    return ""


def _version(value: Any, found: list[str]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        found.append(f"version: must be a whole number, 1 or more, found {value!r}")
        return 1
    return value


def _entries(value: Any, key: str, found: list[str]) -> list[tuple[str, dict[Any, Any]]]:
    if value is None:
        return []
    if not isinstance(value, list):
        found.append(f"{key}: must be a list, found {type(value).__name__}")
        return []
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            found.append(f"{key}[{index}]: must be a mapping, found {entry!r}")
    return [(f"{key}[{i}].", entry) for i, entry in enumerate(value) if isinstance(entry, dict)]


def _read_columns(value: Any, found: list[str]) -> list[Column]:
    columns = []
    for path, entry in _entries(value, "columns", found):
        _unknown_keys(entry, {"name", "type", "nullable", "description"}, path, found)
        name = _text(entry, "name", path, found, required=True)
        type_name = _text(entry, "type", path, found, required=True)
        description = _text(entry, "description", path, found)
        nullable = entry.get("nullable", True)
        if not isinstance(nullable, bool):
            found.append(f"{path}nullable: must be true or false, found {nullable!r}")
        try:
            type = type_of(type_name) if type_name else type_of("string")
        except InvalidInputError as error:
            found.append(f"{path}type: {error}")
            continue
        columns.append(Column(name, type, nullable, description))
    return columns


def _read_checks(value: Any, found: list[str]) -> list[Check]:
    checks = []
    for path, entry in _entries(value, "checks", found):
        _unknown_keys(entry, {"kind", "column", "severity", "arguments"}, path, found)
        kind = _text(entry, "kind", path, found, required=True)
        column = _text(entry, "column", path, found) if "column" in entry else None
        severity: Any = entry.get("severity", "quarantine")
        if severity not in SEVERITIES:
            found.append(
                f"{path}severity: must be one of {', '.join(SEVERITIES)}, found {severity!r}"
            )
        arguments = entry.get("arguments") or {}
        if not isinstance(arguments, dict):
            found.append(f"{path}arguments: must be a mapping, found {arguments!r}")
            arguments = {}
        checks.append(Check(kind, column, severity, {str(k): v for k, v in arguments.items()}))
    return checks
