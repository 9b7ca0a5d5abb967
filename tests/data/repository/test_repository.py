"""The repository: what is found and in which order, what is said of things, who uses them."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

import madang
from madang.data.features import FeatureView
from madang.data.processing import View
from madang.data.repository import Column, Entry
from madang.data.repository._index import Index, is_near, words
from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import acting_as

CONTRACT = """
dataset: flights
description: Departures of New York
owner: airport team
columns:
  - {name: carrier, type: string, description: the airline}
  - {name: delay, type: float64}
checks: []
"""

FLIGHTS = pa.table({"carrier": ["UA", "AA"], "delay": [4.0, 30.0]})


@pytest.fixture
def filled(stack):
    stack.storage.write("flights", FLIGHTS)
    stack.storage.write("weather_hourly", pa.table({"wind": [1.0], "carrier": ["UA"]}))
    (stack.root / "contracts" / "flights.yaml").write_text(CONTRACT)
    stack.collection.create_topic("departures")
    stack.processing.register(
        View("late", sql="SELECT carrier, delay FROM flights WHERE delay > 15", owner="bob",
             description="Flights that came late", tags={"tier": "gold"})
    )  # fmt: skip
    stack.features.register(
        FeatureView(
            "punctuality", entity=("carrier",), timestamp="moment", features=("delay",),
            sql="SELECT carrier, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS moment, delay FROM late",
            description="How punctual carriers are",
        )
    )  # fmt: skip
    return stack


def found(stack, query, **options):
    return [(m.entry.kind, m.entry.name) for m in stack.repository.search(query, **options)]


# -- search -----------------------------------------------------------------------------------------


def test_everything_is_found_by_its_words(filled):
    assert found(filled, "flights")[:2] == [("dataset", "flights"), ("view", "late")]
    assert found(filled, "hourly weather") == [("dataset", "weather_hourly")]
    assert found(filled, "AIRPORT") == [("dataset", "flights")]
    assert found(filled, "airline") == [("dataset", "flights")]
    assert found(filled, "gold") == [("view", "late")]
    assert found(filled, "bob late") == [("view", "late")]
    assert found(filled, "departures") == [("topic", "departures"), ("dataset", "flights")]
    assert {name for _, name in found(filled, "delay")} == {"flights", "late", "punctuality"}
    assert found(filled, "delay", kinds=["feature_view"]) == [("feature_view", "punctuality")]
    assert found(filled, "delay wind") == []
    assert found(filled, "  ?! ") == []
    assert len(found(filled, "delay", limit=1)) == 1


def test_where_the_words_were_found_is_said(filled):
    (first, *_) = filled.repository.search("carrier airport")
    assert (first.entry.name, first.where) == ("flights", ("column carrier", "owner"))
    (gold,) = filled.repository.search("gold")
    assert gold.where == ("tag tier",)


def test_what_changes_is_found_at_once(filled):
    assert found(filled, "humidity") == []
    filled.storage.write("weather_hourly", pa.table({"humidity": [0.5]}), mode="overwrite")
    assert found(filled, "humidity") == [("dataset", "weather_hourly")]
    assert found(filled, "wind") == []
    filled.storage.write("Humid-days", FLIGHTS)
    assert found(filled, "humid") == [("dataset", "Humid-days"), ("dataset", "weather_hourly")]
    file = filled.root / "contracts" / "flights.yaml"
    file.write_text(CONTRACT.replace("airport team", "somebody else"))
    assert found(filled, "somebody") == [("dataset", "flights")]
    filled.processing.drop_view("late")
    assert found(filled, "gold") == []


def test_another_process_finds_the_same(filled):
    with madang.open(filled.root) as other:
        assert found(other, "wind") == [("dataset", "weather_hourly")]
        filled.storage.write("more", pa.table({"wind": [1.0]}))
        assert found(other, "wind") == [("dataset", "more"), ("dataset", "weather_hourly")]
    with madang.open(filled.root) as third:
        assert found(third, "wind") == [("dataset", "more"), ("dataset", "weather_hourly")]


def test_a_contract_that_is_being_edited_stops_no_search(filled, caplog):
    (filled.root / "contracts" / "flights.yaml").write_text("dataset: [")
    assert found(filled, "flights")[0] == ("dataset", "flights")
    assert "a contract that can't be read" in caplog.text


def names(index, query):
    return [match.entry.name for match in index.search(query, ["dataset"], 20)]


def index_of(*entries):
    index = Index()
    index.replace("dataset", entries)
    return index


def entry(name, *columns, **more):
    return Entry("dataset", name, columns=tuple(Column(c) for c in columns), **more)


def test_the_better_find_is_first():
    index = index_of(
        entry("about", description="all about flight delays"),
        entry("flight_delays"),
        entry("flight_delays_by_day"),
        entry("x", "flight_delays"),
        entry("flightdelays2"),
        entry("preflight_delayssum"),
    )
    assert names(index, "flight delays") == [
        "flight_delays",
        "flight_delays_by_day",
        "x",
        "flightdelays2",
        "preflight_delayssum",
        "about",
    ]


def test_one_typing_error_is_forgiven_where_nothing_else_is_found():
    index = index_of(entry("weather"), entry("leather"), entry("whether"))
    assert names(index, "weather") == ["weather"]
    for typo in ("wether", "weathre", "weatherr", "weathar"):
        assert "weather" in names(index, typo), typo
    assert names(index, "wthr") == []
    assert names(index_of(entry("abc")), "abd") == [], "short words have too many neighbours"


letters = st.text("abc", min_size=1, max_size=6)


@given(letters, letters)
def test_near_words_against_an_oracle(one, other):
    """Damerau's distance by its definition, over all single changes."""
    changes = {one}
    for at in range(len(one) + 1):
        changes |= {one[:at] + letter + one[at:] for letter in "abc"}
        changes |= {one[:at] + letter + one[at + 1 :] for letter in "abc"}
        changes |= {one[:at] + one[at + 1 :], one[:at] + one[at : at + 2][::-1] + one[at + 2 :]}
    assert is_near(one, other) == (other in changes) == is_near(other, one)


