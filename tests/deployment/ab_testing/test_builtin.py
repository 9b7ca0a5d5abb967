"""The engine by itself: events as the workers write them, judged without workers."""

from __future__ import annotations

import os
import signal
import threading
from itertools import count

import msgspec
import numpy as np
import pytest
from tests.deployment.ab_testing.traffic import Traffic, number_input, text_input

import madang
from madang.data.collection.contract import events
from madang.deployment.ab_testing import Guard, Plan, RolloutState, Target, builtin
from madang.deployment.ab_testing._intake import Intake
from madang.deployment.ab_testing._records import Records
from madang.deployment.ab_testing.builtin import BuiltinABTesting
from madang.deployment.serving import Arm
from madang.deployment.serving.local import LocalServing
from madang.development.experiments.local import LocalExperiments
from madang.errors import ConflictError, InvalidInputError, PermissionDeniedError
from madang.testing.serving import register

VALUE = Target("value")
SECOND = 1_000_000


@pytest.fixture
def stack(tmp_path, monkeypatch):
    numbers = count(1)  # a rollout's id is its salt: with chance in it, tests would be games
    monkeypatch.setattr(builtin, "new_id", lambda: f"{next(numbers):032x}")
    madang.init(tmp_path, name="test")
    with madang.open(tmp_path) as opened:
        for factor in (1.0, 2.0, 3.0):
            register(opened, "sums", factor, evaluation={"auc": 0.5})
        opened.serving.deploy("e", [Arm("sums", 1)])
        yield opened


@pytest.fixture
def traffic(stack):
    return Traffic(stack, "e")


def start(stack, *versions, **options):
    options.setdefault("target", VALUE)
    options.setdefault("look_every", 1)
    arms = tuple(Arm("sums", version) for version in versions or (2,))
    return stack.ab_testing.start(Plan("e", arms, **options))


