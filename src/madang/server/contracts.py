"""Routes of data contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from madang.server.access import needs, stack_of
from madang.server.wire import Position

if TYPE_CHECKING:
    from madang.data.validation.datasets import ValidatedVersion

router = APIRouter(tags=["data"])


@router.post("/datasets/{name}/contract", status_code=201, **needs("dataset:write"))
def infer(request: Request, name: str) -> dict[str, str]:
    """Proposes `contracts/NAME.yaml` from the dataset, to be edited there."""
    from madang.data.validation.contract_file import contract_path, write_contract

    stack = stack_of(request)
    path = contract_path(stack.root, name)
    write_contract(stack.validation.infer(stack.storage.read(name), name), path, inferred=True)
    return {"path": str(path.relative_to(stack.root)), "yaml": path.read_text("utf-8")}


@router.post("/datasets/{name}/validate", **needs("dataset:read"))
def validate(request: Request, name: str, version: Position | None = None) -> dict[str, Any]:
    """Checks a dataset's rows against its contract; keeps the report, changes no row."""
    from madang.data.validation.datasets import validate_dataset

    return _document(validate_dataset(stack_of(request), name, version=version))


@router.get("/datasets/{name}/validation", **needs("dataset:read"))
def validation(request: Request, name: str, version: Position | None = None) -> dict[str, Any]:
    """The last report of a version of a dataset (default: the newest version)."""
    from madang.data.validation.datasets import last_validation

    return _document(last_validation(stack_of(request), name, version=version))


@router.get("/datasets/{name}/diff", **needs("dataset:read"))
def diff(request: Request, name: str, old: Position, new: Position) -> dict[str, Any]:
    """What changed between two versions of a dataset: columns, figures, distributions."""
    from madang.data.validation.comparison import diff_versions
    from madang.data.validation.diff import to_dict

    return to_dict(diff_versions(stack_of(request), (name, old), (name, new)))


def _document(found: ValidatedVersion) -> dict[str, Any]:
    from madang.data.validation.report import to_dict

    return {"version": found.version, "line": found.line, **to_dict(found.report)}
