"""Rollouts between versions of one endpoint of Madang's own inference server.

The workers assign each request by a hash and log it, with no extra hop; `advance` reads their logs and
the outcomes, judges, and changes the endpoint. All state is in the metadata database, so that any
process may do the next step.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from madang.deployment.ab_testing import _stages as stages
from madang.deployment.ab_testing._intake import Intake
from madang.deployment.ab_testing._observations import Observations
from madang.deployment.ab_testing._records import Record, Records, new_record
from madang.deployment.ab_testing.contract import (
    ABTesting,
    Evidence,
    Plan,
    Rollout,
    RolloutAction,
    RolloutState,
)
from madang.deployment.serving.contract import Arm, Split, asked_already
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    ConflictError,
    InvalidInputError,
    MadangError,
    NotFoundError,
    PermissionDeniedError,
)
from madang.ledger import acting_as, current_actor, new_id, now_us as clock_us

if TYPE_CHECKING:
    from madang.deployment.ab_testing._deciding import Decision
    from madang.deployment.serving import Serving

_log = logging.getLogger("madang.ab_testing")


class BuiltinABTesting(ABTesting):
    """Rollouts in this project. Safe for many threads and processes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    @cached_property
    def _records(self) -> Records:
        return Records(self._context.metadata, self._context.ledger)

    @cached_property
    def _intake(self) -> Intake:
        return Intake(self._context.component("collection"), self._records)

    @property
    def _serving(self) -> Serving:
        serving: Serving = self._context.component("serving")
        return serving

    # -- what people ask for ------------------------------------------------------------------

    def start(self, plan: Plan) -> Rollout:
        endpoint = self._serving.get(plan.endpoint)
        with self._records.database.transaction(write=False) as tx:
            self._records.check_free(tx, plan.endpoint)
        control = stages.control(endpoint, plan)
        self._check_models(plan)
        id, now = new_id(), clock_us()
        record = new_record(id, plan, control, stages.first_shares(plan, control), now)
        record.revision = endpoint.revision
        self._ask("start", record, plan, ())
        self._intake.make_topics(plan)
        with self._records.database.transaction() as tx:
            self._records.add(tx, record)
            self._intake.begin(tx, record, plan)
            self._records.note(tx, "start", record, plan=record.plan, control=record.control)
        try:
            self._apply(id)
        except BaseException as error:
            self._end(id, RolloutState.ENDED, "end", f"it could not be started: {error}")
            raise
        return self.get(id)

    def get(self, id: str) -> Rollout:
        with self._records.database.transaction(write=False) as tx:
            return self._records.find(tx, id)[0].rollout(clock_us())

    def rollouts(self, *, endpoint: str | None = None, running: bool = False) -> list[Rollout]:
        now = clock_us()
        return [r.rollout(now) for r in self._records.list(endpoint=endpoint, running=running)]

    def stop(self, id: str, reason: str = "") -> Rollout:
        with self._records.changing(id) as (tx, record):
            if record.state in {RolloutState.PROMOTED, RolloutState.PROMOTING}:
                raise ConflictError(
                    f"the rollout {record.id} is {record.state.value}, version {record.winner}; to go "
                    "back, deploy the version that you want"
                )
            if record.state is RolloutState.RUNNING:
                record.state = RolloutState.ROLLING_BACK
                record.reason = f"stopped by {current_actor()}" + (f": {reason}" if reason else "")
                self._records.note(tx, "stop", record)
        self._finish(record.id)
        return self.get(record.id)

    def promote(self, id: str, version: int | None = None, reason: str = "") -> Rollout:
        record = self._record(id)
        plan = record.read_plan()
        winner = stages.challenger(plan, version, record.id)
        if record.state not in {RolloutState.RUNNING, RolloutState.PROMOTING}:
            raise ConflictError(f"the rollout {record.id} is {record.state.value}: {record.reason}")
        record.winner = winner
        self._ask("promote", record, plan, record.evidence)
        with self._records.changing(record.id) as (tx, record):
            if record.state not in {RolloutState.RUNNING, RolloutState.PROMOTING}:
                raise ConflictError(f"the rollout {record.id} was ended meanwhile: {record.reason}")
            record.state, record.winner, record.waits_for = RolloutState.PROMOTING, winner, ""
            record.reason = f"promoted by {current_actor()}" + (f": {reason}" if reason else "")
            self._note_decision(tx, record, "promote")
        self._finish(record.id)
        return self.get(record.id)

    # -- what happens by itself ---------------------------------------------------------------

    def advance(self, now_us: int | None = None) -> list[Rollout]:
        now, errors, found = now_us, list[Exception](), list[str]()
        for record in self._records.list(endpoint=None, running=True):
            found.append(record.id)
            try:
                with acting_as(f"rollout:{record.id}"):
                    self._step(record, clock_us() if now is None else now)
            except ConflictError as error:  # another process does the same
                _log.debug("rollout %s: %s", record.id, error)
            except Exception as error:  # the others have their turn first
                errors.append(error)
        if errors:
            raise errors[0]
        return [self.get(id) for id in found]

    def _step(self, record: Record, now_us: int) -> None:
        plan = record.read_plan()
        if record.state is RolloutState.RUNNING and self._apply(record.id):
            self._intake.read(record.id, plan)
            self._look(record.id, plan, now_us)
            record = self._record(record.id)
            if record.state is RolloutState.RUNNING:
                self._apply(record.id)
        if record.state in {RolloutState.PROMOTING, RolloutState.ROLLING_BACK}:
            self._finish(record.id, now_us)

    def _look(self, id: str, plan: Plan, now_us: int) -> None:
        """Judges, if it is time to, and writes what follows with its evidence."""
        from madang.deployment.ab_testing._deciding import Decider
        from madang.deployment.ab_testing._judging import Judge

        with self._records.database.transaction(write=False) as tx:
            record, turn = self._records.find(tx, id)
            stepped_back = now_us < record.seen_us
            record.passed(now_us)
            if not (stages.is_due(record, plan) or stepped_back):
                return
            sums = Observations(tx, self._records.project, id).sums(
                int(record.control["version"]),
                paired=plan.kind == "shadow",
                grouped=any(guard.kind == "fairness" for guard in plan.guards),
            )
        control = int(record.control["version"])
        fractions = stages.fractions(plan, record, sums.scores.values())
        judge = Judge(plan, control, record.shares, sums, fractions)
        evidence = judge.evidence()
        is_final = bool(fractions) and fractions[-1] >= 1
        decider = Decider(plan, control, record, sums, judge, is_final=is_final)
        decision = decider.decide(evidence)
        record.evidence, record.looks, record.fresh = evidence, record.looks + 1, 0
        record.fractions = [*fractions] or record.fractions
        with self._records.database.transaction() as tx:
            self._follow(tx, record, decision)
            self._records.save(tx, record, turn)

    def _follow(self, tx: Any, record: Record, decision: Decision) -> None:
        """Takes a decision over, with its line in the ledger."""
        record.dropped = dict(decision.dropped) or record.dropped
        if decision.step == "wait":
            return
        if decision.step == "stage":
            record.shares.append(dict(decision.shares))
            record.stage_elapsed_us = record.elapsed_us
            self._records.note(
                tx,
                "stage",
                record,
                stage=record.stage,
                why=decision.reason,
                weights=stages.by_version(decision.shares),
                look=record.looks,
                evidence=stages.evidence(record),
            )
            return
        promotes = decision.step == "promote"
        record.state = RolloutState.PROMOTING if promotes else RolloutState.ROLLING_BACK
        record.winner, record.reason = decision.winner, decision.reason
        self._note_decision(tx, record, decision.step)

    def _note_decision(self, tx: Any, record: Record, decision: str) -> None:
        self._records.note(
            tx,
            "decide",
            record,
            decision=decision,
            winner=record.winner,
            look=record.looks,
            evidence=stages.evidence(record),
        )

    # -- the endpoint -------------------------------------------------------------------------

    def _apply(self, id: str) -> bool:
        """Makes the endpoint what the stage wants; whether the rollout goes on."""
        record = self._record(id)
        plan = record.read_plan()
        arms = stages.arms(record, plan)
        shadows = tuple(a.version for a in plan.challengers) if plan.kind == "shadow" else ()
        split = Split(record.id, record.id, record.stage, plan.key, shadows)
        return self._deployed(record, arms, split)

    def _deployed(self, record: Record, arms: list[Arm], split: Split | None) -> bool:
        """Deploys unless it is so already; whether the endpoint still is this rollout's."""
        try:
            endpoint = self._serving.get(record.endpoint)
        except NotFoundError:
            self._end(record.id, RolloutState.ENDED, "end", "the endpoint was removed meanwhile")
            return False
        if (endpoint.arms, endpoint.split) != (tuple(arms), split):
            is_own = endpoint.split is not None and endpoint.split.rollout == record.id
            if endpoint.revision != record.revision and not is_own:
                self._check_current(record)
                reason = f"somebody else changed the endpoint (revision {endpoint.revision})"
                self._end(record.id, RolloutState.ENDED, "end", reason)
                return False
            # Of what follows from an answer to the rollout's guard, the endpoint's is not asked.
            with asked_already() if self.rollout_guard is not None else nullcontext():
                endpoint = self._serving.deploy(record.endpoint, arms, split=split)
        if endpoint.revision != record.revision:
            with self._records.changing(record.id) as (_, fresh):
                fresh.revision = record.revision = endpoint.revision
        return True

    def _check_current(self, record: Record) -> None:
        """Raises when another process went on, so that the endpoint's change may be its own."""
        fresh = self._record(record.id)
        if (fresh.state, fresh.revision) != (record.state, record.revision):
            raise ConflictError(f"the rollout {record.id} was changed meanwhile; try again")

    def _finish(self, id: str, now_us: int | None = None) -> None:
        """Does what was decided: everything here may be done twice."""
        record = self._record(id)
        plan = record.read_plan()
        if record.state is RolloutState.ROLLING_BACK:
            if self._deployed(record, [stages.arm_of(record)], None):
                self._end(id, RolloutState.ROLLED_BACK, "roll_back", record.reason)
        elif record.state is RolloutState.PROMOTING:
            winner = next(arm for arm in plan.challengers if arm.version == record.winner)
            try:
                self._ask("promote", record, plan, record.evidence)
                if plan.alias:
                    registry = self._context.component("experiments").registry
                    registry.set_alias(winner.model, plan.alias, winner.version)
            except PermissionDeniedError as error:
                self._refused(id, plan, str(error), now_us)
                return
            if self._deployed(record, [replace(winner, weight=1.0)], None):
                self._end(id, RolloutState.PROMOTED, "promote", record.reason)

    def _refused(self, id: str, plan: Plan, message: str, now_us: int | None) -> None:
        """Waits for the policy, as long as the rollout may take."""
        with self._records.changing(id) as (tx, record):
            if now_us is not None and record.elapsed_at(now_us) >= plan.max_seconds * 1e6:
                record.state = RolloutState.ROLLING_BACK
                record.reason = f"the promotion was refused until the end: {message}"
                self._note_decision(tx, record, "roll back")
            elif record.waits_for != message:
                record.waits_for = message
                self._records.note(tx, "refuse", record, message=message, winner=record.winner)

    def _end(self, id: str, state: RolloutState, what: str, reason: str) -> None:
        with self._records.changing(id) as (tx, record):
            if record.ended_us is not None:
                return
            record.state, record.reason, record.waits_for = state, reason, ""
            record.ended_us = max(clock_us(), record.started_us)
            self._records.note(
                tx, what, record, winner=record.winner, looks=record.looks, lost=record.lost
            )

    # -- the rest -----------------------------------------------------------------------------

    def _record(self, id: str) -> Record:
        with self._records.database.transaction(write=False) as tx:
            return self._records.find(tx, id)[0]

    def _ask(self, action: Any, record: Record, plan: Plan, evidence: tuple[Evidence, ...]) -> None:
        if self.rollout_guard is None:
            return
        starts = action == "start"
        about = [arm for arm in plan.challengers if starts or arm.version == record.winner]
        served = stages.arms(record, plan) if starts else [replace(about[0], weight=1.0)]
        self.rollout_guard(
            RolloutAction(
                action=action,
                rollout=record.id,
                endpoint=plan.endpoint,
                kind=plan.kind,
                models=tuple(f"{arm.model}@{arm.version}" for arm in about),
                arms=tuple(served),
                actor=current_actor(),
                alias=plan.alias,
                evidence=evidence,
            )
        )

    def _check_models(self, plan: Plan) -> None:
        if plan.alias:
            registry = self._context.component("experiments").registry
            for arm in plan.challengers:
                if arm.graph is not None:
                    raise InvalidInputError(
                        f"{arm.model}@{arm.version} is a graph of models, for which there is no alias"
                    )
                registry.get(arm.model, arm.version)

    def health(self) -> Health:
        try:
            running = self._records.list(endpoint=None, running=True)
        except (MadangError, OSError) as error:
            return Health(False, str(error), "look at the metadata database")
        waiting = [record for record in running if record.waits_for]
        if waiting:
            first = waiting[0]
            advice = "do what it asks for, or: madang rollouts stop " + first.id
            return Health(True, f"rollout {first.id} waits: {first.waits_for}", advice)
        return Health(True, f"{len(running)} rollouts run")
