"""Where trials run: in this process one after the other, or in processes of their own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madang.development.tuning import pruning
from madang.development.tuning._objective import (
    OUTCOME_FIELDS,
    Outcome,
    ReportingTrial,
    evaluate,
    located,
)
from madang.development.tuning._records import Records
from madang.development.tuning._rows import Recorded
from madang.development.tuning.contract import Objective, Study, Trial, TrialState
from madang.development.tuning.pruning import Curve, Pruner
from madang.engines import Context
from madang.ledger import current_actor, new_id
from madang.workflow.scheduling.contract import Argument, Scheduling, StepResult, StepTask


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    Attributes:
        workers: How many trials at once.
        trial_timeout_seconds: How long each may take.
    """

    objective: Objective
    pruner: Pruner | None
    workers: int
    trial_timeout_seconds: float | None

    @property
    def apart(self) -> bool:
        """Whether trials need processes of their own."""
        return self.workers > 1 or self.trial_timeout_seconds is not None

    def check(self) -> None:
        """Refuses what other processes can't evaluate, if they must.

        Raises:
            InvalidInputError: They can't import the objective, or don't know the pruner.
        """
        if self.apart:
            located(self.objective)
            pruning.encode(self.pruner)


class Evaluator(ABC):
    """Evaluates trials of one study."""

    slots: int
    """How many at once."""

    @abstractmethod
    def start(self, trial: Trial) -> None:
        """Starts a trial."""

    @abstractmethod
    def collect(self) -> list[tuple[int, Outcome]]:
        """Waits for at least one trial that was started; number and outcome of those that ended."""

    def remember(self, trials: Sequence[Recorded]) -> None:
        """Takes over what earlier trials of the study reported, where it isn't read elsewhere."""
        return

    def cancel(self) -> None:
        """Ends what runs."""
        return


class InProcess(Evaluator):
    """One trial at a time, in the thread that searches."""

    slots = 1

    def __init__(self, context: Context, study: Study, evaluation: Evaluation) -> None:
        self._context = context
        self._study = study
        self._objective = evaluation.objective
        self._pruner = evaluation.pruner
        self._curves: list[Curve] = []
        self._waiting: list[Trial] = []

    def remember(self, trials: Sequence[Recorded]) -> None:
        for one in trials:
            values = {step: report.value for step, report in one.reports.items()}
            self._curves.append(Curve(one.trial.number, one.trial.state, values))

    def start(self, trial: Trial) -> None:
        self._waiting.append(trial)

    def collect(self) -> list[tuple[int, Outcome]]:
        trial = self._waiting.pop(0)
        active = ReportingTrial(
            trial.number,
            trial.run_id,
            trial.params,
            directions=self._study.directions,
            pruner=self._pruner,
            others=lambda: self._curves,
        )
        outcome = evaluate(
            self._objective, active, self._study.directions, lambda: self._context.stack
        )
        values = {step: report.value for step, report in outcome.reports.items()}
        self._curves.append(Curve(trial.number, outcome.state, values))
        return [(trial.number, outcome)]


class Processes(Evaluator):
    """Each trial is a task of the scheduling engine."""

    def __init__(
        self, context: Context, study: Study, evaluation: Evaluation, records: Records
    ) -> None:
        self._context = context
        self._records = records
        self._study = study
        self._timeout_seconds = evaluation.trial_timeout_seconds
        self._scheduling: Scheduling = context.component("scheduling")
        self.slots = min(evaluation.workers, self._scheduling.slots)
        module, function, keywords = located(evaluation.objective)
        self._task: dict[str, Any] = {
            "module": module,
            "function": function,
            "keywords": keywords,
            "directions": dict(study.directions),
            "pruner": pruning.encode(evaluation.pruner),
            "study_id": study.run_id,
        }
        self._tasks: dict[str, int] = {}

    def start(self, trial: Trial) -> None:
        task = {
            **self._task,
            "number": trial.number,
            "run_id": trial.run_id,
            "params": dict(trial.params),
        }
        task_id = new_id()
        self._tasks[task_id] = trial.number
        self._scheduling.submit(
            StepTask(
                id=task_id,
                module="madang.development.tuning._worker",
                function="run",
                arguments={"task": Argument(json.dumps(task))},
                outputs=1,
                root=str(self._context.root),
                env=self._context.stack.project.env if self._context.stack else None,
                actor=current_actor(),
                fields={"run": trial.run_id, "step": f"trial-{trial.number}"},
                timeout_seconds=self._timeout_seconds,
            )
        )

    def collect(self) -> list[tuple[int, Outcome]]:
        results = self._scheduling.wait(set(self._tasks))
        found = [(self._tasks.pop(result.id), result) for result in results]
        return [(number, self._outcome(number, result)) for number, result in found]

    def _outcome(self, number: int, result: StepResult) -> Outcome:
        reports = self._records.reports(self._study.run_id, number)
        if result.reason in ("died", "cancelled", "memory"):
            return Outcome(TrialState.KILLED, error=result.error, reports=reports)
        if result.reason:
            seconds = self._timeout_seconds or 0.0
            return Outcome(
                TrialState.FAILED,
                error=result.error,
                reports=reports,
                seconds=seconds if result.reason == "timeout" else 0.0,
            )
        from madang.workflow.pipelines.artifacts import load

        text = load(result.outputs[0], lambda: self._context.component("storage"))
        found: Mapping[str, Any] = {name: json.loads(text)[name] for name in OUTCOME_FIELDS}
        return Outcome(**{**found, "state": TrialState(found["state"])}, reports=reports)

    def cancel(self) -> None:
        for task_id in self._tasks:
            self._scheduling.cancel(task_id)
        while self._tasks:
            for result in self._scheduling.wait(set(self._tasks)):
                del self._tasks[result.id]