def better(gain, *, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return lambda number, version: float(gain * (version > 1) + noise * rng.normal())


def evidence(rollout, about="target", version=2):
    (found,) = [e for e in rollout.evidence if e.about == about and e.version == version]
    return found


def only(found):
    (rollout,) = found
    return rollout


# -- outcomes --------------------------------------------------------------------------------------


def test_a_score_is_that_of_the_newest_outcome_however_they_come(stack, traffic):
    start(stack, min_samples=10_000)
    ids = traffic.send(400)
    values = {id: float(i % 7) for i, id in enumerate(ids)}
    traffic.happen(ids[:100], [values[id] for id in ids[:100]])
    stack.ab_testing.advance()
    # Late, doubled, in another order, wrong at first; some never come.
    traffic.happen(ids[50:300], [99.0] * 250)
    traffic.happen(ids[299:49:-1], [values[id] for id in ids[299:49:-1]])
    traffic.happen(ids[:100], [values[id] for id in ids[:100]])
    found = evidence(only(stack.ab_testing.advance()))
    arms = {
        version: [values[id] for id in ids[:300] if traffic.versions[id] == version]
        for version in (1, 2)
    }
    assert found.count == 300
    assert found.estimate == pytest.approx(np.mean(arms[2]) - np.mean(arms[1]))


def test_an_older_outcome_that_comes_later_replaces_nothing(stack, traffic):
    start(stack, min_samples=10_000)
    ids = traffic.send(10)
    for id in ids:
        said = [("2027-01-02T00:00:00Z", 5.0), ("2027-01-01T00:00:00Z", 1.0)]
        values = [msgspec.json.encode({"id": id, "value": v, "time": at}) for at, v in said]
        stack.collection.append("outcomes.e", events(values))
    found = evidence(only(stack.ab_testing.advance()))
    assert (found.count, found.estimate) == (10, 0.0)


def test_outcomes_may_come_before_their_predictions(stack, traffic):
    start(stack, min_samples=10_000)
    traffic.happen([f"{i:08d}" for i in range(50)], [1.0] * 50)
    stack.ab_testing.advance()
    traffic.send(50)
    assert evidence(only(stack.ab_testing.advance())).count == 50


def test_a_withdrawn_outcome_does_not_count(stack, traffic):
    start(stack, min_samples=10_000)
    ids = traffic.send(20, outcomes=better(0))
    traffic.happen(ids[:5], [None] * 5)
    assert evidence(only(stack.ab_testing.advance())).count == 15


def test_outcomes_that_can_not_be_scored_are_counted_with_the_reason(stack, traffic):
    start(stack, target=Target("absolute_error"))
    ids = traffic.send(40)
    traffic.happen(ids, [0.0] * 37 + ["late", [1.0, 2.0], True])
    found = only(stack.ab_testing.advance())
    assert evidence(found).count == 38
    assert found.unusable == (2, f"{ids[38]}: the outcome has 2 values, and the prediction 1")
    stack.collection.append("outcomes.e", events([b"no"]))
    traffic.send(1)
    assert (
        "an outcome is an object with id and value" in only(stack.ab_testing.advance()).unusable[1]
    )


def test_requests_of_others_and_of_earlier_rollouts_do_not_count(stack, traffic):
    first = start(stack)
    traffic.send(30, outcomes=better(0))
    stack.ab_testing.stop(first.id)
    second = start(stack)
    assert second.id != first.id
    traffic.send(20, outcomes=better(0))
    assert evidence(only(stack.ab_testing.advance())).count == 20


def test_a_repeated_id_counts_once(stack, traffic):
    start(stack)
    traffic.send(60, ids=lambda number: f"{number % 20}", outcomes=better(0))
    found = only(stack.ab_testing.advance())
    assert evidence(found).count == 20


# -- scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "sign", "expected"),
    [("correct", 1, -0.5), ("absolute_error", -1, -1.5), ("squared_error", -1, -5.0)],
)
def test_scores_of_predictions_and_outcomes(stack, traffic, score, sign, expected):
    """Control predicts the truth; the challenger is off by 3, or right, in turn."""
    start(stack, target=Target(score), min_samples=10_000)
    state = {1: 0, 2: 0}

    def answers(number, version):
        state[version] += 1
        return [1.0, 2.0, 3.0 + (3.0 if version == 2 else 0.0)]

    ids = traffic.send(100, answers=answers)
    traffic.happen(ids, [[1.0, 2.0, 3.0]] * 100)
    found = evidence(only(stack.ab_testing.advance()))
    off = {"correct": -1 / 3, "absolute_error": -1.0, "squared_error": -3.0}[score]
    assert found.estimate == pytest.approx(off)
    assert found.estimate < 0  # worse, whatever the score's own direction


def test_a_covariate_narrows_the_interval(stack, traffic):
    widths = []
    rng = np.random.default_rng(1)
    x = rng.normal(size=3000)
    y = x + 0.1 * rng.normal(size=3000)
    for covariate in ("", "age", "other"):
        rollout = start(stack, target=Target("value", covariate=covariate), min_samples=10_000)
        traffic.sent = 0
        traffic.send(
            2000,
            inputs=lambda number: [number_input("age", float(x[number]))],
            outcomes=lambda number, version: y[number],
        )
        found = evidence(only(stack.ab_testing.advance()))
        widths.append(found.high - found.low)
        stack.ab_testing.stop(rollout.id)
    assert widths[1] < widths[0] / 5
    assert widths[2] == pytest.approx(widths[0], rel=0.2)  # unknown: as if there was none


def test_requests_of_one_key_are_one_observation(stack, traffic):
    """Twenty users with a hundred requests each: what differs between users must not look like proof."""
    start(stack, min_samples=5)
    levels = np.random.default_rng(5).normal(size=20)
    traffic.send(
        2000,
        units=lambda number: f"user-{number % 20}",
        outcomes=lambda number, version: levels[number % 20],
    )
    found = only(stack.ab_testing.advance())
    assert evidence(found).count == 20
    assert evidence(found).verdict == "open"
    assert evidence(found, "sample ratio", 0).count == 20


