"""The contract suite with real inference workers, and plans that can't be meant."""

from __future__ import annotations

import os
from itertools import count

import pytest
from tests.deployment.serving.conftest import make_project

from madang.deployment.ab_testing import Guard, Plan, Target, builtin
from madang.deployment.ab_testing._plans import plan_from, plan_to
from madang.deployment.serving import Arm, Ensemble, FeatureJoin, ModelRef, Transformer
from madang.deployment.serving._arms import exactly
from madang.development.experiments import TensorSpec
from madang.errors import InvalidInputError
from madang.testing.ab_testing import ABTestingContract

ARM = Arm("m", 2)


@pytest.fixture(autouse=True)
def known_salts(monkeypatch):
    """A rollout's id is its salt; ids of requests are still drawn, so effects here are large."""
    numbers = count(int.from_bytes(os.urandom(6)) << 32)
    monkeypatch.setattr(builtin, "new_id", lambda: f"{next(numbers):032x}")


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("local")) as stack, stack.serving.workers():
        yield stack


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory, postgresql_server):
    import psycopg

    schema = f"rollouts_{os.getpid()}"
    with psycopg.connect(postgresql_server, autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {schema}")
    url = f"{postgresql_server}?schema={schema}"
    root = tmp_path_factory.mktemp("postgresql")
    with make_project(root, workers=2, metadata=url) as stack, stack.serving.workers():
        yield stack


class TestOneWorkerOnSQLite(ABTestingContract):
    @pytest.fixture
    def stack(self, on_sqlite):
        return on_sqlite


class TestTwoWorkersOnPostgreSQL(ABTestingContract):
    @pytest.fixture
    def stack(self, on_postgresql):
        return on_postgresql


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_survives_json():
    import msgspec

    clean = Transformer("f.py:f", (TensorSpec("x", "FP64", (-1,)),))
    arm = Arm(
        "pair",
        7,
        graph=Ensemble((ModelRef("a", 1), ModelRef("b", 2))),
        before=clean,
        features=FeatureJoin(("view",), ("x",)),
    )
    guards = (Guard("latency", 1.5, 0.99), Guard("fairness", group="g", values=("a", "b")))
    plan = Plan("e", (arm,), kind="canary", target=Target("brier", margin=0.1), guards=guards)
    text = msgspec.json.encode(plan_to(plan))
    assert plan_from(msgspec.json.decode(text), exactly) == plan
    assert plan_from(plan_to(Plan("e", (ARM,), target=Target())), exactly).target == Target()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "canary", "challengers": (ARM, Arm("m", 3))},
            "of kind canary has one challenger",
        ),
        ({"target": None}, "of kind ab needs a target to compare by"),
        ({"alpha": 0.7}, "alpha is above 0 and below 0.5; found 0.7"),
        ({"min_samples": 0}, "min_samples is 1 or more; found 0"),
        ({"tuned_for": float("inf")}, "tuned_for is 1 or more; found inf"),
        ({"max_seconds": 0}, "durations are above 0"),
        ({"shares": (0.5, 0.6)}, "an A/B test has one share"),
        ({"shares": (1.0,)}, "an A/B test has one share, which leaves some for control"),
        ({"kind": "canary", "shares": (0.5, 0.1)}, "shares of a challenger .* grow"),
        ({"kind": "bandit", "floor": 0.6}, "floor is above 0 and at most an equal share"),
        ({"method": "msprt"}, "msprt needs the size of the effect"),
        ({"method": "obrien_fleming"}, "obrien_fleming needs a horizon"),
        ({"method": "obrien_fleming", "horizon": 900, "kind": "bandit"}, "a bandit has no horizon"),
        ({"method": "beta_binomial"}, 'give the key "id"'),
        ({"method": "beta_binomial", "key": "id", "target": Target(margin=1)}, "neither a margin"),
        ({"kind": "shadow", "guards": (Guard("latency"),)}, "guard latency in a canary"),
        (
            {
                "kind": "canary",
                "target": None,
                "guards": (Guard("fairness", group="g", values=("a",)),),
            },
            "there is no target",
        ),
    ],
)
def test_plans_that_can_not_be_meant(options, message):
    given = {"endpoint": "e", "challengers": (ARM,), "target": Target(), **options}
    with pytest.raises(InvalidInputError, match=message):
        Plan(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "latency", "limit": 0.5}, "the limit of latency is 1 or more; found 0.5"),
        ({"kind": "latency", "quantile": 95}, "a quantile is between 0 and 1; found 95"),
        ({"kind": "fairness"}, "a fairness guard, and no other, names its group"),
        ({"kind": "errors", "group": "g", "values": ("a",)}, "a fairness guard, and no other"),
    ],
)
def test_guards_that_can_not_be_meant(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Guard(**options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a rollout has an endpoint and a list of challengers"),
        ({"challengers": []}, "the rollout needs endpoint"),
        ({"endpoint": "e", "challengers": [], "colour": 1}, r"the rollout has no \['colour'\]"),
        ({"endpoint": "e", "challengers": [], "alpha": "a"}, "alpha of the rollout can't be read"),
        ({"endpoint": "e", "challengers": [], "guards": {}}, "guards are a list"),
        ({"endpoint": "e", "challengers": [], "guards": [{}]}, "a guard needs kind"),
        ({"endpoint": "e", "challengers": [], "target": 1}, "the target has no 1"),
        ({"endpoint": "e", "challengers": [{"colour": 1}]}, "an arm can't be read"),
    ],
)
def test_documents_that_are_no_plans(data, message):
    with pytest.raises(InvalidInputError, match=message):
        plan_from(data, exactly)
