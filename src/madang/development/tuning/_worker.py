"""What runs a trial in a process of its own: reports and prunes through the metadata database."""

from __future__ import annotations

import functools
import json
from typing import Any

from madang.development.tuning import pruning
from madang.development.tuning._objective import OUTCOME_FIELDS, ReportingTrial, evaluate
from madang.development.tuning._records import Records
from madang.development.tuning.contract import TrialState
from madang.development.tuning.pruning import Curve
from madang.stack import Stack
from madang.workflow.scheduling.worker import find


class _StoredTrial(ReportingTrial):
    """A trial whose reports are durable at once, because other processes look at them."""

    def __init__(self, records: Records, study_id: str, *rest: Any, **more: Any) -> None:
        super().__init__(*rest, others=self._read, **more)
        self._records = records
        self._study_id = study_id
        self._ended: dict[int, Curve] = {}

    def report(self, value: float, step: int) -> None:
        super().report(value, step)
        new = {int(step): self.reports[int(step)]}
        self._records.report(self._study_id, self.number, self.run_id, new)

    def _read(self) -> list[Curve]:
        """What the other trials reported; those that ended are read once."""
        curves = self._records.curves(self._study_id, without={*self._ended, self.number})
        self._ended |= {c.number: c for c in curves if c.state is not TrialState.RUNNING}
        running = [c for c in curves if c.state is TrialState.RUNNING]
        return [*self._ended.values(), *running]


def run(task: str, stack: Stack) -> str:
    """Evaluates one trial; takes what `Processes` wrote, and gives its outcome as JSON."""
    asked: dict[str, Any] = json.loads(task)
    function = find(asked["module"], asked["function"])
    trial = _StoredTrial(
        Records(stack.context),
        asked["study_id"],
        asked["number"],
        asked["run_id"],
        asked["params"],
        directions=asked["directions"],
        pruner=pruning.decode(asked["pruner"]),
    )
    objective = functools.partial(function, **asked["keywords"])
    outcome = evaluate(objective, trial, asked["directions"], lambda: stack)
    found = {name: getattr(outcome, name) for name in OUTCOME_FIELDS}
    return json.dumps(found)