# -- decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["asymptotic", "msprt", "obrien_fleming"])
@pytest.mark.parametrize(("gain", "state"), [(1.0, "PROMOTED"), (-1.0, "ROLLED_BACK"), (0.0, None)])
def test_every_method_decides_for_the_better_arm(stack, traffic, method, gain, state):
    start(stack, method=method, effect=0.5, horizon=2000, looks=10)
    for _ in range(5):
        traffic.send(200, outcomes=better(gain, seed=traffic.sent))
        found = stack.ab_testing.advance()
        if found and found[0].has_ended:
            break
    rollout = stack.ab_testing.get("e")
    if state is None:
        assert rollout.state is RolloutState.RUNNING
        return
    assert rollout.state == state
    endpoint = stack.serving.get("e")
    assert [(a.version, a.weight) for a in endpoint.arms] == [(2 if gain > 0 else 1, 1.0)]
    assert endpoint.split is None


def test_a_group_sequential_test_ends_at_its_horizon(stack, traffic):
    start(stack, method="obrien_fleming", horizon=400, looks=4)
    for _ in range(10):
        traffic.send(45, outcomes=lambda number, version: float(number % 2))
        stack.ab_testing.advance()
        if stack.ab_testing.get("e").has_ended:
            break
    found = stack.ab_testing.get("e")
    assert (found.state, found.reason) == ("ROLLED_BACK", "no effect was shown at the horizon")
    assert traffic.sent == 405


def test_rates_are_judged_exactly(stack, traffic):
    start(stack, method="beta_binomial", key="id")
    rng = np.random.default_rng(0)
    for _ in range(10):
        traffic.send(500, outcomes=lambda n, version: float(rng.random() < (0.2, 0.4)[version - 1]))
        if not stack.ab_testing.advance()[0].has_ended:
            continue
        break
    found = stack.ab_testing.get("e")
    assert found.state is RolloutState.PROMOTED
    assert evidence(found).low > 1
    assert evidence(found).method == "beta_binomial"


def test_scores_that_are_no_rates_are_not_judged_as_such(stack, traffic):
    start(stack, method="beta_binomial", key="id")
    traffic.send(50, outcomes=lambda number, version: 0.5)
    with pytest.raises(InvalidInputError, match="beta_binomial judges scores of 0 and 1"):
        stack.ab_testing.advance()


def test_of_several_challengers_the_worse_loses_its_traffic_and_the_better_wins(stack, traffic):
    start(stack, 2, 3)
    gains = {1: 0.0, 2: -3.0, 3: 0.4}
    rng = np.random.default_rng(0)
    value = lambda number, version: float(gains[version] + rng.normal())  # noqa: E731
    traffic.send(450, outcomes=value)
    found = only(stack.ab_testing.advance())
    assert found.state is RolloutState.RUNNING and found.stage == 1
    assert found.weights == pytest.approx({1: 2 / 3, 2: 0.0, 3: 1 / 3})
    for _ in range(10):
        traffic.send(500, outcomes=value)
        if stack.ab_testing.advance()[0].has_ended:
            break
    assert stack.ab_testing.get("e").winner == 3


def test_a_canary_grows_and_is_promoted_when_it_is_not_worse(stack, traffic):
    start(
        stack,
        kind="canary",
        target=Target("value", margin=0.5),
        stage_samples=30,
        shares=(0.1, 0.5),
    )
    seen = []
    for _ in range(20):
        traffic.send(100, outcomes=better(0.0, noise=0.3, seed=traffic.sent))
        rollout = only(stack.ab_testing.advance())
        seen.append((rollout.stage, rollout.weights[2]))
        if rollout.has_ended:
            break
    assert seen[0] == (0, 0.1)
    assert (1, 0.5) in seen
    assert rollout.state is RolloutState.PROMOTED
    assert "not worse" in rollout.reason