def test_words():
    assert words("flightDelays_2013-by.Day ÉTÉ") == ["flight", "delays", "2013", "by", "day", "été"]


# -- what is said -----------------------------------------------------------------------------------


def test_things_can_be_described(filled):
    said = filled.repository.describe(
        "weather_hourly", description="Wind by the hour", owner="ann", tags={"tier": "bronze"}
    )
    assert (said.owner, said.tags) == ("ann", {"tier": "bronze"})
    assert found(filled, "bronze") == [("dataset", "weather_hourly")]
    filled.repository.describe("weather_hourly", owner="joe")
    again = filled.repository.get("weather_hourly")
    assert (again.description, again.owner) == ("Wind by the hour", "joe")
    (line,) = filled.ledger.lines(kind="repository.describe", limit=1)
    assert (line.subject, line.data["owner"]) == ("dataset:weather_hourly", "joe")
    lines = len(filled.ledger.lines(kind="repository.describe"))
    filled.repository.describe("weather_hourly", owner="joe")
    assert len(filled.ledger.lines(kind="repository.describe")) == lines, "nothing changed"
    assert filled.repository.describe("weather_hourly", tags={}).tags == {}
    assert filled.repository.describe("departures", kind="topic", owner="ann").owner == "ann"


def test_a_definition_has_the_first_word(filled):
    with pytest.raises(InvalidInputError, match="the owner of dataset 'flights' stands in its own"):
        filled.repository.describe("flights", owner="me")
    assert filled.repository.describe("flights", tags={"a": "b"}).owner == "airport team"
    with pytest.raises(NotFoundError, match="there is no dataset 'flihgts'; alike are: flights"):
        filled.repository.describe("flihgts", owner="me")
    with pytest.raises(NotFoundError, match=r"but there is a view \(kind view\) of that name"):
        filled.repository.get("late")
    with pytest.raises(InvalidInputError, match="there is no kind 'table'; the kinds are: dataset"):
        filled.repository.get("flights", kind="table")
    assert filled.ledger.lines(kind="repository.describe")[0].data["tags"] == {"a": "b"}


def test_entries_are_whole(filled):
    flights = filled.repository.get("flights")
    assert flights.version == "0"
    assert flights.columns == (
        Column("carrier", "string", "the airline"),
        Column("delay", "double"),
    )
    kinds = [one.kind for one in filled.repository.entries()]
    assert sorted(kinds) == ["dataset", "dataset", "feature_view", "topic", "view"]


