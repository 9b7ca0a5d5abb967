"""Everything that the command line does, over HTTP, on a running project."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx
import pyarrow as pa
import pytest

import madang
from madang.server.wire import ARROW


def ok(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def error(answer, status, name):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error", "message"}
    assert found["error"] == name
    return found["message"]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)
    return found


def newest(served, kind):
    return ok(served.viewer.get("/ledger", params={"kind": kind, "limit": 1}))[0]


# -- project ---------------------------------------------------------------------------------------


def test_healthz_needs_no_token(served):
    assert ok(httpx.get(f"{served.url}/healthz")) == {"status": "ok"}


def test_version_and_me(served):
    assert ok(served.viewer.get("/version"))["madang"] == madang.__version__
    assert ok(served.viewer.get("/version"))["project"] == "served"
    assert ok(served.operator.get("/me")) == {"name": "operator", "roles": ["operator"]}


def test_doctor_shows_every_box(served):
    boxes = ok(served.viewer.get("/doctor"))
    assert [box["box"] for box in boxes] == ["metadata", *madang.stack.COMPONENTS.values()]
    assert all(box["ok"] for box in boxes), boxes


def test_code(served):
    assert set(ok(served.viewer.get("/code"))) >= {"commit", "branch", "dirty", "diff", "tree"}


# -- data ------------------------------------------------------------------------------------------


def test_a_dataset_is_written_read_and_listed(served):
    rows = [{"a": 1, "b": "x", "when": None}, {"a": 2, "b": "ü", "when": "2026-01-01"}]
    assert ok(served.engineer.post("/datasets/plain", json=rows)) == {"version": 0}
    line = newest(served, "dataset.write")
    assert (line["actor"], line["subject"]) == ("user:engineer", "dataset:plain")
    assert ok(served.viewer.get("/datasets/plain")) == rows
    assert "plain" in ok(served.viewer.get("/datasets"))
    assert ok(served.viewer.get("/datasets/plain?limit=1")) == rows[:1]
    answer = served.engineer.post("/datasets/plain?mode=overwrite", json=[{"c": 1.5}])
    assert ok(answer) == {"version": 1}
    assert ok(served.viewer.get("/datasets/plain")) == [{"c": 1.5}]
    assert ok(served.viewer.get("/datasets/plain?version=0")) == rows
    versions = ok(served.viewer.get("/datasets/plain/versions"))
    assert [v["version"] for v in versions] == [0, 1]
    at = versions[0]["timestamp"]
    assert ok(served.viewer.get("/datasets/plain", params={"at": at})) == rows


def test_a_dataset_in_arrow_both_ways(served):
    table = pa.table({"n": range(5000), "d": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 5000)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    answer = served.engineer.post(
        "/datasets/arrow", content=sink.getvalue().to_pybytes(), headers={"Content-Type": ARROW}
    )
    assert ok(answer) == {"version": 0}
    answer = served.viewer.get("/datasets/arrow?limit=100000", headers={"Accept": ARROW})
    assert answer.headers["content-type"] == ARROW
    found = pa.ipc.open_stream(answer.content).read_all()
    assert found["n"].to_pylist() == list(range(5000))
    assert found["d"].to_pylist() == table["d"].to_pylist()
    answer = served.viewer.get("/datasets/arrow?limit=3", headers={"Accept": ARROW})
    assert pa.ipc.open_stream(answer.content).read_all().num_rows == 3


def test_query(served):
    served.engineer.post("/datasets/q", json=[{"x": 1}, {"x": 2}, {"x": 3}])
    body = {"sql": "SELECT sum(x) AS s FROM q WHERE x > ?", "parameters": [1]}
    assert ok(served.viewer.post("/query", json=body)) == [{"s": 5}]
    served.engineer.post("/datasets/q", json=[{"x": 100}])
    body = {"sql": "SELECT sum(x) AS s FROM q", "versions": {"q": 0}}
    assert ok(served.viewer.post("/query", json=body)) == [{"s": 6}]
    error(served.viewer.post("/query", json={"sql": "SELECT nothing FROM q"}), 422, "InvalidInputError")  # fmt: skip
    error(served.viewer.post("/query", json={"sql": "SELECT 1 FROM no_such"}), 404, "NotFoundError")
    for hostile in (
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY q TO '/tmp/stolen.csv'",
        "DROP TABLE q",
        "SELECT 1; SELECT 2",
        "ATTACH '/tmp/x.db'",
        "INSTALL httpfs",
    ):
        answer = served.viewer.post("/query", json={"sql": hostile})
        assert 400 <= answer.status_code < 500, (hostile, answer.text)


def test_a_contract_is_proposed_and_checked(served):
    rows = [{"n": 1, "word": "a"}, {"n": 2, "word": "b"}]
    served.engineer.post("/datasets/inferred", json=rows)
    missing = error(served.viewer.post("/datasets/inferred/validate"), 404, "NotFoundError")
    assert "inferred" in missing
    made = ok(served.engineer.post("/datasets/inferred/contract"), 201)
    assert made["path"] == "contracts/inferred.yaml"
    assert (served.stack.root / made["path"]).read_text() == made["yaml"]
    report = ok(served.viewer.post("/datasets/inferred/validate"))
    assert report["rows"] == 2
    assert ok(served.viewer.get("/datasets/inferred/validation")) == report
    assert report["contract"].startswith("contract:inferred@1#")
    [line] = served.stack.context.ledger.lines(kind="dataset.validate")
    assert line.actor.startswith("user:")
    served.engineer.post("/datasets/inferred", json=rows)
    error(served.viewer.get("/datasets/inferred/validation"), 404, "NotFoundError")
    assert ok(served.viewer.get("/datasets/inferred/validation?version=0")) == report
    found = ok(served.viewer.get("/datasets/inferred/diff?old=0&new=1"))
    assert (found["breaking"], found["statistics"]["n"]["rows"]) == (False, [2, 4])
    error(served.viewer.get("/datasets/inferred/diff?old=0&new=9"), 404, "NotFoundError")
    error(served.engineer.post("/datasets/inferred/contract"), 409, "AlreadyExistsError")


def test_datasets_are_changed(served):
    url = "/datasets/changed"
    rows = [{"k": 1, "v": "a"}, {"k": 2, "v": "b"}]
    ok(served.engineer.post(f"{url}?partition_by=v", json=rows))
    merged = served.engineer.post(
        f"{url}/merge?on=k", json=[{"k": 2, "v": "c"}, {"k": 3, "v": "d"}]
    )
    assert ok(merged) == {"version": 1}
    assert ok(served.engineer.post(f"{url}/delete", json={"where": "k = 1"})) == {"version": 2}
    body = {"columns": {"note": "string"}}
    assert ok(served.engineer.post(f"{url}/evolve", json=body)) == {"version": 3}
    assert newest(served, "dataset.write")["actor"] == "user:engineer"
    assert ok(served.engineer.post(f"{url}/compact")) == {"version": 3}
    found = ok(served.viewer.get(url))
    assert sorted((row["k"], row["v"], row["note"]) for row in found) == [
        (2, "c", None), (3, "d", None),
    ]  # fmt: skip
    error(served.engineer.post(f"{url}/delete", json={"where": "no"}), 422, "InvalidInputError")
    narrow = {"columns": {"k": "int8"}}
    error(served.engineer.post(f"{url}/evolve", json=narrow), 422, "SchemaMismatchError")


def test_tags_and_retention(served):
    url = "/datasets/tagged"
    for number in range(3):
        ok(served.engineer.post(f"{url}?mode=overwrite", json=[{"x": number}]))
    ok(served.engineer.put(f"{url}/tags/first?version=0"), 204)
    error(served.engineer.put(f"{url}/tags/first?version=1"), 409, "AlreadyExistsError")
    assert ok(served.viewer.get(f"{url}/tags")) == {"first": 0}
    body = {"keep_seconds": 0, "grace_seconds": 0}
    planned = ok(served.engineer.post(f"{url}/retain", json={**body, "dry_run": True}))
    assert (planned["dropped"], planned["kept"], planned["files"]) == ([1], [0], 1)
    assert ok(served.engineer.post(f"{url}/retain", json=body)) == planned
    assert newest(served, "dataset.retain")["actor"] == "user:engineer"
    error(served.viewer.get(f"{url}?version=1"), 404, "NotFoundError")
    assert ok(served.viewer.get(f"{url}?version=0")) == [{"x": 0}]
    ok(served.engineer.delete(f"{url}/tags/first"), 204)
    assert ok(served.viewer.get(f"{url}/tags")) == {}
    for path, method in ((f"{url}/retain", "POST"), (f"{url}/tags/x?version=0", "PUT")):
        error(served.viewer.request(method, path, json=body), 403, "PermissionDeniedError")


def test_objects_are_searched(served):
    served.stack.storage.put("pic/1", b"x", content_type="image/png", metadata={"label": "cat"})
    served.stack.storage.put("pic/2", b"y")
    found = ok(served.viewer.get("/objects", params={"prefix": "pic/", "where": "metadata['label'] = 'cat'"}))  # fmt: skip
    assert [(o["key"], o["content_type"], o["metadata"]) for o in found] == [
        ("pic/1", "image/png", {"label": "cat"})
    ]
    assert len(ok(served.viewer.get("/objects?prefix=pic/&limit=1"))) == 1
    error(served.viewer.get("/objects?where=no"), 422, "InvalidInputError")


def test_topic_to_dataset(served):
    made = ok(served.engineer.post("/topics", json={"name": "trips", "partitions": 2}), 201)
    assert made.pop("settings")["retention_seconds"] is None
    assert made.pop("id")
    assert made == {
        "name": "trips", "partitions": 2, "first_offsets": [0, 0], "next_offsets": [0, 0],
    }  # fmt: skip
    assert newest(served, "topic.create")["actor"] == "user:engineer"
    error(served.engineer.post("/topics", json={"name": "trips"}), 409, "AlreadyExistsError")
    sent = [
        {"value": {"id": 1, "minutes": 5.0}, "key": "a"},
        {"value": {"id": 2, "minutes": 500.0}, "key": "a", "timestamp": "2026-01-01T00:00:00Z"},
        {"base64": "bm90IGpzb24=", "key": "a"},
    ]
    (offsets,) = ok(served.engineer.post("/topics/trips/events", json=sent), 201).values()
    assert offsets == [0, 2]
    assert ok(served.engineer.post("/topics/trips/events", json=[]), 201) == {}
    partition = next(
        i for i in (0, 1)
        if ok(served.viewer.get("/topics/trips/events", params={"partition": i}))
    )  # fmt: skip
    found = ok(served.viewer.get("/topics/trips/events", params={"partition": partition, "offset": 1}))  # fmt: skip
    assert [event["offset"] for event in found] == [1, 2]
    assert found[0]["timestamp"].startswith("2026-01-01T00:00:00")
    assert found[1]["value"] == "not json"
    done = ok(served.engineer.post("/ingest", json={"topic": "trips"}))
    assert (done["events"], done["valid"], done["quarantined"]) == (3, 1, 2)
    assert ok(served.viewer.get("/datasets/trips")) == [{"id": 1, "minutes": 5.0}]
    assert len(ok(served.viewer.get("/datasets/trips_quarantine"))) == 2
    origin = ok(served.viewer.get("/ledger/origin", params={"ref": "dataset:trips@0"}))
    assert any(ref.startswith("topic:trips/") for line in origin for ref in line["inputs"]), origin
    assert ok(served.engineer.post("/ingest", json={"topic": "trips"}))["events"] == 0
    assert "trips" in [t["name"] for t in ok(served.viewer.get("/topics"))]
    ok(served.engineer.delete("/topics/trips"), 204)
    error(served.viewer.get("/topics/trips/events"), 404, "NotFoundError")


def test_ingest_without_a_contract_or_topic_says_so(served):
    ok(served.engineer.post("/topics", json={"name": "bare"}), 201)
    assert "contracts/bare.yaml" in error(served.engineer.post("/ingest", json={"topic": "bare"}), 404, "NotFoundError")  # fmt: skip
    body = {"topic": "nowhere", "dataset": "trips"}
    assert "nowhere" in error(served.engineer.post("/ingest", json=body), 404, "NotFoundError")


def test_sources_are_ingested_by_name_and_never_by_url(served):
    for field in ("topic", "source"):
        body = {field: "file:////etc/*", "dataset": "trips"}
        said = error(served.engineer.post("/ingest", json=body), 422, "InvalidInputError")
        assert "a URL can't be ingested through the API; write it under [sources]" in said
    for body in ({}, {"topic": "a", "source": "b"}):
        assert "one of them" in error(served.engineer.post("/ingest", json=body), 422, "InvalidInputError")  # fmt: skip
    body = {"source": "nowhere", "dataset": "trips"}
    assert "nowhere" in error(served.engineer.post("/ingest", json=body), 404, "NotFoundError")


def test_ingestions_are_listed(served):
    ok(served.engineer.post("/topics", json={"name": "listed"}), 201)
    ok(served.engineer.post("/topics/listed/events", json=[{"value": {"id": 1, "minutes": 5.0}}]), 201)  # fmt: skip
    ok(served.engineer.post("/ingest", json={"topic": "listed", "dataset": "trips"}))
    found = ok(served.viewer.get("/ingestions"))
    one = next(i for i in found if i["source"] == "topic:listed")
    assert (one["dataset"], one["lag"], one["error"]) == ("trips", 0, "")
    assert one["parts"][0]["position"] == 1
    assert one["age_seconds"] >= 0


def test_features_are_materialized_and_read(served):
    served.engineer.post("/datasets/rides", json=[{"id": 1, "minutes": 5.0}, {"id": 2, "minutes": 7.5}])  # fmt: skip
    assert list(ok(served.engineer.post("/features"))) == ["minutes"]
    views = ok(served.viewer.get("/features"))
    assert [view["name"] for view in views] == ["minutes"]
    done = ok(served.engineer.post("/features/minutes/materialize"))
    assert done == {"rows": 2, "mode": "full", "reason": "nothing was online"}
    assert newest(served, "view.materialize")["actor"] == "user:engineer"
    assert ok(served.viewer.get("/features", params={"search": "MINUTES rides"})) == views
    assert ok(served.viewer.get("/features", params={"owner": "nobody"})) == []
    known = ok(served.viewer.get("/features/minutes"))
    assert (known["sources"], known["materialized"]["entities"]) == (["dataset:rides"], 2)
    error(served.viewer.get("/features/no_such"), 404, "NotFoundError")
    body = {"views": ["minutes"], "entities": [{"id": 2}, {"id": 9}]}
    known, unknown = ok(served.viewer.post("/features/read", json=body))
    assert known["values"] == {"minutes": 7.5}
    assert unknown["values"] == {"minutes": None}
    body = {"views": ["no_such"], "entities": [{"id": 2}]}
    error(served.viewer.post("/features/read", json=body), 404, "NotFoundError")
    error(served.engineer.post("/features/no_such/materialize"), 404, "NotFoundError")


def test_objects_are_listed(served):
    served.stack.storage.put("some/object.txt", b"hello")
    (found,) = ok(served.viewer.get("/objects?prefix=some/"))
    assert (found["key"], found["size_bytes"]) == ("some/object.txt", 5)


# -- workflow --------------------------------------------------------------------------------------


def ended(served, run_id):
    found = ok(served.viewer.get(f"/runs/{run_id}"))
    return found if found["status"] not in ("RUNNING", "PENDING") else None


def test_a_run_is_started_followed_and_its_results_read(served):
    body = {"pipeline": "flow", "params": {"x": 21}, "reason": "a test"}
    started = ok(served.engineer.post("/runs", json=body), 202)
    run = until(lambda: ended(served, started["id"]))
    assert run["status"] == "SUCCEEDED"
    assert (run["actor"], run["reason"], run["params"]) == ("user:engineer", "a test", {"x": 21})
    assert [step["name"] for step in run["steps"]] == ["double", "table"]
    assert "inline" not in run["results"]["doubled"]
    answer = served.viewer.get(f"/runs/{run['id']}/results/doubled")
    assert answer.json() == 42
    assert answer.headers["etag"] == f'"{run["results"]["doubled"]["digest"]}"'
    answer = served.viewer.get(f"/runs/{run['id']}/results/rows")
    assert pa.ipc.open_file(answer.content).read_all().to_pylist() == [{"x": 42}]
    missing = error(served.viewer.get(f"/runs/{run['id']}/results/no"), 404, "NotFoundError")
    assert "it has: doubled, rows" in missing
    assert run["id"] in [r["id"] for r in ok(served.viewer.get("/runs?pipeline=flow"))]
    assert newest(served, "pipeline.start")["actor"] == "user:engineer"


def test_a_failed_run_is_resumed(served):
    started = ok(served.engineer.post("/runs", json={"pipeline": "fragile"}), 202)
    run = until(lambda: ended(served, started["id"]))
    assert run["status"] == "FAILED"
    assert "FileNotFoundError" in run["steps"][0]["error"]
    (served.stack.root / "pipelines" / "there").write_text("now it is")
    resumed = ok(served.engineer.post(f"/runs/{run['id']}/resume"), 202)
    assert resumed["id"] == run["id"]
    until(lambda: (ended(served, run["id"]) or {}).get("status") == "SUCCEEDED")
    assert served.viewer.get(f"/runs/{run['id']}/results/result").text == "now it is"
    assert ok(served.engineer.post(f"/runs/{run['id']}/resume"), 202)["status"] == "SUCCEEDED"


def test_a_run_that_can_not_start_says_why(served):
    def refused(**body):
        return error(served.engineer.post("/runs", json=body), 422, "InvalidInputError")

    assert "there is no pipeline 'none'" in refused(pipeline="none")
    assert "has no parameter y" in refused(pipeline="flow", params={"y": 1})
    assert "Expected `int`" in refused(pipeline="flow", params={"x": "many"})
    # Neither options of the command line nor bytes that no process can take get through.
    assert "there is no pipeline '--help'" in refused(pipeline="--help")
    assert "null byte" in refused(pipeline="flow", reason="a\0b")
    assert "can't be started" in refused(pipeline="flow", params={"x": "9" * 3_000_000})
    error(served.viewer.get("/runs/0123"), 404, "NotFoundError")
    error(served.engineer.post("/runs/0123/resume"), 404, "NotFoundError")


def test_a_run_that_still_runs_is_not_resumed(served):
    started = ok(served.engineer.post("/runs", json={"pipeline": "long"}), 202)
    until((served.stack.root / "pipelines" / "slow.started").exists)
    answer = served.engineer.post(f"/runs/{started['id']}/resume")
    assert "is still running" in error(answer, 422, "InvalidInputError")
    # The run goes on until the server stops; the supervisor's test looks at its end.


# -- development and deployment --------------------------------------------------------------------


def test_experiments_runs_are_read(served):
    run = served.stack.experiments.start_run("exp", params={"a": 1})
    served.stack.experiments.log(run.id, metrics={"loss": 0.5})
    served.stack.experiments.log(run.id, metrics={"loss": float("nan")})
    served.stack.experiments.log_artifact(run.id, "notes/a.html", b"<script>")
    served.stack.experiments.end_run(run.id)
    (found,) = ok(served.viewer.get("/experiments/runs?experiment=exp"))
    assert found["id"] == run.id
    assert ok(served.viewer.get(f"/experiments/runs/{run.id}"))["params"] == {"a": "1"}
    history = ok(served.viewer.get(f"/experiments/runs/{run.id}/metrics/loss"))
    assert [m["value"] for m in history] in ([0.5, None], [0.5, "NaN"])
    assert ok(served.viewer.get(f"/experiments/runs/{run.id}/artifacts")) == ["notes/a.html"]
    answer = served.viewer.get(f"/experiments/runs/{run.id}/artifacts/notes/a.html")
    assert answer.content == b"<script>"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"
    error(served.viewer.get("/experiments/runs/nothing"), 404, "NotFoundError")


def test_models_and_aliases(served):
    assert "sums" in ok(served.viewer.get("/models"))
    assert [v["version"] for v in ok(served.viewer.get("/models/sums"))] == [1, 2]
    assert ok(served.viewer.get("/models/sums/2"))["format"] == "skops"
    ok(served.operator.put("/models/sums/aliases/champion", json={"version": 1}), 204)
    assert newest(served, "model.alias")["actor"] == "user:operator"
    assert ok(served.viewer.get("/models/sums/champion"))["version"] == 1
    answer = served.engineer.put("/models/sums/aliases/champion", json={"version": 2})
    error(answer, 403, "PermissionDeniedError")
    ok(served.operator.delete("/models/sums/aliases/champion"), 204)
    error(served.viewer.get("/models/sums/champion"), 404, "NotFoundError")
    answer = served.operator.put("/models/sums/aliases/champion", json={"version": 99})
    error(answer, 404, "NotFoundError")


def test_an_endpoint_is_deployed_asked_and_removed(served):
    body = {"arms": [{"model": "sums", "version": 2}]}
    made = ok(served.operator.put("/endpoints/adder", json=body))
    assert made["name"] == "adder"
    assert newest(served, "endpoint.deploy")["actor"] == "user:operator"
    answer = ok(served.viewer.post("/endpoints/adder/predict", json={"inputs": {"input": [[1, 2, 3]]}}))  # fmt: skip
    assert answer["predict"] == pytest.approx([12.0])
    listed = ok(served.viewer.get("/endpoints"))
    assert "adder" in [e["name"] for e in listed["endpoints"]]
    assert ok(served.viewer.get("/endpoints/adder"))["revision"] == made["revision"]
    # The inference worker answers the same user by itself.
    request = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}  # fmt: skip
    url, token = f"{listed['url']}/v2/models/adder/infer", served.tokens["viewer"]
    headers = {"Authorization": f"Bearer {token}"}
    until(lambda: httpx.post(url, json=request, headers=headers).status_code == 200)
    assert httpx.post(url, json=request).status_code == 401
    for inputs in ({}, {"input": []}, {"input": [["a", "b", "c"]]}, {"other": [[1, 2, 3]]}):
        answer = served.viewer.post("/endpoints/adder/predict", json={"inputs": inputs})
        error(answer, 422, answer.json()["error"])
    ok(served.operator.delete("/endpoints/adder"), 204)
    error(served.viewer.get("/endpoints/adder"), 404, "NotFoundError")
    body = {"inputs": {"input": [[1, 2, 3]]}}
    error(served.viewer.post("/endpoints/adder/predict", json=body), 404, "NotFoundError")
    answer = served.operator.put("/endpoints/x", json={"arms": [{"model": "no", "version": 1}]})
    error(answer, 404, "NotFoundError")


def test_an_endpoint_may_be_a_graph(served):
    graph = {"ensemble": ["sums@1", "sums@2"], "weights": [1, 1]}
    body = {"arms": [{"model": "pair", "version": 3, "graph": graph}], "log": False}
    made = ok(served.operator.put("/endpoints/pair", json=body))
    assert made["arms"][0]["graph"]["combine"] == "mean"
    assert ok(served.viewer.get("/endpoints/pair")) == made
    answer = ok(served.viewer.post("/endpoints/pair/predict", json={"inputs": {"input": [[1, 2, 3]]}}))  # fmt: skip
    assert answer["predict"] == pytest.approx([9.0])
    for wrong in ({"ensemble": ["sums@1"]}, {"chain": []}, {"loop": "sums@1"}):
        body["arms"][0]["graph"] = wrong
        answer = served.operator.put("/endpoints/pair", json=body)
        error(answer, 422, answer.json()["error"])
    body["arms"][0]["graph"] = {"chain": ["sums@1", "sums@2"]}
    answer = served.operator.put("/endpoints/pair", json=body)
    assert "does not fit what sums@1 gives" in answer.json()["message"]
    ok(served.operator.delete("/endpoints/pair"), 204)


# -- platform and security -------------------------------------------------------------------------


def test_configuration(served):
    made = ok(served.engineer.put("/configuration/a/rate", json={"value": 5}))
    assert (made["key"], made["value"]) == ("a/rate", 5)
    assert ok(served.viewer.get("/configuration/a/rate"))["value"] == 5
    assert [s["key"] for s in ok(served.viewer.get("/configuration?prefix=a/"))] == ["a/rate"]
    body = {"value": 6, "expected_version": made["version"]}
    changed = ok(served.engineer.put("/configuration/a/rate", json=body))
    error(served.engineer.put("/configuration/a/rate", json=body), 409, "ConflictError")
    old = served.viewer.get("/configuration/a/rate", params={"version": made["version"]})
    assert ok(old)["value"] == 5
    assert changed["version"] > made["version"]
    ok(served.engineer.delete("/configuration/a/rate"), 204)
    error(served.viewer.get("/configuration/a/rate"), 404, "NotFoundError")
    assert newest(served, "configuration.*")["actor"] == "user:engineer"


def test_logs_are_searched(served):
    import logging

    from madang.platform.logs import bound, handler

    logger = logging.getLogger("test.api")
    logs = handler(served.stack.logs)
    logger.addHandler(logs)
    try:
        with bound(run="abc", step="one"):
            logger.warning("the quick brown fox")
    finally:
        logger.removeHandler(logs)
        logs.close()
    (found,) = until(lambda: ok(served.viewer.get("/logs", params={"text": "brown", "run": "abc"})))
    assert "quick brown fox" in found["message"]
    assert ok(served.viewer.get("/logs", params={"text": "brown", "run": "other"})) == []


def test_secrets_are_set_listed_deleted_and_never_shown(served):
    value = "correct-horse-battery-staple"
    made = served.operator.put("/secrets/db", json={"value": value})
    assert ok(made)["name"] == "db"
    listed = served.viewer.get("/secrets")
    assert "db" in [s["name"] for s in ok(listed)]
    for answer in (made, listed, served.admin.get("/ledger?limit=1000"), served.admin.get("/logs?limit=1000")):  # fmt: skip
        assert value not in answer.text
    assert served.admin.get("/secrets/db").status_code == 405  # there is no way to read one
    assert served.stack.secrets.get("db") == value
    assert newest(served, "secret.set")["actor"] == "user:operator"
    ok(served.operator.delete("/secrets/db"), 204)
    assert "db" not in [s["name"] for s in ok(served.viewer.get("/secrets"))]
    error(served.engineer.put("/secrets/db", json={"value": "x"}), 403, "PermissionDeniedError")


def test_users_and_tokens(served):
    body = {"name": "ann", "roles": ["viewer"], "password": "long enough for a test"}
    made = served.admin.post("/users", json=body)
    assert ok(made, 201)["name"] == "ann"
    assert "password" not in made.text
    error(served.admin.post("/users", json=body), 409, "AlreadyExistsError")
    new = ok(served.admin.post("/users/ann/tokens", json={"label": "laptop"}), 201)
    header = {"Authorization": f"Bearer {new['token']}"}
    url = f"{served.url}/api/v1/me"
    assert ok(httpx.get(url, headers=header)) == {"name": "ann", "roles": ["viewer"]}
    listed = served.admin.get("/tokens?user=ann")
    assert [t["id"] for t in ok(listed)] == [new["id"]]
    assert new["token"] not in listed.text
    ok(served.admin.put("/users/ann/roles", json={"roles": ["engineer"]}))
    assert ok(httpx.get(url, headers=header))["roles"] == ["engineer"]
    ok(served.admin.delete(f"/tokens/{new['id']}"), 204)
    error(httpx.get(url, headers=header), 401, "AuthenticationError")
    ok(served.admin.delete("/users/ann"), 204)
    assert [u["active"] for u in ok(served.admin.get("/users")) if u["name"] == "ann"] == [False]
    error(served.admin.post("/users/ann/tokens", json={}), 404, "NotFoundError")
    error(served.admin.post("/users", json={"name": "x", "roles": ["king"]}), 422, "InvalidInputError")  # fmt: skip
    assert newest(served, "user.*")["actor"] == "user:admin"


def test_the_ledger_is_whole(served):
    found = ok(served.viewer.get("/ledger/verify"))
    assert found["ok"], found
    assert found["lines"] > 10
    lines = ok(served.viewer.get("/ledger", params={"actor": "user:engineer", "limit": 5}))
    assert len(lines) == 5
    assert {line["actor"] for line in lines} == {"user:engineer"}
    missing = served.viewer.get("/ledger/origin", params={"ref": "dataset:never@0"})
    assert "'dataset:never@0'" in error(missing, 404, "NotFoundError")


def test_a_request_is_in_the_logs_by_its_id(served):
    answer = served.viewer.get("/topics")
    refused = served.viewer.get("/topics", headers={"Authorization": "Bearer wrong"})
    for response, status, user in ((answer, 200, "viewer"), (refused, 401, None)):
        fields = {"request": response.headers["X-Request-Id"]}
        deadline = time.monotonic() + 30
        while not (found := served.stack.logs.search(fields=fields)):
            assert time.monotonic() < deadline, "the record did not come"
            time.sleep(0.02)
        assert [r.message for r in found] == [f"GET /api/v1/topics {status}"]
        assert found[0].fields.get("user") == user
        found = served.viewer.get("/logs", params={"request_id": fields["request"]}).json()
        assert [r["message"] for r in found] == [f"GET /api/v1/topics {status}"]


def test_experiments_are_listed_deleted_and_restored(served):
    run = served.stack.experiments.start_run("api-experiment")
    (found,) = ok(served.viewer.get("/experiments", params={"filter": "name = 'api-experiment'"}))
    assert (found["name"], found["lifecycle"]) == ("api-experiment", "active")
    path = f"/experiments/{found['id']}"
    assert served.viewer.delete(path).status_code == 403
    assert served.engineer.delete(path).status_code == 204
    deleted = ok(served.viewer.get("/experiments", params={"deleted": True}))
    assert found["id"] in [one["id"] for one in deleted]
    assert served.engineer.post(f"{path}/restore").status_code == 204
    assert served.stack.experiments.get_run(run.id).lifecycle == "active"
    assert served.viewer.get("/experiments", params={"filter": "nope = 1"}).status_code == 422


def test_a_version_with_everything_around_it(served):
    found = ok(served.viewer.get("/models/sums/1/details"))
    assert found["version"]["name"] == "sums"
    assert "numpy" in found["requirements"]
    assert served.viewer.get("/models/nothing/1/details").status_code == 404
