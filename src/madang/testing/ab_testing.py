"""What every A/B testing engine must do.

Override the fixture `stack` with an open project whose A/B testing engine is under test and whose
endpoints are served (its workers run). One project may serve all tests: each has endpoints of its own.
The suite registers its own models, asks the endpoint for predictions, and reads from the prediction log
which version made them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from madang.deployment.ab_testing import (
    Guard,
    Plan,
    Rollout,
    RolloutState,
    Target,
    outcome_events,
)
from madang.deployment.serving import Arm
from madang.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from madang.testing.serving import logged, register, until

ROW = np.array([[1.0, 2.0, 3.0]])
VALUE = Target("value")
SECOND = 1_000_000


class Case:
    """An endpoint of one test, its requests and their outcomes."""

    def __init__(self, stack: Any, name: str) -> None:
        self.stack = stack
        self.name = name
        self.asked = 0
        self.rng = np.random.default_rng(7)

    def start(self, *versions: int, **options: Any) -> Rollout:
        options.setdefault("target", VALUE)
        options.setdefault("look_every", 1)
        arms = tuple(Arm("sums", version) for version in versions or (2,))
        started: Rollout = self.stack.ab_testing.start(Plan(self.name, arms, **options))
        return started

    def ask(self, count: int, outcome: Callable[[int], float] | None = None) -> dict[str, int]:
        """Asks for predictions, and says what came true by their versions; id to version."""
        before = self.asked
        for _ in range(count):
            self.stack.serving.predict(self.name, ROW)
        self.asked += count
        found = logged(self.stack, self.name, self.asked)[before : self.asked]
        made = {event["id"]: event["version"] for event in found}
        if outcome is not None:
            values = [outcome(version) for version in made.values()]
            self.stack.collection.append(
                f"outcomes.{self.name}", outcome_events(list(made), values)
            )
        return made

    def value(self, gain: float) -> Callable[[int], float]:
        """Outcomes that are better by so much under a challenger."""
        return lambda version: float(gain * (version > 1) + 0.1 * self.rng.normal())

    def advance(self, now_us: int | None = None) -> Rollout:
        self.stack.ab_testing.advance(now_us)
        found: Rollout = self.stack.ab_testing.get(self.name)
        return found

    def until_ended(self, gain: float, *, turns: int = 20) -> Rollout:
        for _ in range(turns):
            self.ask(100, self.value(gain))
            rollout = self.advance()
            if rollout.has_ended:
                return rollout
        raise AssertionError(f"not ended after {turns} turns: {rollout}")

    @property
    def serves(self) -> list[tuple[int, float]]:
        """Versions and weights behind the endpoint."""
        return [(arm.version, arm.weight) for arm in self.stack.serving.get(self.name).arms]


class ABTestingContract:
    @pytest.fixture
    def stack(self) -> Any:
        raise pytest.UsageError("override the fixture `stack`")

    @pytest.fixture
    def case(self, stack) -> Iterator[Case]:
        """An endpoint that serves version 1 of three."""
        if "sums" not in stack.registry.models():
            for factor in (1.0, 2.0, 3.0):
                register(stack, "sums", factor, evaluation={"auc": 0.5})
        name = f"a-{secrets.token_hex(6)}"
        stack.serving.deploy(name, [Arm("sums", 1)])
        yield Case(stack, name)
        stack.ab_testing.rollout_guard = None
        for rollout in stack.ab_testing.rollouts(endpoint=name, running=True):
            stack.ab_testing.stop(rollout.id)
        stack.serving.undeploy(name)

    def test_a_rollout_runs_and_is_found(self, stack, case):
        started = case.start()
        assert started.state is RolloutState.RUNNING
        assert started.weights == {1: 0.5, 2: 0.5}
        assert started.control == Arm("sums", 1)
        assert stack.ab_testing.get(started.id).plan == started.plan
        assert stack.ab_testing.get(case.name).id == started.id
        assert [r.id for r in stack.ab_testing.rollouts(endpoint=case.name)] == [started.id]
        assert started.id in [r.id for r in stack.ab_testing.rollouts(running=True)]
        assert case.serves == [(1, 0.5), (2, 0.5)]
        assert set(case.ask(40).values()) == {1, 2}

    def test_a_better_challenger_is_promoted(self, stack, case):
        case.start(alias="best")
        ended = case.until_ended(1.0)
        assert (ended.state, ended.winner) == (RolloutState.PROMOTED, 2)
        assert case.serves == [(2, 1.0)]
        assert stack.registry.get("sums", "best").version == 2
        assert set(case.ask(5).values()) == {2}
        (line,) = stack.ledger.lines(kind="rollout.decide", subject=f"rollout:{ended.id}")
        target = next(one for one in line.data["evidence"] if one["about"] == "target")
        assert target["low"] > 0
        assert line.data["decision"] == "promote"
        before = len(stack.ledger.lines(subject=f"rollout:{ended.id}"))
        assert case.advance() == ended  # nothing is left to do
        assert len(stack.ledger.lines(subject=f"rollout:{ended.id}")) == before

    def test_a_worse_challenger_is_rolled_back(self, case):
        case.start()
        ended = case.until_ended(-1.0)
        assert ended.state is RolloutState.ROLLED_BACK
        assert case.serves == [(1, 1.0)]
        assert "worse" in ended.reason

    def test_an_equal_challenger_goes_on(self, case):
        case.start(min_samples=40)
        for _ in range(3):
            case.ask(60, lambda _: 1.0)
            assert case.advance().state is RolloutState.RUNNING

    def test_an_outcome_counts_once_and_the_newest_one(self, stack, case):
        case.start(min_samples=10_000)
        made = case.ask(60)
        topic = f"outcomes.{case.name}"
        for value in (5.0, 9.0, 1.0, 1.0):
            stack.collection.append(topic, outcome_events(list(made), [value] * 60))
            case.advance()
        (target,) = [one for one in case.advance().evidence if one.about == "target"]
        assert (target.count, target.estimate) == (60, 0.0)

    def test_a_canary_grows_until_it_is_promoted(self, case):
        started = case.start(
            kind="canary",
            target=None,
            guards=(Guard("latency", limit=50), Guard("errors")),
            stage_samples=10,
            shares=(0.2, 0.5),
        )
        assert started.weights == {1: 0.8, 2: 0.2}
        ended = case.until_ended(0.0)
        assert ended.state is RolloutState.PROMOTED
        assert ended.stage == 1
        assert case.serves == [(2, 1.0)]

    def test_a_shadow_answers_nothing_and_is_compared(self, case):
        case.start(kind="shadow", target=Target("absolute_error"), min_samples=50)
        made = case.ask(100, lambda _: 12.0)  # as version 2 says: twice the sum
        assert set(made.values()) == {1}
        until(lambda: case.advance().has_ended)
        assert case.advance().state is RolloutState.PROMOTED

    def test_a_bandit_moves_traffic_to_the_better_arm(self, case):
        case.start(kind="bandit", stage_samples=50)
        ended = case.until_ended(0.2)
        assert ended.state is RolloutState.PROMOTED

    def test_one_rollout_at_a_time(self, case):
        case.start()
        with pytest.raises(AlreadyExistsError, match=f"runs at '{case.name}'; stop it first"):
            case.start(3)

    def test_stopping_gives_everything_back_to_control(self, stack, case):
        started = case.start()
        stopped = stack.ab_testing.stop(started.id, "enough")
        assert stopped.state is RolloutState.ROLLED_BACK
        assert "enough" in stopped.reason
        assert case.serves == [(1, 1.0)]
        assert stack.ab_testing.stop(started.id) == stopped
        with pytest.raises(ConflictError, match="is ROLLED_BACK"):
            stack.ab_testing.promote(started.id)

    def test_promoting_by_hand(self, stack, case):
        started = case.start(2, 3)
        with pytest.raises(NotFoundError, match="no challenger of version None; challengers: 2, 3"):
            stack.ab_testing.promote(started.id)
        promoted = stack.ab_testing.promote(started.id, 3, "I know it")
        assert (promoted.state, promoted.winner) == (RolloutState.PROMOTED, 3)
        assert case.serves == [(3, 1.0)]
        with pytest.raises(ConflictError, match="is PROMOTED, version 3"):
            stack.ab_testing.stop(started.id)

    def test_the_guard_is_asked(self, stack, case):
        def refuse(action: Any) -> None:
            raise PermissionDeniedError(f"no {action.action} on a Friday")

        stack.ab_testing.rollout_guard = refuse
        with pytest.raises(PermissionDeniedError, match="no start on a Friday"):
            case.start()
        assert stack.ab_testing.rollouts(endpoint=case.name) == []
        assert case.serves == [(1, 1.0)]
        stack.ab_testing.rollout_guard = None
        started = case.start()
        stack.ab_testing.rollout_guard = refuse
        with pytest.raises(PermissionDeniedError, match="no promote on a Friday"):
            stack.ab_testing.promote(started.id)
        assert stack.ab_testing.get(started.id).state is RolloutState.RUNNING

    def test_time_ends_a_rollout_and_promotes_nothing(self, case):
        started = case.start(max_seconds=60)
        case.ask(20, case.value(1.0))
        assert case.advance(started.started_us - 3600 * SECOND).state is RolloutState.RUNNING
        ended = case.advance(started.started_us + 86_400 * SECOND)
        assert ended.state is RolloutState.ROLLED_BACK
        assert ended.reason == "it was not decided within 60 seconds"

    def test_an_endpoint_that_somebody_else_changed_is_left_alone(self, stack, case):
        case.start()
        stack.serving.deploy(case.name, [Arm("sums", 3)])
        ended = case.advance()
        assert ended.state is RolloutState.ENDED
        assert "somebody else changed the endpoint" in ended.reason
        assert case.serves == [(3, 1.0)]

    def test_an_endpoint_that_was_removed_ends_its_rollout(self, stack, case):
        case.start()
        stack.serving.undeploy(case.name)
        assert case.advance().state is RolloutState.ENDED

    def test_what_does_not_fit_is_refused_and_leaves_nothing(self, stack, case):
        with pytest.raises(NotFoundError, match="there is no endpoint 'none'"):
            stack.ab_testing.start(Plan("none", (Arm("sums", 2),), target=VALUE))
        with pytest.raises(NotFoundError):
            case.start(99)
        with pytest.raises(InvalidInputError, match="the key 'colour' of the rollout is no input"):
            case.start(key="colour")
        with pytest.raises(InvalidInputError, match="have different version numbers"):
            case.start(1)
        assert stack.ab_testing.rollouts(endpoint=case.name, running=True) == []
        assert case.serves == [(1, 1.0)]
        stack.serving.deploy(case.name, [Arm("sums", 1), Arm("sums", 2)])
        with pytest.raises(InvalidInputError, match="starts from one arm that answers"):
            case.start(3)
        stack.serving.deploy(case.name, [Arm("sums", 1)], log=False)
        with pytest.raises(InvalidInputError, match="logs nothing to judge by"):
            case.start()

    def test_what_is_not_there_says_so(self, stack):
        with pytest.raises(NotFoundError, match="there is no rollout 'none'"):
            stack.ab_testing.get("none")
