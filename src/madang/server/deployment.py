"""Routes of the deployment group: endpoints.

Predictions don't pass through here: the inference workers answer them at `url`, also while this
process is down. `predict` is for programs that reach only the control plane.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from madang.deployment.serving import Endpoint
from madang.deployment.serving._arms import arm_from, resolver
from madang.server.access import needs, stack_of
from madang.server.wire import encode_json

router = APIRouter(tags=["deployment"])


class NewArm(BaseModel):
    """A model's version (number or alias) and its share of the traffic; or a graph of models.

    Attributes:
        graph: `"MODEL@VERSION"`, `{"chain": […], "maps": […]}` or
            `{"ensemble": […], "combine": …, "weights": […], "final": …}`.
        before: `"FILE.py:FUNCTION"`, or `{"function": …, "tensors": […]}`.
        after: As `before`.
        features: `["VIEW:FEATURE", …]`, or `{"columns": …, "request": …, "on_missing": …}`.
    """

    model: str
    version: int | str
    weight: float = 1.0
    graph: str | dict[str, Any] | None = None
    before: str | dict[str, Any] | None = None
    after: str | dict[str, Any] | None = None
    features: list[str] | dict[str, Any] | None = None


class Deploy(BaseModel):
    """The versions behind an endpoint, and whether predictions are logged."""

    arms: list[NewArm] = Field(min_length=1)
    log: bool = True


@router.get("/endpoints", **needs("endpoint:read"))
def endpoints(request: Request) -> dict[str, Any]:
    """All endpoints, and where the inference workers listen."""
    serving = stack_of(request).serving
    return {"url": serving.url(), "endpoints": list(serving.endpoints())}


@router.get("/endpoints/{name}", **needs("endpoint:read"))
def endpoint(request: Request, name: str) -> Endpoint:
    """One endpoint."""
    return stack_of(request).serving.get(name)


@router.put("/endpoints/{name}", **needs("endpoint:write"))
def deploy(request: Request, name: str, body: Deploy) -> Endpoint:
    """Makes or changes an endpoint; answers when every worker serves it."""
    stack = stack_of(request)
    arms = [arm_from(arm.model_dump(), resolver(stack.registry)) for arm in body.arms]
    return stack.serving.deploy(name, arms, log=body.log)


@router.delete("/endpoints/{name}", status_code=204, **needs("endpoint:write"))
def undeploy(request: Request, name: str) -> None:
    """Removes an endpoint."""
    stack_of(request).serving.undeploy(name)


class Predict(BaseModel):
    """Input name to (nested lists of) values."""

    inputs: dict[str, Any]


@router.post("/endpoints/{name}/predict", **needs("endpoint:predict"))
def predict(request: Request, name: str, body: Predict) -> Response:
    """Asks an endpoint; output name to values, and the prediction's id."""
    answer = stack_of(request).serving.predict(name, body.inputs)
    plain = {
        key: value.tolist() if hasattr(value, "tolist") else value for key, value in answer.items()
    }
    return Response(encode_json(plain), media_type="application/json")
