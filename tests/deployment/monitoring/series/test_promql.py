"""The subset of PromQL, compared with a real Prometheus on the same samples."""

from __future__ import annotations

import math
import threading

import pytest
from tests.deployment.monitoring.series import samples
from tests.servers.prometheus import ask, prometheus, promtool

from madang.deployment.monitoring.series.local import LocalSeries
from madang.deployment.monitoring.series.promql import parse
from madang.errors import InvalidInputError

EXPRESSIONS = [
    "1 + 2 * 3 ^ 2 % 5 - -1",
    "2 > bool 1",
    "time()",
    "temperature",
    '{__name__=~"temp.*|limit",job!="b"}',
    'requests_total{status=~"5..",job=~"a|b"}',
    'requests_total{status!~"5.."}',
    'requests_total{missing=""}',
    "temperature offset 10m",
    "temperature offset -2m",
    "-temperature",
    "rate(requests_total[5m])",
    "rate(requests_total[5m] offset 7m)",
    "rate(requests_total[10s])",
    "rate((requests_total[1m]))",
    "increase(requests_total[1h])",
    "increase(requests_total[1m30s])",
    "irate(requests_total[5m])",
    "delta(temperature[10m])",
    "changes(special[10m])",
    "resets(requests_total[1h])",
    "avg_over_time(temperature[10m])",
    "min_over_time(special[10m])",
    "max_over_time(temperature[10m])",
    "sum_over_time(temperature[10m])",
    "count_over_time(requests_total[10m])",
    "last_over_time(requests_total[10m])",
    "present_over_time(requests_total[10m])",
    "stddev_over_time(temperature[10m])",
    "quantile_over_time(0.9, temperature[10m])",
    "quantile_over_time(2, temperature[10m])",
    "histogram_quantile(0.9, rate(seconds_bucket[10m]))",
    "histogram_quantile(0.01, sum by (le) (rate(seconds_bucket[10m])))",
    "histogram_quantile(1, seconds_bucket)",
    "histogram_quantile(1.5, seconds_bucket)",
    "histogram_quantile(0.5, temperature)",
    "sum(requests_total)",
    "sum by (job) (rate(requests_total[5m]))",
    "avg without (status) (requests_total)",
    "max by (status, missing) (requests_total)",
    "min(special)",
    'count by (__name__) ({job="a"})',
    "requests_total * 2 / 0",
    "temperature / ignoring (room) limit",
    "temperature > 3",
    "3 < temperature",
    "temperature > bool 3",
    "special == special",
    "special != bool special",
    "sum by (job) (requests_total) / on (job) sum by (job) (seconds_bucket)",
    'requests_total{status="500"} / ignoring (status) requests_total{status="200"}',
    'requests_total{status="500"} < ignoring (status) requests_total{status="200"}',
    'requests_total{status="500"} < on (job) requests_total{status="200"}',
    "requests_total and on (job) limit",
    "requests_total unless on (job) limit",
    "limit or temperature",
    'absent(nothing{job="a",x=~"y"})',
    "absent(temperature)",
    "scalar(limit) * temperature",
    "scalar(temperature)",
    "vector(5) > 3",
    "abs(floor(temperature)) + ceil(temperature)",
    "abs(special)",
    'sum(rate(requests_total{status="500"}[5m])) / sum(rate(requests_total[5m])) > 0.1',
]  # fmt: skip
TIMES = [samples.BEGIN_MS + minutes * 60_000 for minutes in (0, 1, 17, 45, 59, 62, 66)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rows = samples.rows()
    found = LocalSeries(tmp_path_factory.mktemp("series"), seal_samples=1000)
    for first in range(0, len(rows), 700):
        found.append(samples.table(rows[first : first + 700]))
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "samples.txt").write_text(samples.openmetrics(samples.rows()))
    promtool("tsdb", "create-blocks-from", "openmetrics", folder / "samples.txt", folder / "data")
    with prometheus(folder) as url:
        yield url


def number(text):
    return float(text.replace("Inf", "inf"))


