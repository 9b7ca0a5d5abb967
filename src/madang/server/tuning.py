"""Routes of tuning: studies and their trials, to read."""

from __future__ import annotations

from fastapi import APIRouter, Request

from madang.development.tuning import Study, Trial
from madang.server.access import needs, stack_of
from madang.server.wire import Limit

router = APIRouter(tags=["development"])


@router.get("/studies", **needs("run:read"))
def studies(request: Request, limit: Limit = 100) -> list[Study]:
    """Studies without their trials, newest first."""
    return list(stack_of(request).tuning.studies(limit=limit))


@router.get("/studies/{name}", **needs("run:read"))
def study(request: Request, name: str) -> Study:
    """The newest study of a name, or the one of a run id, with its trials."""
    return stack_of(request).tuning.get(name)


@router.get("/studies/{name}/best", **needs("run:read"))
def best(request: Request, name: str) -> list[Trial]:
    """A study's best trial, with those that are equal to it, or its Pareto front."""
    return list(stack_of(request).tuning.get(name).best_trials)


@router.get("/studies/{name}/importances", **needs("run:read"))
def importances(request: Request, name: str, objective: str | None = None) -> dict[str, float]:
    """How much each parameter explains of an objective's variance."""
    tuning = stack_of(request).tuning
    return tuning.importances(tuning.get(name), objective)
