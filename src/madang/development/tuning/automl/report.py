"""What AutoML tried and found, as data and as one page."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madang.development.tuning.automl.contract import AutoML, Member


def to_dict(result: AutoML) -> dict[str, Any]:
    """JSON values; models are left out."""
    return {
        "task": result.task,
        "metric": result.metric,
        "direction": result.direction,
        "rows": dict(result.rows),
        "inputs": list(result.inputs),
        "columns": [asdict(use) for use in result.columns],
        "leaderboard": [asdict(candidate) for candidate in result.leaderboard],
        "best": _member(result.best),
        "ensemble": [_member(member) for member in result.members],
        "ensemble_score": result.ensemble_score,
        "evaluation": result.evaluation.to_dict(),
        "best_evaluation": result.best_evaluation.to_dict(),
        "run": result.run_id,
        "stopped": result.stopped,
        "notes": list(result.notes),
    }


def _member(member: Member) -> dict[str, Any]:
    return {"weight": member.weight, **asdict(member.candidate)}


def to_html(result: AutoML, title: str = "AutoML") -> str:
    """One page that needs nothing else."""
    return str(_template().render(title=title, result=result))


@cache
def _template() -> Any:
    import jinja2

    text = resources.files(__package__).joinpath("leaderboard.html").read_text("utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
