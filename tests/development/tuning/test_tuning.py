"""Optuna as the tuning engine."""

from __future__ import annotations

import logging

import pytest

from madang.development import tuning as component
from madang.development.tuning import Float
from madang.errors import ConfigurationError
from madang.testing.tuning import TuningContract


class TestOptunaTPE(TuningContract):
    @pytest.fixture
    def tuning(self, stack):
        return stack.tuning


class TestOptunaRandom(TuningContract):
    @pytest.fixture
    def tuning(self, stack):
        return component.connect("optuna://?sampler=random", stack.context)


class TestOptunaOnPostgreSQL(TuningContract):
    @pytest.fixture
    def stack(self, postgresql_stack):
        return postgresql_stack

    @pytest.fixture
    def tuning(self, stack):
        return stack.tuning


def test_unknown_samplers_are_refused(stack):
    with pytest.raises(
        ConfigurationError,
        match="no sampler 'gp'; its samplers are: cmaes, grid, nsga2, qmc, random, tpe",
    ):
        component.connect("optuna://?sampler=gp", stack.context)


def test_it_is_quiet_and_leaves_the_users_setting(stack, capsys):
    import optuna

    optuna.logging.set_verbosity(logging.DEBUG)
    try:
        stack.tuning.tune(lambda p: p["x"], {"x": Float(0, 1)}, name="s", trials=2)
        assert optuna.logging.get_verbosity() == logging.DEBUG
    finally:
        optuna.logging.set_verbosity(logging.INFO)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
