"""The search itself: who is asked for the next trial, what is recorded when, and when it ends.

One process asks and records; trials run where the evaluator runs them. What ended and what starts
in its place go to the database in one transaction, so that a trial costs one sync.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madang.development.tuning._evaluators import Evaluator
from madang.development.tuning._objective import Outcome, described
from madang.development.tuning._records import Records
from madang.development.tuning._rows import Begin, End, Recorded, ended
from madang.development.tuning.contract import Stop, Study, Trial, TrialState
from madang.errors import StepFailedError

_INTERRUPTED = "the search was ended"


class Proposals(ABC):
    """Which parameters to try next; an engine's sampler."""

    @abstractmethod
    def ask(self, number: int) -> Mapping[str, Any] | None:
        """The parameters of trial `number`; `None` when there are no more."""

    @abstractmethod
    def tell(self, trial: Trial, reports: Mapping[int, float]) -> None:
        """How a trial that was asked for ended; `reports` is step to value."""

    @abstractmethod
    def restore(self, trials: Sequence[Recorded]) -> None:
        """Brings the sampler to where it was, from all trials by number."""


@dataclass(frozen=True)
class Plan:
    """When a search ends, and what it does beside searching."""

    trials: int | None
    timeout_seconds: float | None
    max_cost: float | None
    cost_per_second: float
    stop: Stop | None
    retries: int
    on_trial: Callable[[Trial], None] | None


