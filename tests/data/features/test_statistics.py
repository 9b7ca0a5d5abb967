"""Statistics and drift of views, and what is known of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from madang.data.features import FeatureView, OnDemandView
from madang.errors import InvalidInputError, NotFoundError, SchemaMismatchError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TIME = pa.timestamp("us", tz="UTC")

VIEW = FeatureView(
    "visits",
    ("user",),
    "since",
    ("amount", "shop", "steady"),
    sql="SELECT user, since, amount, shop, steady FROM events",
    description="What users paid",
    owner="ann",
    tags={"team": "payments"},
    descriptions={"amount": "in Euro"},
)


def events(rows, start, *, shift=0.0, nulls=0.0, shops=("a", "b"), seed=0):
    """Rows of one day; `shift` moves the amounts, `nulls` of them are null."""
    random = np.random.default_rng(seed)
    amount = random.standard_normal(rows) + shift
    since = [start + DAY * number / rows for number in range(rows)]
    return pa.table(
        {
            "user": pa.array([number % 10 for number in range(rows)]),
            "since": pa.array(since, TIME),
            "amount": pa.array(amount, mask=random.random(rows) < nulls),
            "shop": random.choice(list(shops), rows).tolist(),
            "steady": random.standard_normal(rows),
        }
    )


@pytest.fixture
def features(stack):
    stack.storage.write("events", events(2000, T0))
    stack.storage.write("events", events(2000, T0 + DAY, shift=1.0, seed=1))
    stack.features.register(VIEW)
    return stack.features


class TestStatistics:
    def test_are_those_of_the_validation_component(self, stack, features):
        found = features.statistics("visits")
        assert (found.rows, found.entities) == (4000, 10)
        assert found.oldest == T0
        assert T0 + DAY < found.newest < T0 + 2 * DAY
        table = features.compute("visits").select(["amount", "shop", "steady"])
        assert found.features == stack.validation.profile(table)
        assert found.view == features.views()[0].ref

    def test_of_a_range_of_time(self, features):
        first = features.statistics("visits", times=(None, T0 + DAY))
        second = features.statistics("visits", times=(T0 + DAY, None))
        assert (first.rows, second.rows) == (2000, 2000)
        assert second.features["amount"]["mean"] - first.features["amount"]["mean"] > 0.9
        with pytest.raises(InvalidInputError, match="2026-01-01 00:00:00 has no time zone"):
            features.statistics("visits", times=(datetime(2026, 1, 1), None))

    def test_of_no_rows(self, features):
        found = features.statistics("visits", times=(T0 + 9 * DAY, None))
        assert (found.rows, found.entities, found.oldest, found.newest) == (0, 0, None, None)

    def test_are_on_record_in_short(self, stack, features):
        features.statistics("visits")
        (line,) = stack.ledger.lines(kind="view.statistics", subject="view:visits")
        assert set(line.inputs) == {"dataset:events@1", features.views()[0].ref}
        assert line.data["rows"] == 4000
        assert set(line.data["features"]["amount"]) >= {"mean", "min", "max", "std", "nulls"}
        assert stack.ledger.verify().ok

    def test_with_values_that_json_has_no_number_for(self, stack, features):
        odd = events(4, T0).set_column(
            2, "amount", pa.array([float("nan"), float("inf"), 1e300, None])
        )
        odd = odd.set_column(4, "steady", pa.array([2**62, -(2**62), 1, None]))
        found = features.statistics("visits", tables={"events": odd})
        assert found.rows == 4
        assert stack.ledger.verify().ok


class TestDrift:
    def test_between_ranges_of_time(self, features):
        found = features.drift("visits", (None, T0 + DAY))
        assert found.rows == (2000, 2000)
        assert found.drifted == ["amount"]
        moved = found.features["amount"]
        assert moved.psi > 0.5
        assert moved.ks > 0.3
        assert moved.values == (2000, 2000)
        assert found.features["steady"].drifted is False
        assert found.features["steady"].psi < 0.1
        assert found.features["shop"].ks is None
        assert found.features["shop"].drifted is False
        same = features.drift("visits", (None, T0 + DAY), times=(None, T0 + DAY))
        assert same.drifted == []
        assert same.features["amount"].psi == pytest.approx(0, abs=1e-9)

    def test_from_versions(self, features):
        found = features.drift("visits", {"events": 0}, times=(T0 + DAY, None))
        assert found.reference == "dataset:events@0"
        assert found.drifted == ["amount"]
        assert features.drift("visits", {"events": 1}).drifted == []

    def test_from_a_training_set(self, stack, features):
        labels = pa.table(
            {
                "user": [number % 10 for number in range(1000)],
                "timestamp": pa.array([T0 + DAY * n / 1000 for n in range(1000)], TIME),
            }
        )
        training = features.training_set(labels, ["visits"])
        found = features.drift("visits", training, times=(T0 + DAY, None))
        ref = training.schema.metadata[b"madang.ref"].decode()
        assert found.reference == ref
        assert "amount" in found.drifted
        (line,) = stack.ledger.lines(kind="view.drift")
        assert ref in line.inputs
        assert line.data["drifted"] == found.drifted
        renamed = pa.table({"visits__amount": training["amount"], "amount": training["steady"]})
        assert features.drift("visits", renamed, times=(T0 + DAY, None)).drifted == ["amount"]
        with pytest.raises(SchemaMismatchError, match=r"no feature of view 'visits'.*it has: x"):
            features.drift("visits", pa.table({"x": [1]}))

    def test_nulls_and_new_values_are_drift(self, features):
        later = events(2000, T0 + 2 * DAY, nulls=0.3, shops=("a", "c"), seed=2)
        tables = {"events": pa.concat_tables([events(2000, T0), later])}
        found = features.drift("visits", (None, T0 + DAY), tables=tables)
        assert found.drifted == ["amount", "shop"]
        assert found.features["amount"].null_shares[1] == pytest.approx(0.3, abs=0.05)
        assert found.features["amount"].psi < 0.2
        gone = later.set_column(2, "amount", pa.nulls(2000, pa.float64()))
        tables = {"events": pa.concat_tables([events(2000, T0), gone])}
        lost = features.drift("visits", (None, T0 + DAY), tables=tables).features["amount"]
        assert (lost.drifted, lost.psi, lost.values) == (True, None, (2000, 0))

    def test_with_few_values_nothing_is_said(self, features):
        tables = {"events": pa.concat_tables([events(400, T0), events(400, T0 + DAY, shift=9.0)])}
        found = features.drift("visits", (None, T0 + DAY), tables=tables)
        assert found.drifted == []
        assert {one.drifted for one in found.features.values()} == {None}
        assert found.features["amount"].psi > 1

    def test_the_limit_is_the_callers(self, features):
        assert features.drift("visits", (None, T0 + DAY), max_psi=100).drifted == []
        everything = features.drift("visits", (None, T0 + DAY), max_psi=0).drifted
        assert everything == ["amount", "shop", "steady"]

    def test_a_reference_of_another_kind(self, features):
        with pytest.raises(InvalidInputError, match="or a table, found str"):
            features.drift("visits", "yesterday")


class TestInfo:
    def test_where_it_comes_from_and_who_uses_it(self, features):
        features.materialize("visits")
        labels = pa.table({"user": [1], "timestamp": pa.array([T0 + DAY], TIME)})
        ref = features.training_set(labels, ["visits"]).schema.metadata[b"madang.ref"].decode()
        found = features.info("visits")
        assert found.ref == features.views()[0].ref
        assert found.sources == ("dataset:events",)
        assert found.used_by == (ref,)
        assert found.definition["descriptions"] == {"amount": "in Euro"}
        assert (found.materialized.mode, found.materialized.entities) == ("full", 10)
        with pytest.raises(NotFoundError, match="no feature view 'x'"):
            features.info("x")

    def test_models_that_were_made_from_it(self, stack, features):
        labels = pa.table({"user": [1], "timestamp": pa.array([T0 + DAY], TIME)})
        ref = features.training_set(labels, ["visits"]).schema.metadata[b"madang.ref"].decode()
        stack.ledger.record("model.register", "model:m", inputs=[ref], outputs=["model:m@1"])
        assert features.info("visits").used_by == (ref, "model:m@1")

    def test_of_a_new_definition_nothing_uses_yet(self, features):
        features.materialize("visits")
        features.register(replace(VIEW, ttl=DAY))
        found = features.info("visits")
        assert (found.used_by, found.materialized) == ((), None)

    def test_of_functions_and_of_what_is_computed_on_demand(self, features):
        features.register(
            FeatureView("f", ("k",), "t", ("x",), function=lambda t: t["s"], sources=("s",))
        )
        features.register(
            OnDemandView("d", {"x": pa.int64()}, lambda t: t, inputs=("visits:amount", "f"))
        )
        assert features.info("f").sources == ("dataset:s",)
        assert features.info("d").sources == ("view:visits", "view:f")


class TestSearch:
    @pytest.fixture
    def found(self, features):
        features.register(replace(VIEW, name="stays", owner="bob", tags={}, description="Hotel Ü"))
        return lambda *words, **options: [v.name for v in features.search(*words, **options)]

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("", ["stays", "visits"]),
            ("PAID", ["visits"]),
            ("hotel ü", ["stays"]),
            ("euro", ["stays", "visits"]),
            ("events amount", ["stays", "visits"]),
            ("payments ann", ["visits"]),
            ("paid hotel", []),
            ("%", []),
            ("'; DROP TABLE feature_view; --", []),
        ],
    )
    def test_every_word_must_occur(self, found, text, names):
        assert found(text) == names

    def test_owner_and_tags_are_exact(self, found):
        assert found(owner="bob") == ["stays"]
        assert found(owner="bo") == []
        assert found(tags={"team": "payments"}) == ["visits"]
        assert found("hotel", tags={"team": "payments"}) == []


def test_descriptions_change_no_hash_and_name_features(features):
    digest = features.register(VIEW)
    assert features.register(replace(VIEW, descriptions={"shop": "where"})) == digest
    assert features.get("visits").descriptions == {"shop": "where"}
    with pytest.raises(InvalidInputError, match="descriptions of size, no features of it"):
        features.register(replace(VIEW, descriptions={"size": "?"}))


def test_the_values_are_json(features):
    from madang.cli.output import _encode

    features.materialize("visits")
    for value in (
        features.statistics("visits"), features.drift("visits", (None, T0 + DAY)),
        features.info("visits"), features.materialize("visits"),
    ):  # fmt: skip
        assert json.loads(_encode(value))
