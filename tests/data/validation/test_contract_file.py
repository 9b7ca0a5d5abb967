"""Contract files: readable, stable, and every fault is named with its place."""

from __future__ import annotations

import pyarrow as pa
import pytest

from madang.data.validation import (
    Check,
    Column,
    DataContract,
    contract_path,
    format_contract,
    parse_contract,
    read_contract,
    write_contract,
)
from madang.data.validation._types import name_of, type_of
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError

TEXT = """\
dataset: flights
owner: ops
columns:
  - {name: carrier, type: string, nullable: false}
  - {name: time, type: timestamp}
  - {name: delay, type: float64, description: minutes}
checks:
  - {kind: range, column: time, arguments: {min: 2013-01-01T00:00:00Z}}
  - {kind: in_set, column: carrier, severity: block, arguments: {values: [UA, "NO"]}}
"""


def test_reads_what_people_write():
    contract = parse_contract(TEXT)
    assert contract.columns == (
        Column("carrier", pa.string(), nullable=False),
        Column("time", pa.timestamp("us", tz="UTC")),
        Column("delay", pa.float64(), description="minutes"),
    )
    assert (contract.dataset, contract.owner, contract.description) == ("flights", "ops", "")
    assert contract.checks[0].severity == "quarantine"
    assert contract.checks[1] == Check("in_set", "carrier", "block", {"values": ["UA", "NO"]})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min: 2013-01-01T00:00:00Z", "min: soon", "checks[0].arguments.min: "),
        ("min: 2013-01-01T00:00:00Z", "min: 2013-01-01T00:00:00", "checks[0].arguments.min: must have a zone"),
        ('"NO"', "NO", "checks[1].arguments.values: must be a string, found False"),
        ("kind: range", "kind: rang", "checks[0].kind: unknown kind 'rang'; kinds are: conditional"),
        ("column: time", "column: tim", "checks[0].column: the contract has no column 'tim'"),
        ("column: time", "colum: time", "checks[0].colum: unknown; keys here are: arguments, column"),
        ("severity: block", "severity: stop", "checks[1].severity: must be one of block, quarantine, warn, found 'stop'"),
        ("type: string", "type: str", "columns[0].type: unknown type 'str'; types are: binary"),
        ("type: string, ", "", "columns[0].type: must be a text, found None"),
        ("nullable: false", "nullable: 0", "columns[0].nullable: must be true or false, found 0"),
        ("name: delay", "name: time", "columns[2].name: 'time' is also columns[1]"),
        ("dataset: flights", "dataset: 5", "dataset: must be a text, found 5"),
        ("owner: ops", "owners: ops", "owners: unknown; keys here are: checks, columns, dataset"),
        ("owner: ops", "dataset: ops", "not YAML: the key 'dataset' comes twice"),
        ("owner: ops", "owner: !!python/name:os.system", "not YAML: could not determine a constructor"),
        ("owner: ops", "owner: &a [*a]", "not YAML: aliases are not taken"),
        ("owner: ops", "? [a]\n: b", "not YAML: a key must be a text"),
        ("owner: ops", "owner: [", "not YAML: "),
        ("arguments: {min: 2013-01-01T00:00:00Z}", "arguments: 5", "checks[0].arguments: must be a mapping, found 5"),
        (TEXT, "- 1", "must be a mapping with dataset, columns and checks"),
        (TEXT, "dataset: x", "columns: there are none"),
        (TEXT, "dataset: x\ncolumns: 5", "columns: must be a list, found int"),
        (TEXT, "dataset: x\ncolumns: [5]", "columns[0]: must be a mapping, found 5"),
    ],
)  # fmt: skip
def test_fault_is_named_with_its_place(tmp_path, old, new, message):
    assert old in TEXT
    path = contract_path(tmp_path, "flights")
    path.parent.mkdir()
    path.write_text(TEXT.replace(old, new), "utf-8")
    with pytest.raises(InvalidInputError) as caught:
        read_contract(path)
    assert f"contracts/flights.yaml: {message}" in str(caught.value)


def test_every_fault_is_named_at_once():
    text = TEXT.replace("severity: block", "severity: stop").replace("kind: range", "kind: rang")
    with pytest.raises(InvalidInputError) as caught:
        parse_contract(text, "contracts/flights.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert {line.split(": ")[1] for line in lines} == {"checks[0].kind", "checks[1].severity"}


def test_writes_once_and_reads_back(tmp_path):
    contract = parse_contract(TEXT)
    path = write_contract(contract, contract_path(tmp_path, "flights"), inferred=True)
    assert path == tmp_path / "contracts" / "flights.yaml"
    text = path.read_text("utf-8")
    assert "are guesses from a sample" in text
    assert "  - {name: carrier, type: string, nullable: false}\n" in text
    read = read_contract(path)
    assert read.columns == contract.columns
    assert "guesses" not in format_contract(read)
    with pytest.raises(AlreadyExistsError, match=r"flights\.yaml exists"):
        write_contract(contract, path)
    write_contract(contract, path, overwrite=True)
    with pytest.raises(NotFoundError, match="there is no contract file"):
        read_contract(tmp_path / "contracts" / "other.yaml")
    path.write_bytes(b"dataset: \xff")
    with pytest.raises(InvalidInputError, match=r"contracts/flights\.yaml: not UTF-8 at byte 9"):
        read_contract(path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "x\n", "x" * 300])
def test_name_can_not_leave_the_folder(tmp_path, name):
    with pytest.raises(InvalidInputError, match="can't be a contract file's name"):
        contract_path(tmp_path, name)


@pytest.mark.parametrize(
    "type",
    [pa.int8(), pa.timestamp("us", tz="UTC"), pa.timestamp("us"), pa.timestamp("ns", tz="Asia/Seoul"),
     pa.duration("s"), pa.decimal128(10, 2), pa.list_(pa.list_(pa.float32())), pa.date32()],
)  # fmt: skip
def test_types_have_names(type):
    assert type_of(name_of(type)) == type


@pytest.mark.parametrize("name", ["integer", "timestamp[h]", "list<x>", "decimal(99, 2)", ""])
def test_unknown_type_lists_the_known(name):
    with pytest.raises(InvalidInputError, match="types are: binary, bool"):
        type_of(name)


def test_contract_that_makes_no_sense_is_not_written():
    with pytest.raises(InvalidInputError, match=r"checks\[0\]\.kind: unknown kind 'x'"):
        format_contract(DataContract("d", (Column("a", pa.int8()),), (Check("x"),)))
    with pytest.raises(InvalidInputError, match="no name for the type struct"):
        format_contract(DataContract("d", (Column("a", pa.struct([])),)))
