"""The contract suite of `data.validation`.

The fixture `validation` gives an engine whose clock stands at `NOW_US` if it can be set.
"""

import threading
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from madang.data.validation import Check, Column, DataContract, to_dict, to_html, to_text
from madang.errors import InvalidInputError, NotFoundError, SchemaMismatchError

NOW_US = 1_700_000_000_000_000

TRIPS = pa.table(
    {
        "id": pa.array([1, 2, 3, 4, 5, 6], pa.int64()),
        "minutes": pa.array([10.0, None, 30.0, 400.0, float("nan"), -1.0]),
        "city": pa.array(["Seoul", "Busan", None, "Paris", "Seoul", "Busan"]),
        "code": pa.array(["A-1", "A-22", "B-1", None, "A-1\n", "x A-1"]),
    }
)
COLUMNS = (
    Column("id", pa.int64(), nullable=False),
    Column("minutes", pa.float64()),
    Column("city", pa.string()),
    Column("code", pa.string()),
)


def contract(*checks, columns=COLUMNS):
    return DataContract("trips", columns, checks)


def events(*values):
    return pa.table({"value": pa.array(values, pa.binary())})


FAILING = [
    # kind, column, arguments, the ids of the rows of TRIPS that fail
    ("not_null", "minutes", {}, [2]),
    ("not_null", "city", {}, [3]),
    ("range", "minutes", {"min": 0, "max": 60}, [4, 5, 6]),
    ("range", "minutes", {"min": 10, "exclusive_min": True}, [1, 5, 6]),
    ("range", "minutes", {"max": 30, "exclusive_max": True}, [3, 4, 5]),
    ("range", "id", {"min": 1.5, "max": 5.5}, [1, 6]),
    (
        "range",
        "id",
        {"min": 2, "max": 5, "exclusive_min": True, "exclusive_max": True},
        [1, 2, 5, 6],
    ),
    ("range", "id", {"min": -(10**30), "max": 10**30}, []),
    ("range", "id", {"min": 10**30}, [1, 2, 3, 4, 5, 6]),
    ("range", "city", {"min": "C"}, [2, 6]),
    ("in_set", "city", {"values": ["Seoul", "Busan"]}, [4]),
    ("in_set", "id", {"values": [1, 2, 3.0, 2.5, 10**30]}, [4, 5, 6]),
    ("matches", "code", {"pattern": r"A-\d+"}, [3, 5, 6]),
    ("matches", "code", {"pattern": r"A-1|B-1"}, [2, 5, 6]),
    ("length", "code", {"min": 4}, [1, 3]),
    ("length", "code", {"max": 4}, [6]),
    ("finite", "minutes", {}, [5]),
    ("unique", "city", {}, [5, 6]),
    ("unique", None, {"columns": ["city", "code"]}, []),
    ("expression", None, {"sql": "minutes > 5 OR city = 'Busan'"}, []),
    ("expression", None, {"sql": "city <> 'Seoul' OR code = 'A-1'"}, [5]),
    ("expression", None, {"sql": "id > 2"}, [1, 2]),
    ("conditional", None, {"when": "id > 3", "then": "city <> 'Paris' AND minutes <> -1"}, [4, 6]),
    ("conditional", None, {"when": "city = 'Paris' OR minutes < 0", "then": "code = 'A-1'"}, [6]),
    (
        "conditional",
        None,
        {"when": "city = 'Busan'", "then": {"kind": "not_null", "column": "minutes"}},
        [2],
    ),
    (
        "conditional",
        None,
        {
            "when": "id < 6",
            "then": {"kind": "range", "column": "minutes", "arguments": {"max": 60}},
        },
        [4, 5],
    ),
]

CITIES = pa.table(
    {
        "name": ["Seoul", "Busan", "Busan", None],
        "nation": ["KR", "KR", "KR", None],
        "number": pa.array([1, 2, 2, None], pa.int32()),
    }
)