def test_a_canary_without_a_target_passes_by_its_guards(stack, traffic):
    start(
        stack,
        kind="canary",
        target=None,
        guards=(Guard("errors"),),
        stage_samples=20,
        stage_seconds=5,
    )
    now = stack.ab_testing.get("e").started_us
    for step in range(20):
        traffic.send(200)
        rollout = only(stack.ab_testing.advance(now + step * SECOND))
        if rollout.has_ended:
            break
    assert rollout.state is RolloutState.PROMOTED
    assert step >= 15  # three stages of five seconds


def test_a_bandit_gives_the_better_arm_more_and_promotes_it(stack, traffic):
    start(stack, kind="bandit", stage_samples=100)
    shares = []
    for _ in range(40):
        traffic.send(100, outcomes=better(0.35, seed=traffic.sent))
        rollout = only(stack.ab_testing.advance())
        shares.append(rollout.weights[2])
        if rollout.has_ended:
            break
    assert rollout.state is RolloutState.PROMOTED
    assert max(shares) == pytest.approx(0.9)
    assert evidence(rollout, "best").verdict == "better"


def test_a_shadow_is_compared_request_by_request(stack, traffic):
    start(stack, kind="shadow", target=Target("absolute_error"))
    noise = np.random.default_rng(0).normal(scale=10, size=1000)
    off = {1: 0.5, 2: 0.1}
    ids = traffic.send(200, answers=lambda number, version: [float(noise[number] + off[version])])
    traffic.happen(ids, list(noise[:200]))
    rollout = only(stack.ab_testing.advance())
    assert rollout.state is RolloutState.PROMOTED
    assert evidence(rollout).estimate == pytest.approx(0.4)


# -- guard rails -----------------------------------------------------------------------------------


def test_a_slow_challenger_is_stopped_though_it_is_better(stack, traffic):
    start(stack, guards=(Guard("latency", limit=1.5),), min_samples=100_000)
    rng = np.random.default_rng(0)
    slow = lambda version: float(0.01 * (3 if version == 2 else 1) * rng.lognormal(sigma=0.3))  # noqa: E731
    for _ in range(20):
        traffic.send(200, latency=slow, outcomes=better(1.0, seed=traffic.sent))
        if stack.ab_testing.advance()[0].has_ended:
            break
    rollout = stack.ab_testing.get("e")
    assert rollout.state is RolloutState.ROLLED_BACK
    assert rollout.reason.startswith("latency p95 of version 2 is worse: ")
    assert [arm.version for arm in stack.serving.get("e").arms] == [1]


def test_a_failing_challenger_is_stopped_after_few_failures(stack, traffic):
    start(stack, kind="canary", target=None, guards=(Guard("errors"),))
    for _ in range(20):
        traffic.send(20, fails=lambda number, version: version == 2)
        if stack.ab_testing.advance()[0].has_ended:
            break
    rollout = stack.ab_testing.get("e")
    assert rollout.state is RolloutState.ROLLED_BACK
    assert rollout.reason.startswith("errors of version 2 is worse")
    assert traffic.sent < 200


def test_a_challenger_that_is_unfair_is_stopped(stack, traffic):
    guard = Guard("fairness", limit=0.1, group="sex", values=("f",))
    start(stack, guards=(guard,))
    rng = np.random.default_rng(0)
    for _ in range(20):
        traffic.send(
            500,
            inputs=lambda number: [text_input("sex", "fm"[number % 2])],
            outcomes=lambda n, version: float(rng.normal() + (version == 2) * (-1, 1)[n % 2]),
        )
        if stack.ab_testing.advance()[0].has_ended:
            break
    rollout = stack.ab_testing.get("e")
    assert rollout.reason.startswith("fairness sex=f of version 2 is worse")


