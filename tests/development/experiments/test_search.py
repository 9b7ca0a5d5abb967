"""MLflow's filter language and order, against a slow reading of them in Python."""

from __future__ import annotations

import math
import operator
import re

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import madang
from madang.development.experiments import DatasetInput, View
from madang.errors import InvalidInputError

TEXTS = ["", "a", "A", "ab", "b'c", 'q"t', "50%", "x_y", "ü"]
NUMBERS = [0.0, -1.5, 2.0, 1e300, math.inf, -math.inf, math.nan]
COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

runs = st.lists(
    st.fixed_dictionaries(
        {
            "params": st.dictionaries(st.sampled_from(["p", "odd key"]), st.sampled_from(TEXTS)),
            "tags": st.dictionaries(st.sampled_from(["t", "x.y"]), st.sampled_from(TEXTS)),
            "metrics": st.dictionaries(st.sampled_from(["m", "n"]), st.sampled_from(NUMBERS)),
            # Name and digest to context.
            "datasets": st.dictionaries(
                st.tuples(st.sampled_from(["d", "D", "e"]), st.sampled_from(["1", "2"])),
                st.sampled_from([None, "train", "test"]),
                max_size=2,
            ),
        }
    ),
    max_size=6,
)
finite = st.sampled_from([-2.0, -1.5, 0.0, 1.0, 2.0, 1e300])
number_terms = st.tuples(
    st.just("metrics"), st.sampled_from(["m", "n", "none"]), st.sampled_from(list(COMPARE)), finite
)
text_terms = st.tuples(
    st.sampled_from(["params", "tags"]),
    st.sampled_from(["p", "odd key", "t", "x.y"]),
    st.sampled_from(["=", "!=", "LIKE", "ILIKE"]),
    st.sampled_from([*TEXTS, "%", "a%", "_", "%b%"]),
)
null_terms = st.tuples(
    st.sampled_from(["params", "tags"]),
    st.sampled_from(["p", "odd key", "t", "x.y"]),
    st.sampled_from(["IS NULL", "IS NOT NULL"]),
    st.none(),
)
dataset_texts = ["d", "D", "1", "train", "t%", "none"]
dataset_terms = st.one_of(
    st.tuples(
        st.just("datasets"),
        st.sampled_from(["name", "digest", "context"]),
        st.sampled_from(["=", "!=", "LIKE", "ILIKE"]),
        st.sampled_from(dataset_texts),
    ),
    st.tuples(
        st.just("datasets"),
        st.sampled_from(["name", "digest", "context"]),
        st.sampled_from(["IN", "NOT IN"]),
        st.lists(st.sampled_from(dataset_texts), min_size=1, max_size=3),
    ),
)
time_terms = st.tuples(
    st.just("attributes"),
    st.just("start_time"),
    st.sampled_from(list(COMPARE)),
    st.sampled_from([0, 999.5, 1000, 3000, -1]),
)
terms = st.lists(
    st.one_of(number_terms, text_terms, null_terms, dataset_terms, time_terms), max_size=3
)


def quoted(text):
    return f"'{text}'" if '"' in text or "'" not in text else f'"{text}"'


def written(term):
    entity, key, comparison, value = term
    name = f"`{key}`" if re.search(r"[^\w]", key) else key
    if value is None:
        return f"{entity}.{name} {comparison}"
    if isinstance(value, list):
        return f"{entity}.{name} {comparison} ({', '.join(map(quoted, value))})"
    text = quoted(value) if isinstance(value, str) else repr(value)
    return f"{entity}.{name} {comparison} {text}"


def matches(run, term):
    entity, key, comparison, value = term
    if entity == "datasets":
        places = ("name", "digest", "context")
        return any(
            fits(entity, dict(zip(places, (*names, context), strict=True))[key], comparison, value)
            for names, context in run[entity].items()
        )
    return fits(entity, run[entity].get(key), comparison, value)


def fits(entity, found, comparison, value):
    if value is None:
        return (found is None) is (comparison == "IS NULL")
    if found is None or (entity == "metrics" and math.isnan(found)):
        return False  # what isn't there fits nothing, also not !=
    if isinstance(value, list):
        return (found in value) is (comparison == "IN")
    if comparison in COMPARE:
        return COMPARE[comparison](found, value)
    pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in value)
    flags = re.DOTALL | (re.IGNORECASE | re.ASCII if comparison == "ILIKE" else 0)
    return re.fullmatch(pattern, found, flags) is not None


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    madang.init(root, name="test")
    with madang.open(root) as stack:
        yield stack.experiments


def log(experiments, given):
    """The runs in an experiment of their own; its id, and run id to what it has, oldest first."""
    name = f"e{len(experiments.search_experiments(limit=50_000).items)}"
    experiment = experiments.create_experiment(name)
    made = {}
    for number, one in enumerate(given):
        run = experiments.start_run(
            experiment, params=one["params"], tags=one["tags"], start_us=1_000_000 * number
        )
        experiments.log(run.id, metrics=one["metrics"])
        experiments.log_inputs(
            run.id,
            datasets=[
                DatasetInput(*names, tags={"mlflow.data.context": context} if context else {})
                for names, context in one["datasets"].items()
            ],
        )
        made[run.id] = {**one, "attributes": {"start_time": 1000 * number}}
    return experiment.id, made


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs, terms)
def test_filters_find_what_they_say(experiments, given, terms):
    experiment_id, made = log(experiments, given)
    filter = " AND ".join(written(term) for term in terms)
    found = experiments.search_runs([experiment_id], filter).items
    expected = [i for i, run in made.items() if all(matches(run, term) for term in terms)]
    assert [run.id for run in found] == expected[::-1], filter  # the newest first
    for run in found:
        assert (run.params, run.tags) == (made[run.id]["params"], made[run.id]["tags"])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs, st.sampled_from(["metrics.m", "params.p", "tags.t"]), st.booleans(), st.integers(1, 3))