class ValidationContract:
    @pytest.fixture
    def validation(self):
        raise NotImplementedError("give the engine that is tested")

    # -- checks --

    @pytest.mark.parametrize(("kind", "column", "arguments", "ids"), FAILING)
    def test_sets_failing_rows_aside(self, validation, kind, column, arguments, ids):
        outcome = validation.validate(TRIPS, contract(Check(kind, column, "quarantine", arguments)))
        assert outcome.quarantined["id"].to_pylist() == ids
        assert outcome.valid["id"].to_pylist() == [i for i in range(1, 7) if i not in ids]
        for reasons in outcome.quarantined["_reasons"].to_pylist():
            assert len(reasons) == 1
            assert reasons[0].startswith(kind)
        result = outcome.report.results[-1]
        assert (result.failed, result.rows, result.ok) == (len(ids), 6, not ids)
        assert len(result.examples) == min(5, len(ids))

    @pytest.mark.parametrize(("kind", "column", "arguments", "ids"), FAILING)
    def test_warning_keeps_rows(self, validation, kind, column, arguments, ids):
        outcome = validation.validate(TRIPS, contract(Check(kind, column, "warn", arguments)))
        assert outcome.valid.num_rows == 6
        assert outcome.report.results[-1].failed == len(ids)
        assert not outcome.report.blocked

    @pytest.mark.parametrize(
        ("column", "arguments", "ids"),
        [
            ("city", {"to": ["name"]}, [4]),
            ("id", {"to": ["number"]}, [3, 4, 5, 6]),
            (None, {"columns": ["city", "id"], "to": ["name", "number"]}, [4, 5, 6]),
        ],
    )
    def test_foreign_key(self, validation, column, arguments, ids):
        check = Check("foreign_key", column, "quarantine", {"dataset": "cities", **arguments})
        outcome = validation.validate(TRIPS, contract(check), references={"cities": CITIES})
        assert outcome.quarantined["id"].to_pylist() == ids
        assert outcome.report.results[-1].failed == len(ids)
        assert outcome.report.references == ("table:cities",)
        empty = {"cities": CITIES.slice(0, 0)}
        outcome = validation.validate(TRIPS, contract(check), references=empty)
        # A key with a null in it refers to nothing, so it can't be wrong.
        assert outcome.valid["id"].to_pylist() == ([] if column == "id" else [3])

    def test_foreign_key_to_another_kind_of_type_is_refused(self, validation):
        check = Check("foreign_key", "id", arguments={"dataset": "cities", "to": ["name"]})
        with pytest.raises(InvalidInputError, match=r"'id' is int64, and 'name' of .* is string"):
            validation.validate(TRIPS, contract(check), references={"cities": CITIES})
        check = Check("foreign_key", "city", arguments={"dataset": "cities"})
        with pytest.raises(NotFoundError, match="no column 'city'; its columns are: name"):
            validation.validate(TRIPS, contract(check), references={"cities": CITIES})

    def test_block_is_returned_and_no_row_is_lost(self, validation):
        outcome = validation.validate(
            TRIPS, contract(Check("range", "minutes", "block", {"max": 60}))
        )
        assert outcome.report.blocked
        assert outcome.valid.num_rows + outcome.quarantined.num_rows == 6

    def test_row_names_all_its_reasons(self, validation):
        checks = (
            Check("range", "minutes", arguments={"min": 0}),
            Check("matches", "code", arguments={"pattern": "A.*"}),
            Check("not_null", "city", "warn"),
        )
        outcome = validation.validate(TRIPS, contract(*checks))
        reasons = dict(
            zip(
                outcome.quarantined["id"].to_pylist(),
                outcome.quarantined["_reasons"].to_pylist(),
                strict=True,
            )
        )
        assert reasons[6] == ["range(minutes): min=0", "matches(code): A.*"]
        assert reasons[3] == ["matches(code): A.*"]

    def test_repeated_value_keeps_the_first_good_row(self, validation):
        table = pa.table({"k": [1, 1, 1, 2, None, None], "v": [-1, 5, 6, 7, 8, 9]})
        columns = (Column("k", pa.int64()), Column("v", pa.int64()))
        checks = (Check("unique", "k"), Check("range", "v", arguments={"min": 0}))
        outcome = validation.validate(table, contract(*checks, columns=columns))
        assert outcome.valid["v"].to_pylist() == [5, 7, 8, 9]
        assert outcome.quarantined["_reasons"].to_pylist() == [["range(v): min=0"], ["unique(k)"]]

    def test_column_that_is_not_nullable_sets_nulls_aside(self, validation):
        columns = (Column("a", pa.int64(), nullable=False),)
        outcome = validation.validate(pa.table({"a": [1, None]}), contract(columns=columns))
        assert outcome.valid.to_pylist() == [{"a": 1}]
        assert outcome.quarantined.to_pylist() == [{"a": None, "_reasons": ["not_null(a)"]}]

    @pytest.mark.parametrize(
        ("kind", "column", "good", "bad"),
        [
            ("row_count", None, {"min": 6, "max": 6}, {"min": 7}),
            ("row_count", None, {"max": 6}, {"max": 5}),
            ("max_null_fraction", "city", {"max": 0.2}, {"max": 0.1}),
            ("mean", "id", {"min": 3.5, "max": 3.5}, {"min": 3.6}),
            ("mean", "minutes", {}, {"min": 0}),  # the mean of a NaN is no number
            (
                "volume",
                None,
                {"rows": 6, "min_ratio": 1, "max_ratio": 1},
                {"rows": 7, "min_ratio": 1},
            ),
            ("volume", None, {"rows": 12, "min_ratio": 0.5}, {"rows": 5, "max_ratio": 1.1}),
            ("quantile", "id", {"q": 0.5, "min": 3, "max": 3}, {"q": 0.5, "max": 2}),
            ("quantile", "id", {"q": 0.51, "min": 4, "max": 4}, {"q": 0.5, "min": 3.5}),
            ("quantile", "id", {"q": 0, "min": 1, "max": 1}, {"q": 1, "max": 5}),
            ("quantile", "minutes", {"q": 0.8, "max": 400}, {"q": 0.9, "max": 400}),  # NaN is last
        ],
    )
    def test_rules_about_the_whole_table(self, validation, kind, column, good, bad):
        if good:
            passed = validation.validate(TRIPS, contract(Check(kind, column, "block", good)))
            assert not passed.report.blocked
            assert passed.report.results[-1].ok
        failed = validation.validate(TRIPS, contract(Check(kind, column, "block", bad)))
        assert failed.report.blocked
        assert failed.report.results[-1].message
        aside = validation.validate(TRIPS, contract(Check(kind, column, "quarantine", bad)))
        assert aside.quarantined.num_rows == 6
        warned = validation.validate(TRIPS, contract(Check(kind, column, "warn", bad)))
        assert warned.valid.num_rows == 6
        assert not warned.report.results[-1].ok

    def test_volume_without_anything_before_says_so(self, validation):
        check = Check("volume", None, "block", {"rows": 0, "min_ratio": 0.5})
        result = validation.validate(TRIPS, contract(check)).report.results[-1]
        assert result.ok
        assert result.message == "not judged: there were no rows before"

    def test_distribution(self, validation):
        columns = (Column("x", pa.float64()), Column("c", pa.string()))
        same = pa.table(
            {"x": [float(i % 100) for i in range(1000)], "c": ["a", "b", "b", "c"] * 250}
        )
        other = pa.table({"x": pc.add(same["x"], 40.0), "c": ["a", "a", "a", "z"] * 250})
        frozen = {"edges": [24, 49, 74], "counts": [25, 25, 25, 25]}
        values = {"values": ["a", "b"], "counts": [1, 2], "other": 1}
        for measure, worst in (("max_psi", 0.2), ("max_ks", 0.2), ("max_js", 0.05)):
            numbers = Check("distribution", "x", "warn", {"reference": frozen, measure: worst})
            assert (
                validation.validate(same, contract(numbers, columns=columns)).report.results[-1].ok
            )
            failed = validation.validate(other, contract(numbers, columns=columns))
            assert failed.report.results[-1].failed == 1
            assert measure[4:] in failed.report.results[-1].message
        words = Check("distribution", "c", "warn", {"reference": values, "max_js": 0.05})
        assert validation.validate(same, contract(words, columns=columns)).report.results[-1].ok
        assert (
            validation.validate(other, contract(words, columns=columns)).report.results[-1].failed
        )
        table = Check("distribution", "x", "warn", {"dataset": "before", "max_ks": 0.05})
        for data, ok in ((same, True), (other, False)):
            rule = contract(table, columns=columns)
            report = validation.validate(data, rule, references={"before": same}).report
            assert report.results[-1].ok is ok

    def test_distribution_of_few_values_is_not_judged(self, validation):
        frozen = {"edges": [2], "counts": [1, 0]}
        check = Check("distribution", "id", "warn", {"reference": frozen, "max_js": 0.01})
        result = validation.validate(TRIPS, contract(check)).report.results[-1]
        assert result.ok
        assert result.message == "not judged: 6 values, and at least 500 are asked for"

    def test_whole_table_rules_fail_without_rows(self, validation):
        checks = [
            Check("row_count", None, "block", {"min": 1}),
            Check("mean", "id", "block", {"min": 0}),
        ]
        for check in checks:
            assert validation.validate(TRIPS.slice(0, 0), contract(check)).report.blocked

    def test_freshness(self, validation):
        columns = (Column("t", pa.timestamp("us", tz="UTC")),)
        ancient = pa.table({"t": pa.array([0], columns[0].type)})
        check = Check("freshness", "t", "block", {"max_age_seconds": 60})
        rule = contract(check, columns=columns)
        assert validation.validate(ancient, rule).report.blocked
        now = datetime.now(UTC) + timedelta(days=1)
        fresh = pa.table({"t": pa.array([now], columns[0].type)})
        assert not validation.validate(fresh, rule).report.blocked

    # -- tables --

    def test_valid_rows_have_the_contract_schema(self, validation):
        rule = contract()
        assert validation.validate(TRIPS, rule).valid.schema == rule.schema
        assert validation.validate(TRIPS.slice(0, 0), rule).valid.schema == rule.schema

    def test_quarantined_rows_are_as_they_came(self, validation):
        narrow = TRIPS.set_column(0, "id", TRIPS["id"].cast(pa.int8()))
        narrow = narrow.set_column(2, "city", narrow["city"].dictionary_encode())
        outcome = validation.validate(narrow, contract(Check("not_null", "minutes")))
        assert outcome.quarantined.drop_columns(["_reasons"]).schema == narrow.schema
        assert outcome.quarantined["city"].to_pylist() == ["Busan"]
        again = validation.validate(outcome.quarantined, contract())
        assert again.valid["id"].to_pylist() == [2]

    def test_values_that_do_not_fit_a_narrower_type(self, validation):
        columns = (Column("a", pa.int8()),)
        table = pa.table({"a": pa.array([1, 300, None, -129, -128], pa.int64())})
        outcome = validation.validate(table, contract(columns=columns))
        assert outcome.valid["a"].to_pylist() == [1, None, -128]
        assert outcome.quarantined["_reasons"].to_pylist() == [["type(a): does not fit int8"]] * 2
        assert outcome.report.results[0].failed == 2

    @pytest.mark.parametrize(
        ("values", "found", "wanted", "valid"),
        [
            ([1.0, 1.5, float("nan"), float("inf"), 2.0**63, -(2.0**63)], pa.float64(), pa.int64(), [1, -(2**63)]),
            ([2**53, 2**53 + 1, 2**63 - 1], pa.int64(), pa.float64(), [2.0**53]),
            ([-1, 1], pa.int64(), pa.uint64(), [1]),
            ([2**64 - 1, 1], pa.uint64(), pa.int64(), [1]),
            ([1e300, 0.1, float("inf")], pa.float64(), pa.float32(), [pytest.approx(0.1), float("inf")]),
            ([1_500, 2_000], pa.timestamp("ms"), pa.timestamp("s"), [datetime(1970, 1, 1, 0, 0, 2)]),  # noqa: DTZ001 - a wall clock
            ([2**62, 1], pa.timestamp("s"), pa.timestamp("us"), [datetime(1970, 1, 1, 0, 0, 1)]),  # noqa: DTZ001
        ],
    )  # fmt: skip
    def test_no_value_changes_silently(self, validation, values, found, wanted, valid):
        table = pa.table({"a": pa.array(values, found)})
        outcome = validation.validate(table, contract(columns=(Column("a", wanted),)))
        assert outcome.valid["a"].to_pylist() == valid
        assert outcome.valid.num_rows + outcome.quarantined.num_rows == len(values)

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (TRIPS.drop_columns(["id"]), "columns id are missing"),
            (TRIPS.append_column("new", TRIPS["id"]), "columns new are not in the contract"),
            (
                TRIPS.set_column(0, "id", TRIPS["id"].cast(pa.string())),
                "id is string instead of int64",
            ),
            (TRIPS.append_column("id", TRIPS["id"]), "'id' more than once"),
        ],
    )
    def test_table_that_can_not_fit_is_refused(self, validation, table, message):
        with pytest.raises(SchemaMismatchError, match=message):
            validation.validate(table, contract())

    def test_missing_nullable_column_is_null(self, validation):
        outcome = validation.validate(TRIPS.drop_columns(["city"]), contract())
        assert outcome.valid["city"].null_count == 6

    def test_takes_anything_with_the_capsule_interface(self, validation):
        for data in (TRIPS.to_batches()[0], TRIPS.to_reader(), TRIPS):
            assert validation.validate(data, contract()).valid.num_rows == 6
        with pytest.raises(InvalidInputError, match="list is no table"):
            validation.validate([1], contract())

    def test_extreme_times_neither_crash_nor_get_lost(self, validation):
        types = [pa.timestamp("us", tz="UTC"), pa.date32(), pa.timestamp("ns"), pa.duration("us")]
        for type in types:
            most = 2**31 - 1 if type == pa.date32() else 2**63 - 1
            table = pa.table({"t": pa.array([most, -most, 0, None], type)})
            check = Check("unique", "t")
            bounds = {"max": timedelta(1) if pa.types.is_duration(type) else date(2020, 1, 1)}
            checks = (
                (check, Check("range", "t", "warn", bounds)) if type in types[1::2] else (check,)
            )
            outcome = validation.validate(
                table, contract(*checks, columns=(Column("t", type, nullable=False),))
            )
            assert outcome.valid.num_rows == 3
            to_html(outcome.report), to_text(outcome.report), to_dict(outcome.report)

    def test_columns_of_other_types_pass_through(self, validation):
        types = {
            "list": pa.list_(pa.int64()),
            "struct": pa.struct([("x", pa.int64())]),
            "map": pa.map_(pa.string(), pa.int64()),
            "decimal": pa.decimal128(10, 2),
            "interval": pa.month_day_nano_interval(),
        }
        table = pa.table({name: pa.nulls(2, type) for name, type in types.items()})
        columns = tuple(Column(name, type) for name, type in types.items())
        outcome = validation.validate(table, contract(columns=columns))
        assert outcome.valid == table
        strict = (Column("list", types["list"], nullable=False), *columns[1:])
        assert validation.validate(table, contract(columns=strict)).valid.num_rows == 0

    # -- events --

    def test_events_become_rows(self, validation):
        columns = (
            Column("i", pa.int64()),
            Column("f", pa.float64()),
            Column("s", pa.string()),
            Column("b", pa.bool_()),
            Column("t", pa.timestamp("us", tz="UTC")),
            Column("d", pa.date32()),
            Column("w", pa.timestamp("ms")),
            Column("l", pa.list_(pa.float64())),
        )
        value = (
            b'{"i": -3, "f": 2, "s": "\xed\x95\x9c\\u0000", "b": true, "t": "2013-01-01T05:00:00.5+05:30",'
            b' "d": "2013-02-28", "w": "2013-01-01T05:00:00", "l": [1, 2.5, null]}'
        )
        outcome = validation.validate(events(value, b"{}"), contract(columns=columns))
        first, second = outcome.valid.to_pylist()
        assert first == {
            "i": -3, "f": 2.0, "s": "한\0", "b": True,
            "t": datetime(2012, 12, 31, 23, 30, 0, 500_000, UTC), "d": date(2013, 2, 28),
            "w": datetime(2013, 1, 1, 5), "l": [1.0, 2.5, None],  # noqa: DTZ001 - a wall clock
        }  # fmt: skip
        assert set(second.values()) == {None}

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "there is no value"),
            (b"", "truncated"),
            (b"not json", "malformed"),
            (b'{"id": 1', "truncated"),
            (b'{"id": 1} x', "trailing characters"),
            (b'{"id": 1}\n{"id": 2}', "trailing characters"),
            (b"null", "Expected `object`, got `null`"),
            (b'[{"id": 1}]', "Expected `object`, got `array`"),
            (b'{"id": "1"}', "Expected `int`, got `str` - at `$.id`"),
            (b'{"id": 1, "id": 1}', "the field 'id' comes twice"),
            (b'{"id": 1, "city": "a:b", "\\u0063ity": null}', "the field 'city' comes twice"),
            (b'{"id": NaN}', "malformed"),
            (b'{"minutes": Infinity}', "malformed"),
            (b'{"minutes": 1e999}', "out of range"),
            (b'{"city": "\xff"}', "not UTF-8: byte 0xff"),
            (b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "Expected `int`"),
            (b'{"id": 1.0}', "Expected `int`, got `float` - at `$.id`"),
            (b'{"id": true}', "Expected `int`, got `bool` - at `$.id`"),
            (b'{"id": {"x": 1}}', "Expected `int`, got `object` - at `$.id`"),
            (b'{"id": 99999999999999999999}', "`int` <= 9223372036854775807 - at `$.id`"),
            (b'{"id": ' + b"9" * 5000 + b"}", "at `$.id`"),
            (b'{"id": 1, "minutes": NaN}', "malformed"),
            (b'{"id": 1, "minutes": Infinity}', "malformed"),
            (b'{"id": 1, "minutes": 1e400}', "out of range - at `$.minutes`"),
            (b'{"id": 1, "minutes": "5"}', "Expected `float`, got `str` - at `$.minutes`"),
            (b'{"id": 1, "city": 5}', "Expected `str`, got `int` - at `$.city`"),
            (b'{"id": 1, "city": "\xff"}', "not UTF-8: byte 0xff"),
            (b'{"id": 1, "city": "\\ud800"}', "parse: "),
            (b'{"id": 1, "extra": 1}', "unknown field `extra`"),
            (b'{"id": 1, "\xff": 1}', "not UTF-8"),
            (b'{"id": ' + b"[" * 100_000 + b"}", "Expected `int`, got `array`"),
            (b'{"x": ' + b"[" * 100_000 + b"}", "unknown field"),
            (b"[" * 100_000, "Expected `object`"),
        ],
    )  # fmt: skip
    def test_bad_event_is_set_aside_with_the_reason(self, validation, value, reason):
        good = b'{"id": 7, "city": "Seoul"}'
        outcome = validation.validate(events(good, value, good), contract())
        assert outcome.valid["id"].to_pylist() == [7, 7]
        assert outcome.quarantined["value"].to_pylist() == [value]
        ((found,),) = outcome.quarantined["_reasons"].to_pylist()
        assert found.startswith("parse: ")
        assert reason in found
        assert outcome.report.results[0].check.kind == "parse"
        assert outcome.report.results[0].failed == 1
        assert reason in outcome.report.results[0].message

    @pytest.mark.parametrize(
        "text",
        ["x", "2013-01-01", "2013-13-01T00:00:00Z", "2013-02-29T00:00:00Z", "2013-01-01T25:00:00Z",
         "2013-01-01T00:00:00", "2013-01-01T00:00:00+0100", "20130101T000000Z", ""],
    )  # fmt: skip
    def test_times_that_are_not_rfc_3339(self, validation, text):
        columns = (Column("a", pa.int64()), Column("t", pa.timestamp("us", tz="UTC")))
        values = [b'{"a": 1, "t": "2013-01-01T00:00:00Z"}', b"oops", b'{"a": 3, "t": null}']
        values.insert(1, b'{"a": 2, "t": "%s"}' % text.encode())
        outcome = validation.validate(events(*values), contract(columns=columns))
        assert outcome.valid["a"].to_pylist() == [1, 3]
        assert outcome.quarantined["value"].to_pylist() == values[1:3]
        reasons = outcome.quarantined["_reasons"].to_pylist()
        assert "RFC 3339" in reasons[0][0]
        assert "`$.t`" in reasons[0][0]
        assert "malformed" in reasons[1][0]

    def test_parsed_events_are_checked(self, validation):
        values = (b'{"city": "Seoul"}', b"{", b'{"id": 2, "minutes": 90}', b'{"id": 3}')
        check = Check("range", "minutes", arguments={"max": 60})
        outcome = validation.validate(events(*values), contract(check))
        assert outcome.valid["id"].to_pylist() == [3]
        assert outcome.quarantined["value"].to_pylist() == list(values[:3])
        first, second, third = outcome.quarantined["_reasons"].to_pylist()
        assert (first, third) == (["not_null(id)"], ["range(minutes): max=60"])
        assert second[0].startswith("parse: ")

    def test_event_keeps_its_place(self, validation):
        batch = events(b'{"id": 1}', b"?").append_column("offset", pa.array([8, 9], pa.int64()))
        outcome = validation.validate(batch, contract())
        assert outcome.valid.column_names == ["id", "minutes", "city", "code"]
        assert outcome.quarantined["offset"].to_pylist() == [9]

    # -- contracts --

    @pytest.mark.parametrize(
        ("check", "message"),
        [
            (Check("rnage", "id"), "checks[0].kind: unknown kind 'rnage'; kinds are: conditional, "),
            (Check("range", "idd", arguments={"min": 1}), "checks[0].column: the contract has no column 'idd'; its columns are: id, minutes"),
            (Check("range", "id"), "checks[0].arguments: range needs min or max"),
            (Check("range", "id", arguments={"mim": 1}), "checks[0].arguments.mim: unknown; arguments of range are: min, max,"),
            (Check("range", "id", arguments={"min": "x"}), "checks[0].arguments.min: must be a finite number, found 'x'"),
            (Check("range", "id", arguments={"min": 2, "max": 1}), "checks[0].arguments.min: 2 is more than max 1"),
            (Check("not_null"), "checks[0].column: not_null needs a column"),
            (Check("row_count", "id", arguments={"min": 1}), "checks[0].column: row_count has no column"),
            (Check("matches", "id", arguments={"pattern": "x"}), "checks[0].column: matches works on strings; id is int64"),
            (Check("matches", "code", arguments={"pattern": "("}), "checks[0].arguments.pattern: not a regular expression"),
            (Check("matches", "code", arguments={"pattern": "a)(b"}), "checks[0].arguments.pattern: not a regular expression"),
            (Check("unique"), "checks[0].column: unique needs either a column or arguments.columns"),
            (Check("unique", arguments={"columns": ["id", "x"]}), "checks[0].arguments.columns: the contract has no column 'x'"),
            (Check("expression", arguments={"sql": "nope > 1"}), "checks[0].arguments.sql: 'nope > 1': unable to find column"),
            (Check("expression", arguments={"sql": "id +"}), "checks[0].arguments.sql: 'id +': "),
            (Check("expression", arguments={"sql": "id + 1"}), "must be true or false for each row"),
            (Check("expression", arguments={"sql": "SUM(id) > 1"}), "must be true or false for each row"),
            (Check("expression", arguments={"sql": "id < MAX(id)"}), "must be true or false for each row"),
            (Check("expression", arguments={"sql": "ROW_NUMBER() OVER (ORDER BY id) < 4"}), "must be true or false for each row"),
            (Check("conditional", arguments={"when": "id > 1"}), "checks[0].arguments.then: conditional needs it"),
            (Check("conditional", arguments={"when": "id", "then": "id > 1"}), "checks[0].arguments.when: 'id' must be true or false"),
            (Check("conditional", arguments={"when": "id > 1", "then": 5}), "checks[0].arguments.then: must be a predicate, or a check"),
            (Check("conditional", arguments={"when": "id > 1", "then": {"kind": "unique", "column": "id"}}), "checks[0].arguments.then.kind: must be one of finite"),
            (Check("conditional", arguments={"when": "id > 1", "then": {"kind": "range", "column": "id"}}), "checks[0].arguments.then.arguments: range needs min or max"),
            (Check("foreign_key", "id"), "checks[0].arguments.dataset: foreign_key needs it"),
            (Check("foreign_key", "id", arguments={"dataset": "x", "to": ["a", "b"]}), "checks[0].arguments.to: 1 columns refer to 2"),
            (Check("volume", arguments={"rows": 5}), "checks[0].arguments: volume needs min_ratio or max_ratio"),
            (Check("volume", arguments={"max_ratio": 2}), "checks[0].arguments: volume needs either rows or against"),
            (Check("volume", arguments={"rows": 5, "min_ratio": 2, "max_ratio": 1}), "checks[0].arguments.min_ratio: 2 is more than max_ratio 1"),
            (Check("quantile", "id", arguments={"max": 2}), "checks[0].arguments.q: quantile needs it"),
            (Check("quantile", "id", arguments={"q": 2, "max": 2}), "checks[0].arguments.q: must be between 0 and 1"),
            (Check("distribution", "id", arguments={"max_ks": 0.1}), "checks[0].arguments: distribution needs either reference or dataset"),
            (Check("distribution", "id", arguments={"max_ks": 0.1, "reference": {"edges": [2, 1], "counts": [1, 1, 1]}}), "checks[0].arguments.reference: edges must be there and rise"),
            (Check("distribution", "id", arguments={"max_ks": 0.1, "reference": {"edges": [1], "counts": [1]}}), "checks[0].arguments.reference: 1 edges have 2 counts, not 1"),
            (Check("distribution", "id", arguments={"max_ks": 0.1, "reference": {"edges": [1], "counts": [0, 0]}}), "checks[0].arguments.reference: all counts are 0"),
            (Check("distribution", "city", arguments={"max_ks": 0.1, "reference": {"values": ["a"], "counts": [1]}}), "checks[0].arguments.max_ks: values have no order"),
            (Check("distribution", "city", arguments={"max_js": 0.1, "reference": {"edges": [1], "counts": [1, 1]}}), "checks[0].arguments.reference.edges: city is string, give values"),
            (Check("in_set", "city", arguments={"values": []}), "checks[0].arguments.values: must be a list of values"),
            (Check("in_set", "city", arguments={"values": [None]}), "checks[0].arguments.values: must be a string, found None"),
            (Check("not_null", "id", "warn"), "checks[0].severity: id is not nullable"),
            (Check("not_null", "city", "stop"),  # type: ignore[arg-type] # on purpose
              "checks[0].severity: must be one of block, quarantine, warn, found 'stop'"),
        ],
    )  # fmt: skip
    def test_impossible_check_is_refused(self, validation, check, message):
        with pytest.raises(InvalidInputError) as caught:
            validation.validate(TRIPS, contract(check))
        assert message in str(caught.value)

    def test_impossible_columns_are_refused(self, validation):
        columns = (
            Column("a", pa.int64()),
            Column("a", pa.int64()),
            Column("_reasons", pa.string()),
        )
        with pytest.raises(InvalidInputError) as caught:
            validation.validate(TRIPS, contract(columns=columns))
        assert "columns[1].name: 'a' is also columns[0]" in str(caught.value)
        assert "columns[2].name: '_reasons' can't be a column's name" in str(caught.value)

    def test_expression_that_fails_on_the_rows_is_named(self, validation):
        check = Check("expression", arguments={"sql": "CAST(city AS INT) > 1"})
        with pytest.raises(InvalidInputError, match=r"checks\[0\]: expression: CAST.*TRY_CAST"):
            validation.validate(TRIPS, contract(check))

    def test_keys_of_values_that_can_not_be_compared_are_refused(self, validation):
        columns = (Column("l", pa.list_(pa.int64())),)
        with pytest.raises(
            InvalidInputError, match="unique works on columns of plain values; l is"
        ):
            validation.validate(
                pa.table({"l": [[1], [1]]}), contract(Check("unique", "l"), columns=columns)
            )

    # -- parts --

    def test_parts_add_up(self, validation):
        checks = (
            Check("unique", "city"),
            Check("range", "minutes", arguments={"max": 60}),
            Check("mean", "id", "warn", {"min": 3.5, "max": 3.5}),
            Check("foreign_key", "city", "warn", {"dataset": "cities", "to": ["name"]}),
        )
        rule = contract(*checks)
        whole = validation.validate(TRIPS, rule, references={"cities": CITIES}).report
        parts = []
        for start in (0, 2, 3):
            part = validation.accumulate(rule, first_row=start, references={"cities": CITIES})
            part.update(TRIPS.slice(start, 3 if start else 2).slice(0, 1 if start == 2 else 3))
            parts.append(part)
        merged = validation.resume(parts[2].to_bytes(), rule, references={"cities": CITIES})
        merged.merge(parts[0])
        merged.merge(parts[1])
        found, wanted = to_dict(merged.report()), to_dict(whole)
        for column in ("id", "minutes"):
            for name in ("mean", "std"):  # sums show their order
                one, other = (report["statistics"][column].pop(name) for report in (found, wanted))
                assert one == pytest.approx(other, rel=1e-12)
        assert found == wanted
        assert whole.references == ("table:cities",)
        for part in (merged, *parts):
            part.close()

    def test_parts_take_streams_and_events(self, validation):
        rule = contract(columns=COLUMNS[:1])
        part = validation.accumulate(rule)
        part.update(TRIPS.select(["id"]).to_reader(max_chunksize=1))
        part.update(events(b'{"id": 7}', b'{"id": null}', b"?"))
        report = part.report()
        assert (report.rows, report.valid, report.quarantined) == (9, 7, 2)
        assert [r.check.kind for r in report.results] == ["parse", "type", "not_null"]
        assert [r.failed for r in report.results] == [1, 0, 1]

    def test_no_row_of_a_part_is_counted_twice(self, validation):
        parts = [validation.accumulate(contract()) for _ in range(2)]
        for part in parts:
            part.update(TRIPS)
        with pytest.raises(InvalidInputError, match="would be counted twice"):
            parts[0].merge(parts[1])
        assert parts[0].report().rows == 6

    # -- inference and profile --

    def test_inferred_contract_fits_its_sample(self, validation):
        proposed = validation.infer(TRIPS, "trips")
        assert [(c.name, c.type, c.nullable) for c in proposed.columns] == [
            ("id", pa.int64(), False), ("minutes", pa.float64(), True),
            ("city", pa.string(), True), ("code", pa.string(), True),
        ]  # fmt: skip
        outcome = validation.validate(TRIPS, proposed)
        assert outcome.report.quarantined == 0
        assert all(result.ok for result in outcome.report.results)

    def test_inferred_distributions_fit_their_sample_and_not_another(self, validation):
        sample = pa.table({"x": [float(i % 97) for i in range(5000)], "c": ["a", "b"] * 2500})
        proposed = validation.infer(sample, "trips", distributions=True)
        kinds = [(c.kind, c.column, c.severity) for c in proposed.checks]
        assert ("distribution", "x", "warn") in kinds
        assert ("distribution", "c", "warn") in kinds
        assert all(r.ok for r in validation.validate(sample, proposed).report.results)
        moved = sample.set_column(0, "x", pc.divide(sample["x"], 3.0))
        failed = [r.check for r in validation.validate(moved, proposed).report.results if not r.ok]
        assert [(check.kind, check.column) for check in failed] == [("distribution", "x")]
        assert not any(c.kind == "distribution" for c in validation.infer(sample, "trips").checks)

    def test_infers_from_events(self, validation):
        values = [
            b'{"n": %d, "x": %s, "t": "2013-01-01T00:00:00Z", "c": "%s", "d": "2013-01-01"}'
            % (i, b"1.5" if i else b"2", b"ab"[i % 2 : i % 2 + 1])
            for i in range(40)
        ]
        proposed = validation.infer(events(*values, b"broken", b'{"n": 1}'), "trips")
        types = {column.name: column.type for column in proposed.columns}
        assert types == {
            "n": pa.int64(), "x": pa.float64(), "t": pa.timestamp("us", tz="UTC"),
            "c": pa.string(), "d": pa.date32(),
        }  # fmt: skip
        nullable = {column.name for column in proposed.columns if column.nullable}
        assert nullable == {"x", "t", "c", "d"}
        assert Check("in_set", "c", "warn", {"values": ["a", "b"]}) in proposed.checks

    @pytest.mark.parametrize(
        "sample", [pa.table({}), TRIPS.slice(0, 0), events(b"x"), events(b"{}")]
    )
    def test_infers_nothing_from_nothing(self, validation, sample):
        with pytest.raises(InvalidInputError, match="sample"):
            validation.infer(sample, "trips")

    def test_refuses_to_infer_nested_fields(self, validation):
        with pytest.raises(InvalidInputError, match="the field 'a' holds objects or lists"):
            validation.infer(events(b'{"a": {"b": 1}}'), "trips")

    def test_profile(self, validation):
        found = validation.profile(TRIPS)
        assert list(found) == TRIPS.column_names
        assert {k: found["id"][k] for k in ("rows", "nulls", "min", "max", "mean", "distinct")} == {
            "rows": 6, "nulls": 0, "min": 1, "max": 6, "mean": 3.5, "distinct": 6,
        }  # fmt: skip
        assert sum(found["id"]["histogram"]["counts"]) == 6
        assert found["id"]["quantiles"]["0.5"] in (3, 4)
        minutes = found["minutes"]
        assert (minutes["nulls"], minutes["min"], minutes["max"]) == (1, -1.0, 400.0)
        assert minutes["mean"] == pytest.approx(109.75)
        assert found["city"]["top"][:2] == [["Busan", 2], ["Seoul", 2]]
        empty = validation.profile(TRIPS.slice(0, 0))
        assert empty["id"]["rows"] == 0
        assert empty["id"]["mean"] is None

    # -- promises --

    def test_same_input_same_outcome_for_many_threads(self, validation):
        rule = contract(Check("range", "minutes", arguments={"max": 60}), Check("unique", "city"))
        expected = validation.validate(TRIPS, rule)
        outcomes = []
        threads = [
            threading.Thread(target=lambda: outcomes.append(validation.validate(TRIPS, rule)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 8
        for outcome in outcomes:
            # As text, because a NaN is not equal to itself.
            assert str(outcome.valid.to_pylist()) == str(expected.valid.to_pylist())
            assert str(outcome.quarantined.to_pylist()) == str(expected.quarantined.to_pylist())
            assert to_dict(outcome.report) == to_dict(expected.report)

    def test_health(self, validation):
        health = validation.health()
        assert health.ok
        assert health.detail