def test_quiet_guards_stop_nothing(stack, traffic):
    guards = (Guard("latency"), Guard("errors"), Guard("fairness", group="sex", values=("f", "m")))
    start(stack, guards=guards)
    rng = np.random.default_rng(0)
    for _ in range(10):
        traffic.send(
            300,
            latency=lambda version: float(rng.lognormal()),
            fails=lambda number, version: number % 50 == 0,
            inputs=lambda number: [text_input("sex", "fm"[number % 2])],
            outcomes=better(0.0, seed=traffic.sent),
        )
        rollout = only(stack.ab_testing.advance())
    assert rollout.state is RolloutState.RUNNING
    assert {e.about for e in rollout.evidence} == {
        "sample ratio", "target", "latency p95", "errors", "fairness sex=f", "fairness sex=m",
    }  # fmt: skip
    parts = sum(e.alpha for e in rollout.evidence if e.about not in {"target", "sample ratio"})
    assert parts <= 0.05


def test_a_broken_assignment_is_found(stack, traffic):
    """Every fourth request of the challenger is lost on its way: its arm looks better than it is."""
    start(stack)
    for _ in range(20):
        traffic.send(
            400,
            broken=lambda number, version: version == 2 and number % 4 == 0,
            outcomes=better(0.0, seed=traffic.sent),
        )
        if stack.ab_testing.advance()[0].has_ended:
            break
    rollout = stack.ab_testing.get("e")
    assert rollout.state is RolloutState.ROLLED_BACK
    assert "assignment or logging is broken, so that nothing can be concluded" in rollout.reason


def test_the_shares_of_failed_requests_count_too(stack, traffic):
    """Otherwise an arm that fails would look like a broken assignment."""
    start(stack)
    for _ in range(5):
        traffic.send(400, fails=lambda number, version: version == 2 and number % 3 == 0)
        rollout = only(stack.ab_testing.advance())
    assert rollout.state is RolloutState.RUNNING
    assert evidence(rollout, "sample ratio", 0).count == 2000


# -- time ------------------------------------------------------------------------------------------


def test_clocks_may_jump(stack, traffic):
    rollout = start(stack, max_seconds=100)
    now = rollout.started_us
    traffic.send(10, outcomes=better(0))
    stack.ab_testing.advance(now + 60 * SECOND)
    assert stack.ab_testing._record("e").elapsed_us == 60 * SECOND
    traffic.send(10, outcomes=better(0))
    stack.ab_testing.advance(now - 10_000 * SECOND)  # back by hours: no time has passed
    assert stack.ab_testing._record("e").elapsed_us == 60 * SECOND
    stack.ab_testing.advance(now - 9_970 * SECOND)
    assert stack.ab_testing.get("e").state is RolloutState.RUNNING
    stack.ab_testing.advance(now + 10**6 * SECOND)  # and far ahead: it may end, never be promoted
    found = stack.ab_testing.get("e")
    assert found.state is RolloutState.ROLLED_BACK
    assert found.reason == "it was not decided within 100 seconds"


def test_time_alone_promotes_nothing(stack):
    start(stack, kind="canary", target=None, stage_seconds=1)
    now = stack.ab_testing.get("e").started_us
    for hour in range(5):
        stack.ab_testing.advance(now + hour * 3600 * SECOND)
    assert stack.ab_testing.get("e").stage == 0


# -- others ----------------------------------------------------------------------------------------