def theirs(answer):
    assert answer["status"] == "success", answer
    data = answer["data"]
    if data["resultType"] == "scalar":
        return {(): number(data["result"][1])}
    return {
        tuple(sorted(item["metric"].items())): number(item["value"][1]) for item in data["result"]
    }


def same(ours, others):
    assert ours.keys() == others.keys()
    for labels, value in ours.items():
        other = others[labels]
        assert (math.isnan(value) and math.isnan(other)) or value == pytest.approx(
            other, rel=1e-9, abs=1e-12
        ), labels


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_results_are_those_of_a_real_prometheus(store, server, text):
    for moment in TIMES:
        ours = parse(text).at(store, moment)
        ours = {(): ours} if isinstance(ours, float) else ours
        same(ours, theirs(ask(server, "query", query=text, time=moment / 1000)))


@pytest.mark.parametrize("text", EXPRESSIONS[10:40:7])
def test_ranges_are_those_of_a_real_prometheus(store, server, text):
    start, end = TIMES[1], TIMES[-1]
    answer = ask(server, "query_range", query=text, start=start / 1000, end=end / 1000, step=77)
    others = {
        tuple(sorted(item["metric"].items())): item["values"] for item in answer["data"]["result"]
    }
    ours = parse(text).over(store, start, end, 77_000)
    assert ours.keys() == others.keys()
    for labels, points in ours.items():
        same({t: v for t, v in points}, {round(t * 1000): number(v) for t, v in others[labels]})


@pytest.mark.parametrize(
    "text",
    [
        'rate({__name__=~"temperature|limit",job="a"}[5m]) + on () limit',
        "requests_total + on (job) limit",
        "limit + on (job) requests_total",
    ],
)  # fmt: skip
def test_what_prometheus_refuses_is_refused(store, server, text):
    assert ask(server, "query", query=text, time=TIMES[3] / 1000)["status"] == "error"
    with pytest.raises(InvalidInputError, match=r"labels|one to one"):
        parse(text).at(store, TIMES[3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk(3, x)", "the aggregation topk is outside of the subset"),
        ("predict_linear(x[5m], 60)", "the function predict_linear is outside"),
        ("rate(x[5m:1m])", "a subquery is outside"),
        ("x @ 5", "the modifier @ is outside"),
        ("x * on (a) group_left y", "group_left or group_right is outside"),
        ("x atan2 y", "the operator atan2 is outside"),
        ("x{", "is no PromQL"),
        ("", "is no PromQL"),
        ("x[5m]", "is a range or a text"),
        ("'x'", "is a range or a text"),
        ("1 > 2", "is no PromQL"),
    ],
)
def test_what_is_outside_of_the_subset_is_refused_by_name(text, message):
    with pytest.raises(InvalidInputError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(" * 100_000 + "1" + ")" * 100_000, "at most 4096 characters, this one has 200001"),
        ("(" * 2047 + "1" + ")" * 2047, "at most 100 levels deep"),
        ("-" * 4095 + "1", None),
        ("x" + "+x" * 2047, "at most 100 levels deep"),
        ("abs(" * 800 + "x" + ")" * 800, "at most 100 levels deep"),
        ("1" + "^1" * 2000, "at most 100 levels deep"),
        ("(" * 4096, "is no PromQL"),
    ],
)
def test_an_expression_can_not_exhaust_the_stack(store, text, message):
    def ask():
        if message is None:
            assert parse(text).at(store, 0) == -1
            return
        with pytest.raises(InvalidInputError, match=message):
            parse(text)

    failures = []
    threading.excepthook, before = failures.append, threading.excepthook
    try:
        thread = threading.Thread(target=ask)  # whose stack may be smaller than the main one's
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
    assert failures == []


def test_too_many_steps_are_refused(store):
    for start, end, step in ((0, 20_000, 1), (0, 10, 0), (10, 0, 1)):
        with pytest.raises(InvalidInputError, match="no steps, or more than 11000"):
            parse("1").over(store, start, end, step)