# -- who uses it ------------------------------------------------------------------------------------


def test_usage(filled):
    filled.processing.materialize("late")
    moment = pa.array([datetime(2026, 2, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    with acting_as("user:ann"):
        made = filled.features.training_set(
            pa.table({"carrier": ["UA"], "timestamp": moment}), ["punctuality"]
        )
    training = made.schema.metadata[b"madang.ref"].decode()
    filled.ledger.record("model.register", "model:m@1", inputs=[training], outputs=["model:m@1"])
    filled.ledger.record(
        "endpoint.deploy", "endpoint:e", inputs=["model:m@1"], outputs=["endpoint:e@1"]
    )
    usage = filled.repository.usage("flights")
    down = {node.ref: node.hops for node in usage.downstream}
    assert down[training] == 1
    assert down["dataset:late_materialized@0"] == 1
    assert (down["model:m@1"], down["endpoint:e@1"]) == (2, 3)
    assert usage.refs == ("dataset:flights@0",)
    assert usage.upstream == ()
    assert "user:ann" in usage.users
    late, punctuality = filled.processing.view("late").ref, filled.features.views()[0].ref
    assert usage.readers == (late, punctuality)
    assert filled.repository.usage("late", kind="view").readers == (punctuality,)
    made_from = {n.ref for n in filled.repository.usage("late_materialized").upstream}
    assert {"dataset:flights@0", late} <= made_from


def test_usage_of_a_version_and_a_column(filled):
    filled.storage.write("flights", FLIGHTS)
    filled.processing.materialize("late")
    assert filled.repository.usage("flights@0").downstream == ()
    assert [n.ref for n in filled.repository.usage("flights@1").downstream] == [
        "dataset:late_materialized@0"
    ]
    filled.processing.register(View("carriers", sql="SELECT DISTINCT carrier FROM flights"))
    readers = filled.repository.usage("flights", column="delay").readers
    assert [ref.partition("@")[0] for ref in readers] == ["data_view:late", "view:punctuality"]
    with pytest.raises(NotFoundError, match="there is no dataset 'nothing'"):
        filled.repository.usage("nothing")
    with pytest.raises(NotFoundError):
        filled.storage.tag("flights", 7, "wrong")  # names a version in the ledger, in vain
    with pytest.raises(NotFoundError, match="no version '7' of dataset 'flights'; it knows: 0, 1"):
        filled.repository.usage("flights@7")
    with pytest.raises(NotFoundError, match="no column 'dely'; its columns are: carrier, delay"):
        filled.repository.usage("flights", column="dely")


def test_a_name_that_begins_alike_is_another(filled):
    filled.storage.write("flights2", FLIGHTS)
    assert filled.repository.usage("flights").refs == ("dataset:flights@0",)


# -- where the metadata is a server's ---------------------------------------------------------------


def test_on_postgresql(tmp_path, postgresql_url):
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(f'\n[stack]\nmetadata = "{postgresql_url}"\n')
    with madang.open(tmp_path) as stack:
        stack.storage.write("Flights_by-day", FLIGHTS)
        stack.processing.register(
            View("late", sql='SELECT carrier FROM "Flights_by-day" WHERE delay > 15')
        )
        assert stack.processing.materialize("late").mode == "full"
        stack.storage.write("Flights_by-day", FLIGHTS)
        assert stack.processing.materialize("LATE").mode == "rows"
        stack.repository.describe("Flights_by-day", owner="ann", tags={"a": "b"})
        stack.repository.describe("Flights_by-day", owner="joe")
        assert found(stack, "joe") == [("dataset", "Flights_by-day")]
        assert found(stack, "late")[0] == ("view", "late")
        usage = stack.repository.usage("Flights_by-day")
        assert usage.refs == ("dataset:Flights_by-day@0", "dataset:Flights_by-day@1")
        assert {n.ref for n in usage.downstream} == {
            "dataset:late_materialized@0",
            "dataset:late_materialized@1",
        }
        stack.processing.drop_view("late")
        assert stack.processing.views() == []
    with madang.open(tmp_path) as again:
        assert found(again, "joe") == [("dataset", "Flights_by-day")]


def test_a_model_without_a_version_is_found(filled):
    filled.registry.create_model("punctual", description="will be trained")
    assert found(filled, "punctual")[0] == ("model", "punctual")
