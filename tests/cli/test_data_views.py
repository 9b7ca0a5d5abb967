"""`madang data views`, `materialize`, `lineage`, `show`, `describe`, `uses`, and `madang search`."""

from __future__ import annotations

import pyarrow as pa
import pytest

import madang


@pytest.fixture
def opened(project):
    with madang.open(project) as stack:
        stack.storage.write("trips", pa.table({"city": ["Seoul", "Busan"], "km": [3.0, 9.0]}))
        (project / "views" / "far.sql").write_text(
            "-- description: Long rides.\n-- owner: ann\nSELECT city, km FROM trips WHERE km > 5"
        )
        yield stack


def lines(text):
    return [line.split("\t") for line in text.splitlines()]


def test_views_and_materialize(opened, call, refused):
    (_, row) = lines(call("data", "views").out)
    assert row[:4] == ["far", "far_materialized", "ann", "Long rides."]
    assert call("data", "views", "--json").json[0]["sql"].startswith("SELECT city")
    done = call("data", "materialize", "far").out
    assert done == "far: full, far_materialized at version 0 (it is the first time)\n"
    opened.storage.write("trips", pa.table({"city": ["Jeju"], "km": [40.0]}))
    assert call("data", "materialize", "far", "--json").json[0]["mode"] == "rows"
    assert call("data", "materialize", "far").out.startswith("far: unchanged")
    assert "into other" in call("data", "materialize", "far", "--into", "other").out.replace(
        "full, other", "into other"
    )
    assert "it was asked for" in call("data", "materialize", "far", "--full").out
    assert "there is no view 'near'" in refused("data", "materialize", "near")
    assert (
        "--into is for one view" in call("data", "materialize", "a", "b", "--into", "c", code=2).err
    )


def test_lineage(opened, call, refused):
    assert lines(call("data", "lineage", "far").out) == [
        ["column", "comes from", "exact"],
        ["city", "trips.city", "yes"],
        ["km", "trips.km", "yes"],
        ["(which rows)", "trips.km", "yes"],
    ]
    (one,) = call("data", "lineage", "far", "--column", "CITY", "--json").json["columns"]
    assert one == {"name": "city", "sources": [["trips", "city"]], "exact": True}
    assert "has no column 'x'; its columns are: city, km" in refused(
        "data", "lineage", "far", "--column", "x"
    )
    assert "there is no view 'fra'; the views are: far" in refused("data", "lineage", "fra")
    unknown = call("data", "lineage", "SELECT #1 FROM trips")
    assert lines(unknown.out)[1][2] == "no"
    assert unknown.err == "not exact: #1 is not followed\n"


def test_search_show_and_describe(opened, call, refused):
    call("data", "views")
    assert [row[:2] for row in lines(call("search", "km").out)[1:]] == [
        ["dataset", "trips"],
        ["view", "far"],
    ]
    assert call("search", "long", "rides", "--json").json[0]["entry"]["name"] == "far"
    assert lines(call("search", "km", "--kind", "view").out)[1][1] == "far"
    assert (
        "is described"
        in call(
            "data", "describe", "trips", "--description", "Every ride", "--tag", "tier=gold"
        ).out
    )
    shown = call("data", "show", "trips").out
    assert "description: Every ride\nowner: -\ntags: tier=gold\n" in shown
    assert "city\tstring\t" in shown
    assert call("data", "show", "far", "--kind", "view", "--json").json["owner"] == "ann"
    assert "written as NAME=VALUE" in refused("data", "describe", "trips", "--tag", "gold")
    assert "alike are: trips" in refused("data", "show", "trisp")


def test_uses(opened, call):
    call("data", "materialize", "far")
    rows = lines(call("data", "uses", "trips").out)
    assert rows[1][:4] == ["made into", "1", "dataset:far_materialized@0", "dataset.write"]
    assert rows[2][:2] == ["read by", "1"]
    assert rows[2][2].startswith("data_view:far@")
    assert call("data", "uses", "trips", "--json").json["refs"] == ["dataset:trips@0"]