def test_orders_and_pages(experiments, given, key, ascending, limit):
    experiment_id, made = log(experiments, given)
    entity, _, name = key.partition(".")
    values = {run_id: run[entity].get(name) for run_id, run in made.items()}

    def missing(value):
        return value is None or (isinstance(value, float) and math.isnan(value))

    newest_first = list(made)[::-1]
    there = [i for i in newest_first if not missing(values[i])]
    expected = sorted(there, key=lambda i: values[i], reverse=not ascending)
    expected = _stable(expected, there, values)
    # NaN, then what isn't there, whichever way the others go.
    expected += [i for i in newest_first if missing(values[i]) and values[i] is not None]
    expected += [i for i in newest_first if values[i] is None]
    found, token = [], None
    while True:
        page = experiments.search_runs(
            [experiment_id],
            order_by=[f"{key} {'ASC' if ascending else 'DESC'}"],
            limit=limit,
            page_token=token,
        )
        found += [run.id for run in page.items]
        token = page.next_token
        if not token:
            break
        experiments.start_run("elsewhere")  # what is added meanwhile shifts nothing
    assert found == expected


def _stable(ordered, newest_first, values):
    """Equal values keep the newest first, whichever way the others go."""
    result = []
    for run_id in ordered:
        if run_id not in result:
            result += [i for i in newest_first if values[i] == values[run_id]]
    return result


def test_pages_hold_their_place_while_runs_come_and_go(experiments):
    experiment = experiments.create_experiment("pages")
    made = [experiments.start_run(experiment, start_us=i * 1_000_000).id for i in range(10)]
    first = experiments.search_runs([experiment.id], limit=4)
    assert [run.id for run in first.items] == made[:5:-1]
    experiments.start_run(experiment)  # newer than all
    experiments.delete_run(made[4])
    second = experiments.search_runs([experiment.id], limit=10, page_token=first.next_token)
    assert [run.id for run in second.items] == [i for i in made[5::-1] if i != made[4]]
    assert not second.next_token


def test_views(experiments):
    experiment = experiments.create_experiment("views")
    stays, gone = (experiments.start_run(experiment).id for _ in range(2))
    experiments.delete_run(gone)
    found = {
        view: {run.id for run in experiments.search_runs([experiment.id], view=view).items}
        for view in View
    }
    assert found == {View.ACTIVE: {stays}, View.DELETED: {gone}, View.ALL: {stays, gone}}


@pytest.mark.parametrize(
    "filter",
    [
        "metrics.m",
        "metrics.m >",
        "metrics.m > 'text'",
        "params.p > 3",
        "params.p = unquoted",
        "colour.x = 'a'",
        "metrics.m = 1 OR metrics.n = 2",
        "metrics.m LIKE 'a'",
        "params.p = 'open",
        "attributes.nothing = 'a'",
        "metrics.m = 1 AND",
        "AND metrics.m = 1",
        "(metrics.m = 1)",
        "params.p = 'a'; DROP TABLE run",
        "params.`p = 'a'",
        "= 3",
        "\0",
    ],
)
def test_malformed_filters_are_told(experiments, filter):
    with pytest.raises(InvalidInputError) as told:
        experiments.search_runs(None, filter)
    assert len(str(told.value)) > 20


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(st.sampled_from("metrics.params'\"`= AND%_()<>!;-\0é1"), max_size=40))
def test_no_text_is_more_than_a_bad_filter(experiments, filter):
    """Whatever comes: runs, or an error of ours; never one of the database."""
    try:
        experiments.search_runs(None, filter, limit=1)
    except InvalidInputError:
        return


@pytest.mark.parametrize("text", ["' OR '1'='1", "'; DROP TABLE run; --", "a' UNION SELECT 1 --"])
def test_values_stay_values(experiments, text):
    experiment = experiments.create_experiment(f"values {len(text)}")
    experiments.start_run(experiment, params={"p": "other"})
    mine = experiments.start_run(experiment, params={"p": text})
    found = experiments.search_runs([experiment.id], f'params.p = "{text}"').items
    assert [run.id for run in found] == [mine.id]


@pytest.mark.parametrize("limit", [0, -1, 50_001])
def test_impossible_limits(experiments, limit):
    with pytest.raises(InvalidInputError, match="a page has 1 to 50000"):
        experiments.search_runs(limit=limit)


@pytest.mark.parametrize("token", ["x", "AAAA", "e30=", "\0"])
def test_tokens_that_are_none(experiments, token):
    with pytest.raises(InvalidInputError, match=r"(?i)token"):
        experiments.search_runs(page_token=token)


@pytest.mark.parametrize("order", ["metrics.m SIDEWAYS", "nothing.x ASC", "metrics", "1; DROP"])
def test_orders_that_are_none(experiments, order):
    with pytest.raises(InvalidInputError):
        experiments.search_runs(order_by=[order])
