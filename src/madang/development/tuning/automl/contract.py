"""What AutoML gives: which columns it used, what it tried, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from madang.development.experiments import ModelVersion
    from madang.development.experiments.evaluation import Evaluation
    from madang.stack import Stack

Task = Literal["classification", "regression"]
Role = Literal["number", "category", "excluded"]


@dataclass(frozen=True)
class ColumnUse:
    """What became of a column.

    Attributes:
        reason: Why, for people.
    """

    name: str
    role: Role
    reason: str


@dataclass(frozen=True)
class Candidate:
    """One model that was tried.

    Attributes:
        score: The metric on the rows that it was not fitted on; `None` when it failed.
        seconds: What fitting and scoring took.
        run_id: Its run.
        error: Why it failed.
    """

    family: str
    params: Mapping[str, Any]
    score: float | None
    seconds: float
    run_id: str
    error: str = ""


@dataclass(frozen=True)
class Member:
    """A model of the ensemble, and its share; shares sum to 1."""

    candidate: Candidate
    weight: float
    model: Any = field(repr=False)


@dataclass(frozen=True)
class AutoML:
    """What came out.

    Attributes:
        task: What was predicted.
        metric: What candidates were compared by, and `minimize` or `maximize` in `direction`.
        columns: What became of each column.
        leaderboard: All candidates, the best first, the failed last.
        best: The best single model, fitted on all rows but the test rows.
        members: The ensemble: the models, fitted as `best`, whose weighted mean is the prediction.
        ensemble_score: The metric of the ensemble on the rows of validation; it was chosen by
            them, so it is optimistic.
        evaluation: Of the ensemble on the test rows, which nothing was chosen by.
        best_evaluation: Of the best single model on the same rows.
        rows: How many were there to `learn` from, how many of these to `validate` by, and to `test`.
        run_id: The study's run.
        stopped: Why the search ended.
        notes: What else is worth knowing, such as families that could not be tried.
        inputs: References to what it was learnt from.
        blend: The ensemble as one estimator, over prepared columns.
        example: A few rows as the models take them.
    """

    task: Task
    metric: str
    direction: Literal["minimize", "maximize"]
    columns: tuple[ColumnUse, ...]
    leaderboard: tuple[Candidate, ...]
    best: Member
    members: tuple[Member, ...]
    ensemble_score: float
    evaluation: Evaluation
    best_evaluation: Evaluation
    rows: Mapping[str, int]
    run_id: str
    stopped: str
    notes: tuple[str, ...]
    inputs: tuple[str, ...]
    blend: Any = field(repr=False)
    example: Any = field(repr=False)
    stack: Stack = field(repr=False)

    def predict(self, data: Any) -> Mapping[str, Any]:
        """The ensemble's outputs on a table: `predict`, and `predict_proba` for a classification.

        Args:
            data: A table with the columns that were used (Arrow PyCapsule interface).
        """
        import polars as pl
        import pyarrow as pa

        from madang.development.tuning.automl.plan import prepared

        features = prepared(pl.DataFrame(pa.table(data)), self.columns)
        found = {"predict": self.blend.predict(features)}
        if self.task == "classification":
            found["predict_proba"] = self.blend.predict_proba(features)
        return found

    def register(self, name: str, *, ensemble: bool = False) -> Sequence[ModelVersion]:
        """Registers the best single model, or all members of the ensemble.

        Args:
            name: The model's name; members become its next versions, heaviest first.
            ensemble: Whether all members are registered; their tag `madang.weight` has the share.

        Returns:
            The versions.
        """
        from madang.development.tuning.automl.report import to_html

        chosen = self.members if ensemble else (self.best,)
        evaluation = self.evaluation if ensemble else self.best_evaluation
        return [
            self.stack.registry.register(
                name,
                member.model,
                example=self.example,
                run_id=member.candidate.run_id,
                inputs=self.inputs,
                evaluation=evaluation.metrics if len(chosen) == 1 else None,
                report=to_html(self).encode(),
                tags={"madang.weight": f"{member.weight:.6g}", "madang.automl": self.run_id},
                description=f"{member.candidate.family}, found by AutoML",
            )
            for member in chosen
        ]

    def to_dict(self) -> dict[str, Any]:
        """What was tried and found, as JSON values."""
        from madang.development.tuning.automl.report import to_dict

        return to_dict(self)

    def to_html(self, title: str = "AutoML") -> str:
        """One page that needs nothing else: no script, no font, no network."""
        from madang.development.tuning.automl.report import to_html

        return to_html(self, title)

    def __str__(self) -> str:
        lines = [f"{self.metric} ({self.direction}), {len(self.leaderboard)} candidates"]
        lines += [
            f"{'failed' if c.score is None else format(c.score, '.5g'):>10}  {c.family}"
            for c in self.leaderboard[:10]
        ]
        lines.append(f"{self.ensemble_score:10.5g}  ensemble of {len(self.members)}")
        return "\n".join(lines)
