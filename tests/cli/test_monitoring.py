"""`madang monitors` and `madang outcomes`."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import madang
from madang.testing.monitoring import labelled, logged, prepare, send


@pytest.fixture
def watched(call, project):
    """A monitor with two days of predictions, the second of them shifted."""
    with madang.open(project) as stack:
        fitted = prepare(stack)
        random = np.random.default_rng(1)
        rows, truth = labelled(random, 800)
        send(stack, logged(fitted, rows, 0))
        send(stack, logged(fitted, labelled(random, 800, shift=2.0)[0], 1))
    done = call("monitors", "configure", "delay", "delay", "--quality", "auc=0.6")
    assert done.out == "monitor delay watches a, b of delay\n"
    return truth


def test_from_configuring_to_findings(call, project, watched):
    for suffix, write in (
        ("csv", pl.DataFrame.write_csv),
        ("jsonl", pl.DataFrame.write_ndjson),
        ("parquet", pl.DataFrame.write_parquet),
    ):
        table = pl.DataFrame({"id": [f"0/{i}" for i in range(800)], "value": watched})
        write(
            table.with_columns(time=pl.lit("2026-03-05T00:00:00Z")),
            project / f"o.{suffix}",
        )
    assert call("outcomes", "record", "delay", "o.parquet").out.startswith("800 new, 0 corrected")
    assert call("outcomes", "record", "delay", "o.csv").out == "0 new, 0 corrected, 800 repeated\n"
    done = call("monitors", "run", "--until", "2026-06-01")
    assert "delay: 1600 predictions, 2 windows judged" in done.out
    assert "2026-03-02 00:00 the distribution of a has moved" in done.out
    assert "delay\tdelay\t86400 s\t2" in call("monitors", "list").out
    shown = call("monitors", "report", "delay", "--start", "2026-03-01", "--end", "2026-03-08")
    assert "800 of 1600 outcomes known" in shown.out
    assert "measured on 800 outcomes" in shown.out
    assert "an estimate: the model's probabilities are taken to be right" in shown.out
    found = json.loads(call("monitors", "findings", "--json").out)
    assert {one["subject"] for one in found} == {"a", "prediction", "score"}
    assert "the distribution of score" in call("monitors", "findings", "delay").out
    assert (
        call("monitors", "forget", "delay", "--before", "2026-03-02").out
        == "800 predictions forgotten\n"
    )
    assert call("monitors", "delete", "delay").out == "monitor delay is gone\n"
    assert json.loads(call("monitors", "list", "--json").out) == []


def test_what_can_not_be_read_is_named(call, project, watched):
    (project / "o.xml").write_text("<x/>")
    done = call("outcomes", "record", "delay", "o.xml", code=1)
    assert "outcomes are read from .csv, .jsonl, .parquet" in done.err
    (project / "o.parquet").write_text("nothing")
    assert "can't be read" in call("outcomes", "record", "delay", "o.parquet", code=1).err
    done = call("monitors", "configure", "x", "delay", "--quality", "auc", code=2)
    assert "write METRIC=LIMIT" in done.err
    assert "no monitor 'other'" in call("monitors", "delete", "other", code=1).err
