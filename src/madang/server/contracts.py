"""Routes of data contracts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from madang.server.access import needs, stack_of
from madang.server.wire import Position

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
    """Checks a dataset's rows against its contract, and reports; changes nothing."""
    from madang.data.validation.contract_file import contract_path, read_contract
    from madang.data.validation.report import to_dict

    stack = stack_of(request)
    contract = read_contract(contract_path(stack.root, name))
    outcome = stack.validation.validate(stack.storage.read(name, version=version), contract)
    return to_dict(outcome.report)