def test_a_refused_promotion_waits_for_the_policy_and_then_happens(stack, traffic):
    asked, allowed = [], threading.Event()

    def guard(action):
        asked.append((action.action, action.models))
        if action.action == "promote" and not allowed.is_set():
            raise PermissionDeniedError("a second person has to agree")

    stack.ab_testing.rollout_guard = guard
    start(stack, alias="champion")
    traffic.send(400, outcomes=better(1.0))
    for _ in range(3):
        rollout = only(stack.ab_testing.advance())
        assert rollout.state is RolloutState.PROMOTING
        assert rollout.waits_for == "a second person has to agree"
        assert "waits: a second person" in stack.ab_testing.health().detail
    assert len(stack.ledger.lines(kind="rollout.refuse")) == 1
    assert stack.serving.get("e").split is not None
    allowed.set()
    assert only(stack.ab_testing.advance()).state is RolloutState.PROMOTED
    assert stack.registry.get("sums", "champion").version == 2
    assert asked[0] == ("start", ("sums@2",))
    assert asked[-1] == ("promote", ("sums@2",))


def test_a_promotion_that_is_never_allowed_is_rolled_back_at_the_end(stack, traffic):
    def guard(action):
        if action.action == "promote":
            raise PermissionDeniedError("never")

    stack.ab_testing.rollout_guard = guard
    now = start(stack, max_seconds=1000).started_us
    traffic.send(400, outcomes=better(1.0))
    stack.ab_testing.advance(now + SECOND)
    stack.ab_testing.advance(now + 2000 * SECOND)
    stack.ab_testing.advance(now + 2001 * SECOND)
    found = stack.ab_testing.get("e")
    assert found.state is RolloutState.ROLLED_BACK
    assert found.reason == "the promotion was refused until the end: never"


def test_what_another_process_deployed_for_a_rollout_is_its_own(stack):
    rollout = start(stack)
    now = stack.serving.get("e")  # both saw the stage before, and the later deploy is not noted yet
    stack.serving.deploy("e", now.arms, split=now.split)
    assert stack.ab_testing.promote(rollout.id).state is RolloutState.PROMOTED


def test_a_process_that_is_behind_ends_nothing(stack, monkeypatch):
    rollout = start(stack)
    engine = stack.ab_testing
    behind = engine._record(rollout.id)

    def dies(id, state, what, reason):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_end", dies)
        with pytest.raises(KeyboardInterrupt):
            engine.promote(rollout.id)  # the endpoint has the winner, and the rollout goes on
    records = iter([behind])
    current = engine._record
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_record", lambda name: next(records, None) or current(name))
        with pytest.raises(ConflictError, match="was changed meanwhile"):
            engine._apply(rollout.id)
    assert only(engine.advance()).state is RolloutState.PROMOTED


def test_the_decision_stands_in_the_ledger_with_its_evidence(stack, traffic):
    rollout = start(stack)
    traffic.send(400, outcomes=better(1.0))
    stack.ab_testing.advance()
    lines = {line.kind: line for line in stack.ledger.lines(kind="rollout.*")}
    assert set(lines) == {"rollout.start", "rollout.decide", "rollout.promote"}
    decided = lines["rollout.decide"]
    assert decided.subject == f"rollout:{rollout.id}"
    assert decided.actor == f"rollout:{rollout.id}"
    assert (decided.data["decision"], decided.data["winner"], decided.data["look"]) == (
        "promote",
        2,
        1,
    )
    target = next(one for one in decided.data["evidence"] if one["about"] == "target")
    assert target["low"] > 0 and target["count"] == 400 and target["method"] == "asymptotic"
    assert "model:sums@2" in lines["rollout.promote"].outputs
    assert stack.ledger.verify().ok


def test_what_was_observed_is_removed_when_it_is_no_longer_needed(stack, traffic):
    rollout = start(stack)
    traffic.send(50, outcomes=better(0))
    stack.ab_testing.advance()
    stack.ab_testing.stop(rollout.id, "enough")
    with stack.metadata.transaction(write=False) as tx:
        for table in ("rollout_prediction", "rollout_outcome", "rollout_progress"):
            assert tx.execute(f"SELECT COUNT(*) FROM {table}")[0][0] == 0
    found = stack.ab_testing.get(rollout.id)
    assert found.reason.endswith("enough") and evidence(found).count == 50


