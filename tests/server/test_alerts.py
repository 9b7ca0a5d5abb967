from __future__ import annotations

import math
import time

from tests.servers.prometheus import ask, prometheus, promtool

from madang.deployment.monitoring.alerts import parse_rules
from madang.deployment.monitoring.alerts.export import write_prometheus
from madang.deployment.monitoring.alerts.watch import series_of
from madang.testing.series import samples

RULE = "{groups: [{name: g, rules: [{alert: Up, expr: up == 1}]}]}"


def test_queries_answer_as_prometheus_does(served):
    series_of(served.stack).append(samples(
        ("queue", {"a": "1"}, 1000, math.inf), ("queue", {"a": "1"}, 2000, 2.5),
    ))  # fmt: skip
    found = served.viewer.get("/prometheus/api/v1/query", params={"query": "queue", "time": 1})
    assert found.json() == {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [{"metric": {"__name__": "queue", "a": "1"}, "value": [1.0, "+Inf"]}],
        },
    }
    found = served.viewer.get("/prometheus/api/v1/query", params={"query": "1+1", "time": 1}).json()
    assert found["data"] == {"resultType": "scalar", "result": [1.0, "2.0"]}
    times = {"query": "queue + 1", "start": 1, "end": 3, "step": 1}
    found = served.viewer.get("/prometheus/api/v1/query_range", params=times).json()
    assert found["data"]["result"] == [
        {"metric": {"a": "1"}, "values": [[1.0, "+Inf"], [2.0, "3.5"], [3.0, "3.5"]]}
    ]
    for wrong in ({"query": "topk(1, x)"}, {"query": "x", "time": "nan"}, {}):
        assert served.viewer.get("/prometheus/api/v1/query", params=wrong).status_code == 422
    wrong = times | {"step": 0}
    assert served.viewer.get("/prometheus/api/v1/query_range", params=wrong).status_code == 422


def test_silences_are_an_operators(served):
    body = {"labels": {"a": "b"}, "seconds": 60, "comment": "a move"}
    assert served.engineer.post("/silences", json=body).status_code == 403
    made = served.operator.post("/silences", json=body)
    assert made.status_code == 201
    assert made.json()["by"] == "user:operator"
    assert made.json() in served.viewer.get("/silences").json()
    assert served.operator.delete(f"/silences/{made.json()['id']}").status_code == 204
    assert made.json()["id"] not in [s["id"] for s in served.viewer.get("/silences").json()]
    assert served.viewer.get("/alerts", params={"state": "x"}).status_code == 422
    assert served.viewer.get("/alerts").status_code == 200


def test_a_real_prometheus_scrapes_both_processes_and_fires(served, tmp_path):
    write_prometheus(
        tmp_path, parse_rules(RULE, "t"), control_url=served.url,
        inference_url=served.stack.serving.url(),
    )  # fmt: skip
    (tmp_path / "token").write_text(served.tokens["viewer"])
    promtool("check", "config", tmp_path / "prometheus.yml")
    text = (tmp_path / "prometheus.yml").read_text().replace("15s", "1s")
    with prometheus(tmp_path, text) as url:
        while True:
            (found,) = [ask(url, "alerts")["data"]["alerts"]]
            if {a["labels"]["job"] for a in found if a["state"] == "firing"} == {
                "control", "inference",
            }:  # fmt: skip
                break
            time.sleep(0.1)
        found = ask(url, "query", query="madang_workers or process_resident_memory_bytes")
        assert len(found["data"]["result"]) == 2
