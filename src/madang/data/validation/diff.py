"""What changed between two contracts, or between two versions of a dataset, and whom it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from madang.data.validation._digest import reference
from madang.data.validation._display import as_json
from madang.data.validation._rules import RULES, title, unique_columns
from madang.data.validation._types import label, widens
from madang.data.validation.contract import Check, Column, DataContract

_ENFORCED = {"warn": 0, "quarantine": 1, "block": 2}


@dataclass(frozen=True)
class Change:
    """One thing that is not what it was.

    Attributes:
        path: What it is about: `column minutes`, `check range(minutes)`, `version`.
        text: What happened, in words.
        breaks: Whom it breaks: `writers` (rows that were good may be refused now), `readers` (what
            they read may be gone, or null, or of another type), or nobody (empty).
    """

    path: str
    text: str
    breaks: str = ""


@dataclass(frozen=True)
class Difference:
    """All that changed from `old` to `new`; figures of a dataset's versions are in `statistics`.

    Attributes:
        old: What it was compared from, such as `contract:trips@1#…` or `dataset:trips@3`.
        new: What it was compared with.
        changes: Of the columns and checks.
        statistics: By column: each figure as (old, new), and `psi`, `js`, `ks` between samples.
    """

    old: str
    new: str
    changes: tuple[Change, ...]
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def breaking(self) -> bool:
        """Whether a change breaks readers or writers."""
        return any(change.breaks for change in self.changes)


def diff_contracts(old: DataContract, new: DataContract) -> Difference:
    """What changed in what rows must be.

    Breaking are: a column that is gone, is needed now, may be null now or no longer, or has a type
    that does not hold all values of the old one; a check that is new, stricter or different and sets
    rows aside or blocks. Compatible are: optional columns, wider types, looser checks, warnings.
    """
    changes = [*_columns(old.columns, new.columns), *_checks(old.checks, new.checks)]
    if any(change.breaks for change in changes) and new.version <= old.version:
        changes.append(
            Change("version", f"is {new.version}, though breaking changes came after {old.version}")
        )
    elif old.version != new.version:
        changes.append(Change("version", f"{old.version} became {new.version}"))
    if old.dataset != new.dataset:
        changes.insert(0, Change("dataset", f"{old.dataset} became {new.dataset}"))
    return Difference(reference(old), reference(new), tuple(changes))


def diff_schemas(old: pa.Schema, new: pa.Schema) -> tuple[Change, ...]:
    """What changed in the columns of two versions of a table."""
    columns = (
        tuple(Column(one.name, one.type, one.nullable) for one in schema) for schema in (old, new)
    )
    return tuple(_columns(*columns))


def _columns(old: tuple[Column, ...], new: tuple[Column, ...]) -> Iterator[Change]:
    before, after = ({column.name: column for column in columns} for columns in (old, new))
    for name, column in before.items():
        path = f"column {name}"
        if name not in after:
            yield Change(path, f"is gone (was {label(column.type)})", "readers")
            continue
        now = after[name]
        if now.type != column.type:
            text = f"{label(column.type)} became {label(now.type)}"
            yield Change(path, text, "" if widens(column.type, now.type) else "readers")
        if column.nullable != now.nullable:
            text = "may be null now" if now.nullable else "may not be null any more"
            yield Change(path, text, "readers" if now.nullable else "writers")
        if column.description != now.description:
            yield Change(path, "is described in other words")
    for name, column in after.items():
        if name not in before:
            kind = label(column.type)
            if column.nullable:
                yield Change(f"column {name}", f"is new ({kind}, may be null)")
            else:
                yield Change(f"column {name}", f"is new ({kind}) and must have values", "writers")
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        yield Change("columns", "stand in another order")


def _checks(old: tuple[Check, ...], new: tuple[Check, ...]) -> Iterator[Change]:
    before, after = _by_place(old), _by_place(new)
    for place, check in before.items():
        if place not in after:
            yield Change(f"check {title(check)}", "is gone")
            continue
        yield from _changed(check, after[place])
    for place, check in after.items():
        if place not in before:
            text = f"is new ({check.severity})"
            yield Change(f"check {title(check)}", text, _writers(check))


def _by_place(checks: tuple[Check, ...]) -> dict[Any, Check]:
    """Checks by what they are about; several of one kind about the same in their order."""
    found: dict[Any, Check] = {}
    for check in checks:
        about: Any = tuple(unique_columns(check)) if check.kind == "unique" else check.column
        if RULES[check.kind].about == "row" and check.kind != "unique":
            about = str(sorted(check.arguments.items()))
        number = sum(place[:2] == (check.kind, about) for place in found)
        found[check.kind, about, number] = check
    return found


def _writers(check: Check) -> str:
    return "writers" if _ENFORCED[check.severity] else ""


def _changed(old: Check, new: Check) -> Iterator[Change]:
    path = f"check {title(old)}"
    if old.severity != new.severity:
        harder = _ENFORCED[new.severity] > _ENFORCED[old.severity]
        text = f"severity {old.severity} became {new.severity}"
        yield Change(path, text, "writers" if harder else "")
    names = dict.fromkeys([*old.arguments, *new.arguments])
    for name in names:
        one, two = old.arguments.get(name), new.arguments.get(name)
        if one == two:
            continue
        text = f"{name}: {as_json(one)} became {as_json(two)}"
        yield Change(path, text, "" if _looser(old, name, one, two) else _writers(new))


def _looser(check: Check, name: str, old: Any, new: Any) -> bool:
    """Whether all rows that passed still pass."""
    try:
        if name in ("min", "min_ratio"):
            return bool(new is None or (old is not None and new <= old))
        if name in ("max", "max_ratio", "max_age_seconds", "max_psi", "max_ks", "max_js"):
            return bool(new is None or (old is not None and new >= old))
        if name in ("exclusive_min", "exclusive_max"):
            return not new
        if check.kind == "in_set" and name == "values":
            return all(value in new for value in old)
    except TypeError:  # values of two types have no order
        return False
    return False


def to_dict(difference: Difference) -> dict[str, Any]:
    """The difference as JSON values."""
    return {
        "old": difference.old,
        "new": difference.new,
        "breaking": difference.breaking,
        "changes": [asdict(change) for change in difference.changes],
        "statistics": {name: dict(values) for name, values in difference.statistics.items()},
    }


def to_text(difference: Difference) -> str:
    """The difference for a terminal, what breaks first."""
    changes = sorted(difference.changes, key=lambda change: not change.breaks)
    word = "breaking" if difference.breaking else "compatible" if changes else "no change"
    what = " of the columns" if difference.statistics else ""
    lines = [f"{difference.old} to {difference.new}: {word}{what}"]
    for change in changes:
        mark = f"breaks {change.breaks}" if change.breaks else "compatible"
        lines.append(f"  {mark:<15}  {change.path}: {change.text}")
    for name, values in difference.statistics.items():
        figures = ", ".join(
            f"{key} {_shown(value[0])} to {_shown(value[1])}"
            if isinstance(value, list)
            else f"{key} {value:.3g}"
            for key, value in values.items()
        )
        lines.append(f"  {name}: {figures}")
    # A column's name may hold anything, also what a terminal obeys.
    return "\n".join("".join(c if c.isprintable() else "�" for c in line) for line in lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
