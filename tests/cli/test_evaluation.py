"""`madang models evaluate`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

import madang


@pytest.fixture
def flights(project):
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 2))
    late = (rows @ [2.0, -1.0] + random.normal(size=500) > 0).astype(int)
    airline = random.choice(["AA", "DL"], 500)
    table = pa.table({"hour": rows[:, 0], "rain": rows[:, 1], "airline": airline, "late": late})
    with madang.open(project) as stack:
        stack.storage.write("flights", table)
        names = ["hour", "rain"]
        for c in (1e-3, 1.0):
            model = LogisticRegression(C=c).fit(table.select(names).to_pandas(), late)
            stack.registry.register(
                "delay", model, example=table.select(names).slice(0, 3), evaluation={"auc": 0.8}
            )
        stack.registry.set_alias("delay", "champion", 1)
    return project


COMMAND = ("models", "evaluate", "delay@2", "--data", "flights@0", "--label", "late")


def test_it_prints_what_was_found(flights, call, tmp_path):
    page = tmp_path / "report.html"
    done = call(
        *COMMAND, "--compare", "champion", "--slice", "airline", "--slice", "hour > 1",
        "--group", "airline", "--find-slices", "--html", page,
    )  # fmt: skip
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert lines[0] == ["metric", "value", "low", "high"]
    auc = next(line for line in lines if line[0] == "auc")
    assert auc[2] < auc[1] < auc[3]
    assert ["slice", "rows", "loss", "effect", "p"] in lines
    assert any(line[0] == "airline = 'AA'" for line in lines)
    brier = next(line for line in lines if line[0] == "brier" and len(line) == 6)
    assert brier[-1] == "better"
    assert f"report: {page}" in done.out
    text = page.read_text()
    assert "delay@2 on flights@0" in text
    assert "Fairness by airline" in text


def test_json(flights, call):
    found = call(*COMMAND, "--compare", "delay@champion", "--json").json
    assert found["rows"] == 500
    assert found["comparison"]["differences"]["brier"]["verdict"] == "better"
    assert found["metrics"]["auc"] > 0.9


def test_the_gate_decides_the_exit_code(flights, call, refused, tmp_path):
    gate = tmp_path / "gate.yaml"
    gate.write_text("min: {auc: 0.6}\nno_worse_than_champion: [brier]\n")
    done = call(*COMMAND, "--compare", "champion", "--gate", gate)
    assert "the gate's 2 conditions hold" in done.out
    gate.write_text("min: {auc: 0.999}\n")
    said = call(*COMMAND, "--gate", gate, code=1)
    assert "the model fails 1 of 1 conditions of its gate: auc is" in said.err
    assert said.out.startswith("metric\tvalue")
    gate.write_text("least: {auc: 0.999}\n")
    assert "unknown key least" in refused(*COMMAND, "--gate", gate)


def test_what_is_not_there(flights, call, refused, tmp_path):
    assert "no column 'early' to take as label" in refused(*COMMAND[:-1], "early")
    assert "has no version 7; its versions are: 1, 2" in refused(
        "models", "evaluate", "delay@7", *COMMAND[3:]
    )
    assert "there is no folder" in refused(*COMMAND, "--html", tmp_path / "no" / "r.html")
    call("models", "evaluate", "delay", "--data", "flights@new", "--label", "late", code=2)
    page = tmp_path / "taken.html"
    page.mkdir()
    call(*COMMAND, "--html", page, code=2)
