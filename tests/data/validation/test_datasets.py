"""Whole datasets: validated in a stream, on record, and compared with each other."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from madang.data.validation import (
    Check,
    Column,
    DataContract,
    contract_path,
    diff,
    last_validation,
    to_dict,
    to_html,
    validate_dataset,
    write_contract,
)
from madang.errors import IntegrityError, InvalidInputError, NotFoundError

COLUMNS = (Column("id", pa.int64(), nullable=False), Column("city", pa.string()))


def contract(*checks, **more):
    return DataContract("trips", COLUMNS, checks, **more)


def keep(stack, rule, overwrite=False):
    return write_contract(rule, contract_path(stack.root, "trips"), overwrite=overwrite)


def trips(*ids, city="Seoul"):
    return pa.table({"id": pa.array(ids, pa.int64()), "city": [city] * len(ids)})


def lines(stack):
    return stack.context.ledger.lines(kind="dataset.validate")


# -- on record -------------------------------------------------------------------------------------


def test_a_validation_is_a_line_of_the_ledger_and_its_report_is_kept(stack):
    keep(stack, contract(Check("range", "id", "quarantine", {"min": 2}), Check("unique", "id")))
    stack.storage.write("trips", trips(1, 2, 3))
    stack.storage.write("trips", trips(3, 4))
    first = validate_dataset(stack, "trips", version=0)
    second = validate_dataset(stack, "trips")
    assert (first.report.quarantined, second.report.quarantined) == (1, 2)
    newest, oldest = lines(stack)
    assert (oldest.subject, newest.subject) == ("dataset:trips@0", "dataset:trips@1")
    assert newest.seq == second.line
    assert newest.inputs == ("dataset:trips@1", second.report.contract)
    assert second.report.contract.startswith("contract:trips@1#")
    assert newest.data["outcome"] == "quarantined"
    assert (newest.data["rows"], newest.data["valid"], newest.data["failed_checks"]) == (5, 3, 2)
    for version, made in ((None, second), (1, second), (0, first)):
        kept = last_validation(stack, "trips", version=version)
        assert (kept.version, kept.line) == (made.version, made.line)
        assert to_dict(kept.report) == to_dict(made.report)
        assert to_html(kept.report) == to_html(made.report)
    assert stack.context.ledger.verify().ok


def test_a_report_that_was_changed_is_not_shown(stack):
    keep(stack, contract())
    stack.storage.write("trips", trips(1))
    validate_dataset(stack, "trips")
    key = lines(stack)[0].outputs[0].removeprefix("object:")
    stack.storage.put(key, stack.storage.get(key).replace(b"All rows", b"No rows"))
    with pytest.raises(IntegrityError, match="is not the report that was written there"):
        last_validation(stack, "trips")


def test_a_validation_whose_line_was_not_written_is_not_on_record(stack, monkeypatch):
    keep(stack, contract())
    stack.storage.write("trips", trips(1))

    def die(*_arguments, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(stack.context.ledger), "record", die)
        validate_dataset(stack, "trips")
    with pytest.raises(NotFoundError, match="no validation of version 0"):
        last_validation(stack, "trips")
    validate_dataset(stack, "trips")
    assert last_validation(stack, "trips").report.rows == 1


@pytest.mark.parametrize(
    ("severity", "outcome"), [("warn", "warned"), ("quarantine", "quarantined"), ("block", "blocked")]
)  # fmt: skip
def test_the_line_says_how_it_went(stack, severity, outcome):
    keep(stack, contract(Check("range", "id", severity, {"min": 2})))
    stack.storage.write("trips", trips(1, 2))
    validate_dataset(stack, "trips")
    assert lines(stack)[0].data["outcome"] == outcome


def test_what_fails_leaves_nothing(stack):
    stack.storage.write("trips", trips(1))
    with pytest.raises(NotFoundError, match=r"contracts/trips\.yaml"):
        validate_dataset(stack, "trips")
    with pytest.raises(
        NotFoundError, match="no validation of version 0 of the dataset 'trips' is on"
    ):
        last_validation(stack, "trips")
    with pytest.raises(NotFoundError, match="--version 7"):
        last_validation(stack, "trips", version=7)
    assert lines(stack) == []


# -- other datasets --------------------------------------------------------------------------------


def test_foreign_keys_name_the_version_that_they_were_looked_up_in(stack):
    stack.storage.write("cities", pa.table({"name": ["Seoul"]}))
    stack.storage.write("cities", pa.table({"name": ["Busan"]}))
    check = Check("foreign_key", "city", "warn", {"dataset": "cities", "to": ["name"]})
    stack.storage.write("trips", trips(1, 2, city="Busan"))
    newest = validate_dataset(stack, "trips", contract=contract(check))
    assert newest.report.results[-1].ok
    assert newest.report.references == ("dataset:cities@1",)
    assert "dataset:cities@1" in lines(stack)[0].inputs
    pinned = Check("foreign_key", "city", "warn", {**check.arguments, "version": 0})
    older = validate_dataset(stack, "trips", contract=contract(pinned))
    assert older.report.references == ("dataset:cities@0",)
    assert older.report.results[-1].failed == 2
    with pytest.raises(InvalidInputError, match="'cities' in version 0 and in version 1"):
        validate_dataset(stack, "trips", contract=contract(check, pinned))
    # What a batch of an ingestion is compared with follows the dataset.
    assert (
        stack.validation.validate(trips(1, city="Jeju"), contract(check)).report.results[-1].failed
    )
    stack.storage.write("cities", pa.table({"name": ["Jeju"]}))
    assert stack.validation.validate(trips(1, city="Jeju"), contract(check)).report.results[-1].ok


def test_a_resumed_part_compares_with_the_version_that_it_began_with(stack):
    stack.storage.write("cities", pa.table({"name": ["Seoul"]}))
    rule = contract(Check("foreign_key", "city", "warn", {"dataset": "cities", "to": ["name"]}))
    part = stack.validation.accumulate(rule)
    part.update(trips(1))
    stack.storage.write("cities", pa.table({"name": ["Busan"]}))
    again = stack.validation.resume(part.to_bytes(), rule)
    again.update(trips(2, city="Busan"))
    report = again.report()
    assert (report.rows, report.results[-1].failed) == (2, 1)
    assert report.references == ("dataset:cities@0",)
    later = stack.validation.accumulate(rule, first_row=10)
    with pytest.raises(InvalidInputError, match="dataset:cities@0, another with dataset:cities@1"):
        again.merge(later)


def test_a_dataset_that_is_not_there_is_named(stack):
    rule = contract(Check("foreign_key", "city", arguments={"dataset": "nowhere"}))
    with pytest.raises(NotFoundError, match="nowhere"):
        stack.validation.validate(trips(1), rule)


def test_volume_against_the_version_before(stack):
    rule = contract(Check("volume", None, "warn", {"against": "previous", "min_ratio": 0.9, "max_ratio": 1.5}))  # fmt: skip
    result = stack.validation.validate(trips(1), rule).report.results[-1]
    assert (result.ok, result.message) == (True, "not judged: there is no version before this one")
    stack.storage.write("trips", trips(*range(100)))
    stack.storage.write("trips", trips(*range(40)))
    stack.storage.write("trips", trips(*range(5)), mode="overwrite")
    found = [validate_dataset(stack, "trips", version=v, contract=rule).report for v in range(3)]
    assert [report.results[-1].ok for report in found] == [True, True, False]
    assert found[0].references == ()
    assert found[2].references == ("dataset:trips@1",)
    assert found[2].results[-1].message == "found 5 rows, 0.03571 times 140"
    other = contract(Check("volume", None, "warn", {"against": "trips", "min_ratio": 1}))
    assert stack.validation.validate(trips(1), other).report.references == ("dataset:trips@2",)


def test_distribution_against_a_version(stack):
    random = np.random.default_rng(0)
    columns = (Column("x", pa.float64()),)
    for shift in (0.0, 0.0, 1.0):
        stack.storage.write("xs", pa.table({"x": random.standard_normal(50_000) + shift}), mode="overwrite")  # fmt: skip
    limits = {"max_psi": 0.02, "max_ks": 0.03, "max_js": 0.01}
    check = Check("distribution", "x", "warn", {"dataset": "xs", "version": 0, **limits})
    rule = DataContract("xs", columns, (check,))
    same, moved = (
        validate_dataset(stack, "xs", version=version, contract=rule).report.results[-1]
        for version in (1, 2)
    )
    assert same.ok, same.message
    assert moved.failed
    # Two normal distributions whose means lie 1 apart: KS = 2 Φ(1/2) - 1, PSI = 1.
    said = dict(part.split(" ") for part in moved.message.split(", "))
    assert float(said["ks"]) == pytest.approx(0.3829, abs=0.02)
    assert float(said["psi"]) == pytest.approx(1.0, abs=0.1)


# -- differences -----------------------------------------------------------------------------------


def test_versions_of_a_dataset(stack):
    stack.storage.write("trips", trips(*range(1000)))
    wide = trips(*range(1000, 2000), city="Busan").append_column("x", pa.array([1.0] * 1000))
    stack.storage.write("trips", wide.drop_columns(["id"]), mode="overwrite")
    found = diff(stack, "trips@0", "trips@1")
    assert {(c.path, c.breaks) for c in found.changes} == {
        ("column id", "readers"),
        ("column x", ""),
    }
    assert found.breaking
    assert found.statistics["city"]["js"] == pytest.approx(1.0)
    assert found.statistics["city"]["rows"] == [1000, 1000]
    stack.storage.write("numbers", pa.table({"n": range(5000)}))
    stack.storage.write("numbers", pa.table({"n": range(5000)}))
    same = diff(stack, "numbers@0", "numbers@1")
    assert (same.breaking, same.changes) == (False, ())
    assert same.statistics["n"]["rows"] == [5000, 10000]
    assert same.statistics["n"]["max"] == [4999, 4999]
    assert same.statistics["n"]["ks"] < 0.03


def test_samples_of_columns_without_values_or_order(stack):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    table = pa.table(
        {
            "t": [moment, None],
            "l": [[1], [2]],
            "none": pa.nulls(2, pa.float64()),
            "b": [True, False],
        }
    )
    stack.storage.write("odd", table)
    found = diff(stack, "odd@0", "odd@0").statistics
    assert found["t"]["ks"] == 0
    assert found["b"]["js"] == 0
    assert "psi" not in found["l"]
    assert "psi" not in found["none"]


def git(root, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=root, check=True, capture_output=True,
    )  # fmt: skip


def test_a_contract_against_its_commit(stack):
    keep(stack, contract(Check("range", "id", "quarantine", {"min": 0})))
    git(stack.root, "init", "-q")
    git(stack.root, "add", "contracts")
    git(stack.root, "commit", "-qm", "one")
    assert diff(stack, "trips").changes == ()
    keep(stack, contract(Check("range", "id", "quarantine", {"min": 1}), version=2), overwrite=True)
    found = diff(stack, "trips")
    assert found.breaking
    assert [(c.path, c.text, c.breaks) for c in found.changes] == [
        ("check range(id): min=0", "min: 0 became 1", "writers"),
        ("version", "1 became 2", ""),
    ]
    back = diff(stack, "trips", "HEAD:contracts/trips.yaml")
    assert not back.breaking
    assert diff(stack, str(contract_path(stack.root, "trips")), "trips").changes == ()
    with pytest.raises(NotFoundError, match="nope"):
        diff(stack, "nope:trips", "trips")
    with pytest.raises(InvalidInputError, match="can't be compared; give two contracts, or two"):
        diff(stack, "trips@1", "trips")