def test_two_processes_may_advance_at_once(stack, traffic, tmp_path):
    start(stack, min_samples=10_000)
    traffic.send(2000, outcomes=better(0.0))
    others = [madang.open(tmp_path) for _ in range(3)]
    errors = []

    def advance(one):
        try:
            one.ab_testing.advance()
        except BaseException as error:  # shown below
            errors.append(error)

    threads = [threading.Thread(target=advance, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in others:
        one.close()
    assert not errors
    traffic.send(1, outcomes=better(0.0))
    assert evidence(only(stack.ab_testing.advance())).count == 2001


# -- killed ----------------------------------------------------------------------------------------

POINTS = {
    "before a batch is written": (Intake, "_take", "before"),
    "after a batch is written": (Intake, "_read_some", "after"),
    "before a decision is written": (Records, "save", "before"),
    "after a decision is written": (BuiltinABTesting, "_look", "after"),
    "before the alias moves": (LocalExperiments, "registry", "property"),
    "before the endpoint changes": (LocalServing, "deploy", "before"),
    "after the endpoint changed": (LocalServing, "deploy", "after"),
    "before the end is written": (BuiltinABTesting, "_end", "before"),
}


def die_at(monkey, owner, name, when):
    """Makes a method kill its process."""
    real = getattr(owner, name)

    def die(*args, **options):
        if when == "after":
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    monkey.setattr(owner, name, property(die) if when == "property" else die)


def killed(root, point):
    """Advances in a process that dies at a point."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as monkey, madang.open(root) as own:
                die_at(monkey, *POINTS[point])
                own.ab_testing.advance()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("kind", ["ab", "canary"])
@pytest.mark.parametrize("point", POINTS)
def test_a_rollout_goes_on_where_it_was_killed(stack, traffic, tmp_path, point, kind):
    start(
        stack,
        kind=kind,
        alias="champion",
        stage_samples=50,
        shares=(0.3,) if kind == "ab" else (0.3, 0.5),
    )
    deaths = 0
    for _ in range(8):
        traffic.send(300, outcomes=better(1.0, seed=traffic.sent))
        deaths += killed(tmp_path, point)
        if stack.ab_testing.get("e").has_ended:
            break
        stack.ab_testing.advance()
        if stack.ab_testing.get("e").has_ended:
            break
    assert deaths >= 1
    rollout = stack.ab_testing.get("e")
    assert rollout.state is RolloutState.PROMOTED
    assert evidence(rollout).count <= traffic.sent
    assert [(arm.version, arm.weight) for arm in stack.serving.get("e").arms] == [(2, 1.0)]
    assert stack.registry.get("sums", "champion").version == 2
    kinds = [line.kind for line in stack.ledger.lines(kind="rollout.*")]
    assert kinds.count("rollout.decide") == kinds.count("rollout.promote") == 1
    assert stack.ledger.verify().ok
    assert evidence(rollout).count == traffic.sent  # nothing is lost, nothing counts twice


def test_a_start_that_was_killed_before_the_endpoint_changed_goes_on(stack, traffic, tmp_path):
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as monkey, madang.open(tmp_path) as own:
                die_at(monkey, LocalServing, "deploy", "before")
                start(own)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert stack.serving.get("e").split is None
    rollout = only(stack.ab_testing.advance())
    assert stack.serving.get("e").split.rollout == rollout.id
    traffic.send(400, outcomes=better(1.0))
    assert only(stack.ab_testing.advance()).state is RolloutState.PROMOTED


def test_a_conflict_with_another_process_is_left_to_it(stack, traffic, monkeypatch):
    start(stack)
    traffic.send(10, outcomes=better(0.0))

    def lose(*args):
        raise ConflictError("changed meanwhile")

    monkeypatch.setattr(BuiltinABTesting, "_follow", lose)
    assert only(stack.ab_testing.advance()).looks == 0
