"""The part of the experiments contract's suite on MLflow's filter language, orders and pages."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from madang.development.experiments import (
    DatasetInput,
    Experiments,
    Page,
    Run,
    RunStatus,
    View,
)
from madang.errors import InvalidInputError
from madang.testing._experiments_stored import need

HOSTILE_TEXTS = [
    "' OR '1'='1",
    "'; DROP TABLE run; --",
    "x' UNION SELECT id FROM run --",
    "%' OR 1=1 --",
    "\\' OR 1=1 --",
    "[a-z]*",
    "?",
    "a%_b",
    "%s",
    "${x}",
    "Ünï 😀",
]

FILTERS = [
    ("", "abc"),
    ("   ", "abc"),
    ("metrics.loss = 1", "b"),
    ("metrics.loss != 1.0", "ac"),
    ("metrics.loss < 1", "a"),
    ("metrics.loss <= 1", "ab"),
    ("metric.loss > +1e0", "c"),
    ("metrics.loss >= .5", "abc"),
    ("metrics.loss > -1", "abc"),
    ("metrics.odd != 1", "ab"),
    ("metrics.odd > 1e308", "b"),
    ("metrics.odd = 1e400", "b"),
    ("metrics.odd <= 1", ""),
    ('metrics.`a b/c` > 1 AND metrics."a b/c" < 3', "b"),
    ("metrics.missing != 1", ""),
    ("params.depth = '1'", "a"),
    ("param.depth != '1'", "bc"),
    ("parameters.\"my param\" = 'it''s b'", "b"),
    ('params.`my param` = "it\'s b"', "b"),
    ("params.`my param` LIKE 'it%'", "abc"),
    ("params.`my param` LIKE 'IT%'", ""),
    ("params.`my param` ILIKE 'IT%'", "abc"),
    ("params.`my param` LIKE 'it_s_b'", "b"),
    ("params.only IS NULL", "ac"),
    ("params.only IS  NOT\nNULL", "b"),
    ("params.only != 'x'", "b"),
    ("tags.team = 'Team-a'", "a"),
    ("tags.team = 'team-a'", ""),
    ("tag.team ilike 'TEAM-_' and tags.x.y != 'a'", "bc"),
    ("tags.none IS NULL", "abc"),
    ("tags.mlflow.runName = 'b'", "b"),
    ("tags.`mlflow.runName` LIKE 'B'", ""),
    ("tags.mlflow.runName IS NULL", ""),
    ("tags.mlflow.runName IS NOT NULL", "abc"),
    ("datasets.name = 'flights'", "ab"),
    ("dataset.digest != 'd1'", "ab"),
    ("dataset.digest IN ('d1', 'd9')", "a"),
    ("dataset.digest NOT IN ('d1', 'd2')", "b"),
    ("dataset.name LIKE 'fl%' AND dataset.context = 'training'", "a"),
    ("dataset.context ILIKE 'TRAIN%'", "a"),
    ("attributes.status = 'FAILED'", "c"),
    ("status != 'FAILED'", "ab"),
    ("attr.status IN ('FAILED', 'KILLED')", "c"),
    ("attribute.status not in ('FAILED')", "ab"),
    ("run.run_name ILIKE 'A'", "a"),
    ("attributes.`Run name` = 'a'", "a"),
    ("attributes.user_id = 'bob'", "b"),
    ("attributes.artifact_uri LIKE '%/%'", "abc"),
    ("attributes.start_time >= 2000", "bc"),
    ("start_time < 1999.5 AND created > 0", "a"),
    ("attributes.end_time = 9000", "c"),
    ("attributes.end_time != 9000", ""),
    ("attributes.start_time < 99999999999999999999", "abc"),
]

ORDERS: list[tuple[list[str], str]] = [
    ([], "cba"),
    (["metrics.loss"], "abc"),
    (["metrics.loss DESC"], "cba"),
    (["metrics.odd"], "bac"),  # infinity, NaN, none
    (["metrics.odd desc"], "bac"),
    (["metrics.`a b/c` DESC", "metrics.loss"], "cba"),
    (["params.only", "params.depth ASC"], "bac"),
    (["params.only DESC", "params.depth DESC"], "bca"),
    (["tags.x.y"], "abc"),
    (["tags.mlflow.runName DESC"], "cba"),
    (["attributes.start_time ASC"], "abc"),
    (["Created DESC"], "cba"),
    (["end_time ASC", "start_time"], "cab"),
    (["end_time DESC", "start_time"], "cab"),
    (["user_id", "run_name DESC"], "cab"),
    (["status", "`Run Name`"], "cab"),
]

BAD_ORDERS = [
    (["metrics.m SIDEWAYS"], "Invalid order_by clause"),
    (["metrics.m DESC; DROP TABLE run"], "Invalid order_by clause"),
    ([""], "a name is expected here"),
    (["started DESC"], "Invalid attribute key 'started'"),
    (["datasets.name"], "Invalid entity type 'datasets'"),
    (["metrics.m", "metric.m DESC"], "`order_by` contains duplicate fields"),
    ([f"metrics.m{n}" for n in range(31)], "an order has at most 30 keys, found 31"),
]

BAD_FILTERS = [
    ("metrics.m", "a comparison of 'm' is expected here"),
    ("metrics.m > 'a'", "Expected numeric value type for 'm'"),
    ("metrics.m > nan", "Expected numeric value type for 'm'"),
    ("metrics.m LIKE 'a'", "Invalid comparator 'LIKE' for metric 'm'; it takes =, !=, <"),
    ("metrics.m IS NULL", "Invalid comparator 'IS NULL' for metric"),
    ("params.p > 'a'", "Invalid comparator '>' for param 'p'; it takes =, !=, LIKE"),
    ("params.p IN ('a')", "Invalid comparator 'IN' for param"),
    ("params.p = 3", "Expected a quoted string value for 'p'"),
    ("params.p = 'a", "Expected a quoted string value for 'p'"),
    ("params.p = 'a''", "comparisons are joined by AND alone"),
    ("tags.t == 'a'", "Expected a quoted string value for 't'"),
    ("params.p = 'a' OR params.p = 'b'", "comparisons are joined by AND alone"),
    ("params.p = 'a' AND", "its end"),
    ("AND params.p = 'a'", "Invalid attribute key 'AND'"),
    ("(params.p = 'a')", "a name is expected here"),
    ("params. = 'a'", "a name is expected here"),
    ("params.`` = 'a'", "a name is expected here"),
    ("params.`p = 'a'", "a name is expected here"),
    ("colours.c = 'a'", "Invalid entity type 'colours'. Valid values are attr, attribute"),
    ("nothing = 'a'", "Invalid attribute key 'nothing'. Valid keys are artifact_uri, end_time"),
    ("started > 3", "Invalid attribute key 'started'"),
    ("attributes.start_time > 'x'", "Expected numeric value type for 'start_time'"),
    ("attributes.status > 'x'", "Invalid comparator '>' for attribute 'status'"),
    ("datasets.colour = 'x'", "Invalid dataset key 'colour'. Valid keys are context, digest, name"),
    ("attributes.run_id IN 'a'", "a list of quoted string values in parentheses"),
    ("attributes.run_id IN ()", "Expected a quoted string value"),
    ("attributes.run_id IN ('a'", "`,` or `)` is expected here"),
    ("attributes.run_id IN ('a',)", "Expected a quoted string value"),
    ("params.p = 'a\0b'", "a filter holds no NUL character"),
    (" AND ".join(["params.p = 'a'"] * 101), "a filter has at most 100 comparisons"),
    ("params.p = '" + "a" * 1_000_001 + "'", "a filter has at most 1,000,000 characters"),
    ("params.p LIKE '" + "%a" * 5_001 + "'", "a pattern of LIKE has at most 10,000 characters"),
    (
        "attributes.run_id IN (" + ",".join(["'a'"] * 20_001) + ")",
        "a list has at most 20,000 values",
    ),
]


def everything(search: Callable[..., Page[Any]], **options: Any) -> list[Any]:
    """What all pages of a search give together."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token, **options)
        found += page.items
        token = page.next_token
        if token is None:
            return found


