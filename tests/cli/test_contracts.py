"""Commands of data contracts: validate and its record, diff, import."""

from __future__ import annotations

import json
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import madang

CONTRACT = """
dataset: t
columns:
  - {name: x, type: int64, nullable: false}
checks:
  - {kind: range, column: x, severity: warn, arguments: {min: 2}}
"""


@pytest.fixture
def opened(project):
    with madang.open(project) as stack:
        stack.storage.write("t", pa.table({"x": range(1, 1001)}))
        yield stack


@pytest.fixture
def contract(project):
    path = project / "contracts" / "t.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(CONTRACT)
    return path


def test_a_validation_says_by_what_and_is_kept(opened, contract, call, refused, tmp_path):
    assert "no validation of version 0" in refused("data", "validate", "t", "--stored")
    done = call("data", "validate", "t", "--json")
    assert done.json["version"] == 0
    assert done.json["contract"].startswith("contract:t@1#")
    assert done.json["outcome"] == "warned"
    [line] = opened.context.ledger.lines(kind="dataset.validate")
    assert done.json["line"] == line.seq
    assert call("data", "validate", "t", "--stored", "--json").json == done.json
    assert "by contract t@1#" in call("data", "validate", "t", "--stored").out
    page = tmp_path / "page.html"
    call("data", "validate", "t", "--stored", "--html", page)
    assert "range(x): min=2" in page.read_text()
    assert len(opened.context.ledger.lines(kind="dataset.validate")) == 1
    contract.write_text(CONTRACT.replace("severity: warn", "severity: quarantine"))
    assert call("data", "validate", "t", "--json", code=1).json["outcome"] == "quarantined"
    contract.write_text(CONTRACT.replace("severity: warn", "severity: block"))
    assert call("data", "validate", "t", "--json", code=1).json["outcome"] == "blocked"


def test_diff_of_contracts(opened, contract, project, call, refused):
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"],
    ):
        subprocess.run(["git", *arguments], cwd=project, check=True, capture_output=True)
    assert "no change" in call("data", "diff", "t").out
    contract.write_text(CONTRACT.replace("severity: warn", "severity: block"))
    done = call("data", "diff", "t", "--json", code=1)
    assert done.json["breaking"] is True
    assert done.json["changes"][0]["breaks"] == "writers"
    text = call("data", "diff", "t", code=1).out
    assert "breaks writers" in text
    assert "severity warn became block" in text
    assert "contracts/none.yaml" in refused("data", "diff", "t", "none")


def test_diff_of_versions(opened, call, refused):
    opened.storage.write("t", pa.table({"x": range(5000, 6000)}), mode="overwrite")
    done = call("data", "diff", "t@0", "t@1")
    assert "dataset:t@0 to dataset:t@1: no change" in done.out
    assert "max 1000 to 5999" in done.out
    figures = call("data", "diff", "t@0", "t@1", "--json").json["statistics"]["x"]
    assert figures["ks"] == 1.0
    assert "version" in refused("data", "diff", "t@0", "t@9")


def test_import(opened, project, call, refused, tmp_path):
    suite = tmp_path / "suite.json"
    expectations = [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 1}},
        {"type": "expect_column_kl_divergence_to_be_less_than", "kwargs": {"column": "x"}},
    ]
    suite.write_text(json.dumps({"name": "s", "expectations": expectations}))
    done = call("data", "import-contract", suite, "t")
    assert "contracts/t.yaml: 1 checks, from Great Expectations" in done.out
    assert "expect_column_kl_divergence_to_be_less_than(x): there is no check" in done.out
    call("data", "validate", "t")
    assert "--overwrite" in refused("data", "import-contract", suite, "t")
    assert "names no types" in refused("data", "import-contract", suite, "other")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "s.parquet")
    call(
        "data",
        "import-contract",
        suite,
        "other",
        "--file",
        tmp_path / "s.parquet",
        "--severity",
        "warn",
    )
    assert "severity: warn" in (project / "contracts" / "other.yaml").read_text()


def test_infer_with_distributions(opened, project, call):
    call("data", "infer", "t", "--distributions")
    assert "kind: distribution" in (project / "contracts" / "t.yaml").read_text()
    call("data", "validate", "t")
