"""Our pruners decide as Optuna's do, which keep their state elsewhere."""

from __future__ import annotations

import random
import warnings

import optuna
import pytest

from madang.development.tuning import (
    Halving,
    Hyperband,
    Median,
    Patience,
    Percentile,
    TrialState,
)
from madang.development.tuning.pruning import PRUNERS, Curve, Pruner, decode, encode
from madang.errors import InvalidInputError


def _patient(inner, *rest):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.PatientPruner(inner, *rest)


ALIKE = [
    (Median(), optuna.pruners.MedianPruner()),
    (
        Median(startup_trials=3, warmup_steps=2, interval_steps=3),
        optuna.pruners.MedianPruner(3, 2, 3),
    ),
    (Percentile(25, 2, 1, 2), optuna.pruners.PercentilePruner(25, 2, 1, 2)),
    (Percentile(80, 0), optuna.pruners.PercentilePruner(80, 0)),
    (Halving(), optuna.pruners.SuccessiveHalvingPruner(min_resource=1)),
    (Halving(2, 3, 1), optuna.pruners.SuccessiveHalvingPruner(2, 3, 1)),
    (Patience(2), _patient(None, 2)),
    (
        Patience(1, 0.1, Median(startup_trials=3)),
        _patient(optuna.pruners.MedianPruner(3), 1, 0.1),
    ),
]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(("ours", "theirs"), ALIKE, ids=lambda one: type(one).__name__)
def test_it_decides_as_optuna(ours, theirs, direction):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chance = random.Random(0)
    study = optuna.create_study(direction=direction, pruner=theirs)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    others, decided = [], []
    for number in range(60):
        trial, level, values = study.ask(), chance.gauss(0, 1), {}
        state = TrialState.FINISHED
        for step in range(0, 20, chance.choice((1, 1, 2))):
            value = level + chance.gauss(0, 0.3)
            values[step] = value
            trial.report(value, step)
            expected = trial.should_prune()
            own = Curve(number, TrialState.RUNNING, dict(values))
            assert ours.prunes(direction, own, others) is bool(expected), (number, step)
            decided.append(expected)
            if expected:
                state = TrialState.PRUNED
                break
        others.append(Curve(number, state, values))
        if state is TrialState.PRUNED:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, level)
    assert any(decided)
    assert not all(decided)


def test_hyperband_halves_within_its_brackets():
    pruner = Hyperband(max_steps=27, min_steps=1, reduction=3)
    brackets = [pruner.bracket(number) for number in range(4000)]
    # The shares of the paper: ceil(4 · 27/4), ceil(4 · 9/3), ceil(4 · 3/2), 4.
    for bracket, share in enumerate((27, 12, 6, 4)):
        assert brackets.count(bracket) / 4000 == pytest.approx(share / 49, abs=0.03)
    same, other = brackets.index(0), brackets.index(1)
    own = Curve(brackets.index(0, same + 1), TrialState.RUNNING, {1: 2.0})
    assert pruner.prunes("minimize", own, [Curve(same, TrialState.FINISHED, {1: 1.0})])
    assert not pruner.prunes("minimize", own, [Curve(other, TrialState.FINISHED, {1: 1.0})])


@pytest.mark.parametrize("pruner", [None, *(ours for ours, _ in ALIKE), Hyperband(9)])
def test_it_is_the_same_in_another_process(pruner):
    assert decode(encode(pruner)) == pruner


def test_pruners_of_ones_own_stay_in_their_process():
    class Mine(Pruner):
        def prunes(self, direction, own, others):
            return True

    with pytest.raises(InvalidInputError, match="don't know the pruner Mine; they know: Halving"):
        encode(Mine())
    with pytest.raises(InvalidInputError, match="don't know the pruner Mine"):
        encode(Patience(1, then=Mine()))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Percentile, {"percent": 101}, "percent is 0 to 100, found 101"),
        (Median, {"startup_trials": -1}, "startup_trials is 0 or more"),
        (Median, {"warmup_steps": -1}, "warmup_steps is 0 or more"),
        (Median, {"interval_steps": 0}, "interval_steps is 1 or more"),
        (Halving, {"min_steps": 0}, "min_steps is 1 or more"),
        (Halving, {"reduction": 1}, "reduction is 2 or more"),
        (Halving, {"first_rung": -1}, "first_rung is 0 or more"),
        (Hyperband, {"max_steps": 0}, "max_steps is at least min_steps"),
        (Patience, {"steps": -1}, "steps is 0 or more"),
        (Patience, {"steps": 1, "tolerance": -1}, "tolerance is 0 or more"),
    ],
)
def test_impossible_pruners(kind, arguments, message):
    assert kind in PRUNERS
    with pytest.raises(InvalidInputError, match=message):
        kind(**arguments)