class SearchContract:
    """Needs a fixture `experiments`: an empty `Experiments`."""

    @staticmethod
    def names(experiments: Experiments, filter: str = "", **options: Any) -> list[str]:
        """The names of the runs that a search finds, as words; sorted without an order."""
        found = [run.name for run in experiments.search_runs(None, filter, **options).items]
        return found if "order_by" in options else sorted(found)

    @pytest.fixture
    def three(self, experiments: Experiments) -> dict[str, Run]:
        """Runs `a`, `b` and `c`, started at 1, 2 and 3 s, by `ann` and `bob`."""
        found = {}
        for number, name in enumerate("abc", 1):
            found[name] = experiments.start_run(
                "search", name=name, user="bob" if name == "b" else "ann",
                start_us=number * 1_000_000,
                params={"depth": str(number), "my param": f"it's {name}"},
                tags={"team": f"Team-{name}", "x.y": name},
            )  # fmt: skip
            experiments.log(found[name].id, metrics={"loss": number / 2, "a b/c": float(number)})
        experiments.log(found["a"].id, metrics={"odd": math.nan})
        experiments.log(found["b"].id, metrics={"odd": math.inf}, params={"only": "b"})
        training = DatasetInput("flights", "d1", tags={"mlflow.data.context": "training"})
        experiments.log_inputs(found["a"].id, datasets=[training, DatasetInput("other", "d2")])
        experiments.log_inputs(found["b"].id, datasets=[DatasetInput("flights", "d3")])
        experiments.update_run(found["c"].id, status=RunStatus.FAILED, end_us=9_000_000)
        return found

    def test_filters(self, experiments: Experiments, three: dict[str, Run]) -> None:
        for filter, expected in FILTERS:
            assert self.names(experiments, filter) == list(expected), filter

    def test_a_run_by_its_id(self, experiments: Experiments, three: dict[str, Run]) -> None:
        a, b = three["a"].id, three["b"].id
        assert self.names(experiments, f"attributes.run_id = '{a}'") == ["a"]
        assert self.names(experiments, f"run_id IN ('{a}', '{b}', 'x')") == ["a", "b"]
        assert self.names(experiments, f'run_id NOT IN ("{a}")') == ["b", "c"]

    def test_searches_look_at_the_given_experiments(self, experiments: Experiments) -> None:
        ids = [experiments.start_run(name, name=name).experiment_id for name in ("x", "y", "z")]
        found = experiments.search_runs(ids[:2], order_by=["run_name"]).items
        assert [run.name for run in found] == ["x", "y"]
        assert experiments.search_runs([]).items == ()
        assert experiments.search_runs(["nothing"]).items == ()

    def test_bad_filters(self, experiments: Experiments) -> None:
        for filter, message in BAD_FILTERS:
            with pytest.raises(InvalidInputError) as raised:
                experiments.search_runs(None, filter)
            assert message in str(raised.value), filter
            assert len(str(raised.value)) < 1_000

    def test_large_filters_are_answered(
        self, experiments: Experiments, three: dict[str, Run]
    ) -> None:
        many = " AND ".join(f"metrics.loss != {number + 7}" for number in range(100))
        assert self.names(experiments, many) == ["a", "b", "c"]
        mixed = " AND ".join(["params.depth LIKE '%'", "tags.none IS NULL"] * 50)
        assert self.names(experiments, mixed) == ["a", "b", "c"]
        ids = ", ".join(f"'{number}'" for number in range(19_999))
        assert self.names(experiments, f"run_id IN ({ids}, '{three['b'].id}')") == ["b"]
        long = "é" * 9_999
        assert self.names(experiments, f"params.depth LIKE '{long}%'") == []
        assert self.names(experiments, f"params.depth ILIKE '{'[' * 10_000}'") == []
        assert self.names(experiments, f"params.depth = '{'x' * 900_000}'") == []
        with pytest.raises(InvalidInputError, match="a search has at most 30,000 values"):
            experiments.search_runs([str(number) for number in range(30_001)])

    def test_hostile_texts_are_only_texts(self, experiments: Experiments) -> None:
        every = [str(number) for number in range(len(HOSTILE_TEXTS))]
        for number, text in zip(every, HOSTILE_TEXTS, strict=True):
            experiments.start_run("e", name=number, params={"p": text})
        for number, text in zip(every, HOSTILE_TEXTS, strict=True):
            others = sorted(set(every) - {number})
            quoted = "'" + text.replace("'", "''") + "'"
            assert self.names(experiments, f"params.p = {quoted}") == [number]
            assert self.names(experiments, f"params.p != {quoted}") == others
            assert self.names(experiments, f"run_id IN ({quoted})") == []
            assert self.names(experiments, f"tags.`{text}` IS NULL") == sorted(every)
            if "%" not in text:
                assert self.names(experiments, f"params.p LIKE {quoted}") == [number]
                assert self.names(experiments, f"params.p ILIKE {quoted}") == [number]

    def test_hostile_names_are_only_names(self, experiments: Experiments) -> None:
        need(experiments.keeps.names, "names of all characters")
        every = [str(number) for number in range(len(HOSTILE_TEXTS))]
        for number, text in zip(every, HOSTILE_TEXTS, strict=True):
            experiments.start_run("e", name=number, tags={text: "v"})
        for number, text in zip(every, HOSTILE_TEXTS, strict=True):
            others = sorted(set(every) - {number})
            assert self.names(experiments, f"tags.`{text}` = 'v'") == [number]
            assert self.names(experiments, f"tags.`{text}` IS NULL") == others
            assert self.names(experiments, order_by=[f"tags.`{text}`"])[0] == number

    # -- order ----------------------------------------------------------------------------------

    def test_orders(self, experiments: Experiments, three: dict[str, Run]) -> None:
        for order_by, expected in ORDERS:
            assert self.names(experiments, order_by=order_by) == list(expected), order_by
            pages = everything(experiments.search_runs, order_by=order_by, limit=1)
            assert [run.name for run in pages] == list(expected), order_by

    def test_what_is_equal_comes_newest_first(self, experiments: Experiments) -> None:
        unit = experiments.keeps.time_us
        for name, start in (("a", 5_000_001), ("b", 5_000_003), ("c", 5_000_002)):
            run = experiments.start_run("e", name=name, start_us=start * unit)
            experiments.log(run.id, metrics={"m": 1.0})
        assert self.names(experiments, order_by=["metrics.m"]) == ["b", "c", "a"]
        assert self.names(experiments, order_by=["metrics.m DESC"]) == ["b", "c", "a"]
        assert self.names(experiments, order_by=["metrics.none"]) == ["b", "c", "a"]
        if unit > 1:
            return
        # MLflow's times are milliseconds, in which the three are equal.
        assert self.names(experiments, order_by=["start_time", "run_name"]) == ["a", "b", "c"]

    def test_texts_are_ordered_by_code_points(self, experiments: Experiments) -> None:
        texts = ["a", "B", "é", "Z", "z", "-", "a b", "ab", "😀", "_"]
        for text in texts:
            experiments.start_run("e", name=text, params={"p": text})
        for key in ("params.p", "run_name"):
            pages = everything(experiments.search_runs, order_by=[key], limit=3)
            assert [run.name for run in pages] == sorted(texts)

    def test_bad_orders(self, experiments: Experiments) -> None:
        for order_by, message in BAD_ORDERS:
            with pytest.raises(InvalidInputError) as raised:
                experiments.search_runs(order_by=order_by)
            assert message in str(raised.value), order_by

    def test_thirty_keys_in_an_order(self, experiments: Experiments, three: dict[str, Run]) -> None:
        order = [f"metrics.m{number}" for number in range(29)]
        filter = " AND ".join(["metrics.loss > 0"] * 100)
        assert self.names(experiments, filter, order_by=[*order, "metrics.loss"]) == list("abc")

    # -- pages ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("order_by", [[], ["metrics.m"], ["metrics.m DESC"], ["params.p"]])
    def test_pages_neither_repeat_nor_skip(
        self, experiments: Experiments, order_by: list[str]
    ) -> None:
        values = [1.0, math.nan, None, 1.0, math.inf, -math.inf, None, 1.0, math.nan, 0.1 + 0.2]
        made = set()
        unit = experiments.keeps.time_us
        for number, value in enumerate(values):
            run = experiments.start_run("e", start_us=number * unit, params={"p": str(number % 3)})
            made.add(run.id)
            experiments.log(run.id, metrics={} if value is None else {"m": value})
        whole = [run.id for run in experiments.search_runs(order_by=order_by).items]
        found: list[str] = []
        token = None
        while True:
            page = experiments.search_runs(order_by=order_by, limit=2, page_token=token)
            found += [run.id for run in page.items]
            token = page.next_token
            if token is None:
                break
            # Others come at both ends, and what was shown goes.
            for start, value in ((10_000 + len(found), 1e9), (len(found), -1e9)):
                late = experiments.start_run("e", start_us=start * unit, params={"p": "0"})
                experiments.log(late.id, metrics={"m": value})
            if found[-1] in made:
                experiments.delete_run(found[-1])
        assert len(found) == len(set(found))
        assert [run_id for run_id in found if run_id in made] == whole

    def test_a_full_last_page_has_no_token(
        self, experiments: Experiments, three: dict[str, Run]
    ) -> None:
        assert experiments.search_runs(limit=3).next_token is None
        assert experiments.search_runs(limit=2).next_token is not None

    def test_bad_limits(self, experiments: Experiments) -> None:
        searches: tuple[Any, ...] = (experiments.search_runs, experiments.search_experiments)
        for search, limit in itertools.product(searches, (0, -1, 50_001)):
            with pytest.raises(
                InvalidInputError, match=f"a page has 1 to 50000 .* asked for {limit}"
            ):
                search(limit=limit)

    def test_a_token_is_of_one_search(
        self, experiments: Experiments, three: dict[str, Run]
    ) -> None:
        token = experiments.search_runs(limit=1).next_token
        others: list[dict[str, Any]] = [
            {"filter": "metrics.loss > 0"},
            {"order_by": ["metrics.loss"]},
            {"view": View.ALL},
            {"experiment_ids": [three["a"].experiment_id]},
        ]
        for options in others:
            with pytest.raises(InvalidInputError, match="the page token is none"):
                experiments.search_runs(page_token=token, **options)

    def test_what_is_no_token(self, experiments: Experiments, three: dict[str, Run]) -> None:
        deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
        for text in (deep, "x", "!", "é", "=" * 9, "\0"):
            with pytest.raises(InvalidInputError, match="the page token is none"):
                experiments.search_runs(order_by=["run_name"], page_token=text)


class PlacesContract:
    """For an engine whose tokens hold the place where a page ended. Needs `experiments`, `three`."""

    def test_forged_tokens(self, experiments: Experiments, three: dict[str, Run]) -> None:
        token = experiments.search_runs(order_by=["run_name"], limit=1).next_token
        assert token is not None
        mark, place = json.loads(base64.urlsafe_b64decode(token))
        forged = [
            [mark, [None] * len(place)],
            [mark, [*place[:-1], None]],
            [mark, [*place[:-1], 7]],
            [mark, ["x", *place[1:]]],
            [mark, place[1:]],
            [mark, [*place, 1]],
            [mark, {"0": 1}],
            [mark, [[], *place[1:]]],
            [mark],
            mark,
        ]
        texts = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in forged]
        for text in texts:
            with pytest.raises(InvalidInputError, match="the page token is none"):
                experiments.search_runs(order_by=["run_name"], page_token=text)