class Search:
    """One study while it runs."""

    def __init__(
        self,
        records: Records,
        study: Study,
        proposals: Proposals,
        evaluator: Evaluator,
        plan: Plan,
    ) -> None:
        self._records = records
        self._study = study
        self._proposals = proposals
        self._evaluator = evaluator
        self._plan = plan
        self._end = math.inf
        if plan.timeout_seconds is not None:
            self._end = time.monotonic() + plan.timeout_seconds
        self._trials: dict[int, Trial] = {}
        self._running: dict[int, Begin] = {}
        self._started: dict[int, float] = {}
        self._again: list[Begin] = []
        self._unwritten: list[End] = []
        self._ended = 0
        self._cost = 0.0
        self._gains = _Gains(study, plan.stop)
        self._stopped = ""
        self._error: Exception | None = None

    def restore(self, trials: Sequence[Recorded]) -> None:
        """Goes on with what is on record; what was under way is marked and will run again."""
        done = ended(trials)
        self._records.settle(self._study, trials)
        self._proposals.restore(trials)
        self._trials = {one.trial.number: one.trial for one in trials}
        self._ended = len(done)
        for one in done:
            self._count(one.trial)
        for one in trials:
            if one.place is None:
                begin = Begin(one.trial.number, one.trial.params, one.seen, one.trial.attempts)
                self._killed(begin, replace(one.trial, error=_INTERRUPTED), {})

    def run(self) -> Study:
        """Searches until a budget is spent; the study as it is then.

        Raises:
            StepFailedError: Every trial failed.
        """
        try:
            while True:
                self._write(self._next())
                if not self._running:
                    break
                for number, outcome in self._evaluator.collect():
                    self._settle(self._running.pop(number), outcome)
            return self._finish()
        except BaseException as error:
            self._abandon(error)
            raise
        finally:
            self._records.forget(self._study.run_id)

    # -- starting -----------------------------------------------------------------------------

    def _next(self) -> list[Begin]:
        """What starts now: killed trials again, then new ones as long as a budget lasts."""
        begun: list[Begin] = []
        while len(self._running) + len(begun) < self._evaluator.slots:
            if self._again:
                begun.append(self._again.pop(0))
                continue
            self._stopped = self._stopped or self._spent(len(self._trials) + self._count_new(begun))
            if self._stopped:
                break
            number = len(self._trials) + self._count_new(begun)
            params = self._proposals.ask(number)
            if params is None:
                self._stopped = "whole grid"
                break
            begun.append(Begin(number, params, self._ended))
        return begun

    def _count_new(self, begun: Sequence[Begin]) -> int:
        return sum(begin.number not in self._trials for begin in begun)

    def _spent(self, count: int) -> str:
        """Which budget is spent, so that no new trial starts; empty when none is."""
        plan = self._plan
        if plan.trials is not None and count >= plan.trials:
            return "trials"
        # The first trial always starts, so that there is something to choose from.
        if count and time.monotonic() >= self._end:
            return "time"
        if plan.max_cost is not None and count and self._cost >= plan.max_cost:
            return "cost"
        return "no gain" if self._gains.are_over() else ""

    def _write(self, begun: Sequence[Begin]) -> None:
        """Records what ended and what starts; then starts it."""
        over = self._unwritten
        if over or begun:
            started = self._records.write(self._study, over, begun)
            self._unwritten = []
            for begin, run_id in started:
                earlier = self._trials.get(begin.number)
                trial = Trial(
                    begin.number,
                    run_id,
                    begin.params,
                    attempts=begin.attempt,
                    cost=earlier.cost if earlier else 0.0,
                )
                self._trials[begin.number] = trial
                self._running[begin.number] = begin
                self._started[begin.number] = time.monotonic()
                self._evaluator.start(trial)
        if self._plan.on_trial is not None:
            for end in over:
                if end.place is not None:
                    self._plan.on_trial(end.trial)

    # -- ending -------------------------------------------------------------------------------

    def _settle(self, begin: Begin, outcome: Outcome) -> None:
        seconds = outcome.seconds or time.monotonic() - self._started[begin.number]
        earlier = self._trials[begin.number]
        self._error = outcome.exception or self._error
        trial = replace(
            earlier,
            state=outcome.state,
            values=outcome.values,
            constraints=outcome.constraints,
            cost=earlier.cost + outcome.cost + seconds * self._plan.cost_per_second,
            seconds=seconds,
            error=outcome.error,
        )
        if trial.state is TrialState.KILLED:
            self._killed(begin, trial, outcome.tags)
            return
        self._conclude(End(trial, self._ended, outcome.tags, outcome.reports))

    def _killed(self, begin: Begin, trial: Trial, tags: Mapping[str, str]) -> None:
        """Marks an attempt that was killed, and tries again if it may."""
        trial = replace(trial, state=TrialState.KILLED)
        if begin.attempt > self._plan.retries:
            self._conclude(End(trial, self._ended, tags))
            return
        self._trials[trial.number] = trial
        self._unwritten.append(End(trial, None, tags))
        self._again.append(replace(begin, attempt=begin.attempt + 1))

    def _conclude(self, end: End) -> None:
        self._trials[end.trial.number] = end.trial
        self._unwritten.append(end)
        self._ended += 1
        self._count(end.trial)
        reports = {step: report.value for step, report in end.reports.items()}
        self._proposals.tell(end.trial, reports)

    def _count(self, trial: Trial) -> None:
        self._cost += trial.cost
        self._gains.add(trial)

    def _finish(self) -> Study:
        trials = tuple(self._trials[number] for number in sorted(self._trials))
        study = replace(self._study, trials=trials, stopped=self._stopped)
        if not any(t.state in (TrialState.FINISHED, TrialState.PRUNED) for t in trials):
            last = repr(self._error) if self._error else trials[-1].error
            raise StepFailedError(
                f"all {len(trials)} trials of {study.name!r} failed; the last one with {last}"
            ) from self._error
        best = study.best_trials[:1] if len(study.directions) == 1 else ()
        self._records.release(
            study.run_id,
            TrialState.FINISHED,
            stopped=self._stopped,
            metrics=best[0].values if best else {},
            tags={"madang.best": best[0].run_id} if best else {},
        )
        return replace(study, state=TrialState.FINISHED)

    def _abandon(self, error: BaseException) -> None:
        """Ends what runs and records the end; failed by an error, killed by a person or signal."""
        self._evaluator.cancel()
        text = described(error)
        running = [
            End(replace(self._trials[number], state=TrialState.KILLED, error=text), None)
            for number in self._running
        ]
        self._running.clear()
        self._records.write(self._study, [*self._unwritten, *running], [])
        state = TrialState.FAILED if isinstance(error, Exception) else TrialState.KILLED
        self._records.release(self._study.run_id, state, tags={"error": text})


class _Gains:
    """How long ago something was gained."""

    def __init__(self, study: Study, stop: Stop | None) -> None:
        self._study = study
        self._stop = stop
        self._since = 0
        self._count = 0
        self._best: float | None = None

    def add(self, trial: Trial) -> None:
        """Looks at a trial that ended."""
        if self._stop is None:
            return
        if trial.state in (TrialState.FINISHED, TrialState.PRUNED):
            self._count += 1
            self._since = 0 if self._gained(trial, self._stop.tolerance) else self._since + 1

    def _gained(self, trial: Trial, tolerance: float) -> bool:
        if not trial.feasible:
            return False
        if len(self._study.directions) > 1:
            self._study = replace(self._study, trials=(*self._study.best_trials, trial))
            return trial in self._study.best_trials
        (name, direction), *_ = self._study.directions.items()
        value = trial.values[name] if direction == "minimize" else -trial.values[name]
        if self._best is None or value < self._best - tolerance:
            self._best = value
            return True
        return False

    def are_over(self) -> bool:
        """Whether the search should end."""
        stop = self._stop
        return stop is not None and self._since >= stop.trials and self._count >= stop.after
