"""Runs: parameters, metrics, tags, deletes, search."""

from __future__ import annotations

import math
import time

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType


def run_lifecycle(at):
    experiment = at.experiment("lifecycle")
    with mlflow.start_run(run_name="first", tags={"team": "red"}, description="why") as run:
        mlflow.log_param("depth", 3)
        mlflow.log_params({"rate": 0.1, "kind": "tree"})
        mlflow.log_metric("loss", 0.5, step=1)
        mlflow.log_metrics({"loss": 0.25, "auc": 0.9}, step=2)
        mlflow.set_tags({"stage": "dev", "team": "blue"})
        running = at.client.get_run(run.info.run_id).info
    found = at.client.get_run(run.info.run_id)
    info = found.info
    return {
        "running": [running.status, running.end_time],
        "status": info.status,
        "stage": info.lifecycle_stage,
        "name": info.run_name,
        "user": info.user_id == run.data.tags["mlflow.user"],
        "experiment": info.experiment_id == experiment,
        "id": len(info.run_id),
        "took": 0 <= info.end_time - info.start_time < 60_000,
        "now": abs(info.start_time / 1000 - time.time()) < 60,
        "artifacts": info.artifact_uri.startswith("mlflow-artifacts:/"),
        "params": found.data.params,
        "metrics": found.data.metrics,
        "tags": {k: found.data.tags[k] for k in ("team", "stage", "mlflow.runName")},
        "note": found.data.tags["mlflow.note.content"],
        "source": found.data.tags["mlflow.source.type"],
    }


def run_failed(at):
    at.experiment("failed")
    try:
        with mlflow.start_run() as run:
            raise RuntimeError("broken")
    except RuntimeError:
        pass
    killed = at.client.create_run(run.info.experiment_id, run_name="k", start_time=1_000)
    at.client.set_terminated(killed.info.run_id, "KILLED", end_time=5_000)
    info = at.client.get_run(killed.info.run_id).info
    found = at.client.get_run(run.info.run_id).info
    return {
        "failed": found.status,
        "name": len(found.run_name) > 3,
        "killed": [info.status, info.start_time, info.end_time, info.run_name],
    }


def run_update(at):
    experiment = at.experiment("update")
    run = at.client.create_run(experiment, run_name="before").info.run_id
    at.client.update_run(run, name="after")
    renamed = at.client.get_run(run)
    at.client.update_run(run, status="FINISHED")
    finished = at.client.get_run(run).info
    with mlflow.start_run(run_id=run):  # starts it again
        resumed = at.client.get_run(run).info.status
    at.client.set_tag(run, "mlflow.runName", "by tag")
    return {
        "name": [renamed.info.run_name, renamed.data.tags["mlflow.runName"]],
        "status": [finished.status, resumed, at.client.get_run(run).info.status],
        "by tag": at.client.get_run(run).info.run_name,
    }


def metric_values(at):
    run = at.client.create_run(at.experiment("values")).info.run_id
    given = {"nan": math.nan, "inf": math.inf, "low": -math.inf, "tiny": 5e-324, "big": 1.7e308}
    for key, value in given.items():
        at.client.log_metric(run, key, value)
    at.client.log_metric(run, "steps", 1.0, timestamp=1_700_000_000_123, step=-5)
    at.client.log_metric(run, "steps", 2.0, timestamp=1_700_000_000_124, step=2**40)
    at.client.log_metric(run, "steps", 3.0, timestamp=1_700_000_000_125, step=7)
    at.client.log_metric(run, "a b/c.d-e_f:g", 1)
    found = at.client.get_run(run).data.metrics
    history = at.client.get_metric_history(run, "steps")
    return {
        "nan": math.isnan(found["nan"]),
        "inf": found["inf"] > 1.79e308,  # MLflow's own stores keep the greatest finite number
        "low": found["low"] < -1.79e308,
        "nan again": math.isnan(at.client.get_metric_history(run, "nan")[0].value),
        "exact": [found["tiny"], found["big"]],
        "last": found["steps"],
        "history": sorted([m.step, m.value, m.timestamp] for m in history),
        "named": found["a b/c.d-e_f:g"],
        "unknown": at.client.get_metric_history(run, "nothing"),
    }


def metric_history(at):
    run = at.client.create_run(at.experiment("history")).info.run_id
    for start in range(0, 2500, 500):
        points = [Metric("loss", 1 / (i + 1), 1000 + i, i) for i in range(start, start + 500)]
        at.client.log_batch(run, metrics=points)
    whole = at.client.get_metric_history(run, "loss")
    store, pages, token = at.client._tracking_client.store, [], None
    while True:
        page = store.get_metric_history(run, "loss", max_results=999, page_token=token)
        pages.append(list(page))
        token = page.token
        if not token:
            break
    bulk = at.post("runs/search", {"experiment_ids": [], "max_results": 1})[0]
    return {
        "count": len(whole),
        "steps": [m.step for m in whole] == list(range(2500)),
        "values": [m.value for m in whole] == [1 / (i + 1) for i in range(2500)],
        "pages": [len(page) for page in pages],
        "same": [m.step for page in pages for m in page] == list(range(2500)),
        "bulk": bulk,
        "wrong": at.refused(store.get_metric_history, run, "loss", max_results=-1),
        "no run": at.refused(at.client.get_metric_history, "0" * 32, "loss"),
    }


def batch_limits(at):
    run = at.client.create_run(at.experiment("limits")).info.run_id
    store = at.client._tracking_client.store
    metrics = [Metric(f"m{i}", i, 1, 0) for i in range(1000)]
    params = [Param(f"p{i}", str(i)) for i in range(100)]
    tags = [RunTag(f"t{i}", str(i)) for i in range(100)]
    more = [Metric("more", 1, 1, 0)]
    refused = {
        "metrics": at.refused(store.log_batch, run, [*metrics, *more], [], []),
        "params": at.refused(store.log_batch, run, [], [*params, Param("more", "1")], []),
        "tags": at.refused(store.log_batch, run, [], [], [*tags, RunTag("more", "1")]),
        "all": at.refused(store.log_batch, run, metrics[:900], params, tags),
        "long param": at.refused(store.log_param, run, Param("p", "x" * 6001)),
        "long tag": at.refused(store.set_tag, run, RunTag("t", "x" * 8001)),
        "long name": at.refused(store.log_param, run, Param("x" * 251, "1")),
        "bad name": at.refused(store.log_metric, run, Metric("a*b", 1, 1, 0)),
        "dots": at.refused(store.log_metric, run, Metric("a/../b", 1, 1, 0)),
        "twice": at.refused(store.log_batch, run, [], [Param("a", "1"), Param("a", "2")], []),
    }
    empty = at.client.get_run(run).data
    store.log_batch(run, metrics[:800], params, tags)
    store.log_batch(run, metrics[800:], [], [])
    store.log_param(run, Param("long", "x" * 6000))
    store.set_tag(run, RunTag("long", "ü" * 5000))
    found = at.client.get_run(run).data
    return {
        "refused": refused,
        "nothing": [len(empty.metrics), len(empty.params), sorted(empty.tags)],
        "counts": [len(found.metrics), len(found.params), len(found.tags)],
        "long": [found.params["long"] == "x" * 6000, found.tags["long"] == "ü" * 5000],
    }


def param_conflict(at):
    run = at.client.create_run(at.experiment("params")).info.run_id
    at.client.log_param(run, "depth", 3)
    at.client.log_param(run, "depth", 3)
    at.client.log_param(run, "empty", "")
    mixed = [Param("other", "1"), Param("depth", "4")]
    store = at.client._tracking_client.store
    return {
        "again": at.refused(at.client.log_param, run, "depth", 4),
        "batch": at.refused(store.log_batch, run, [Metric("m", 1, 1, 0)], mixed, []),
        "kept": at.client.get_run(run).data.params,
        "metrics": at.client.get_run(run).data.metrics,
    }


def run_tags(at):
    run = at.client.create_run(at.experiment("tags"), tags={"a": "1"}).info.run_id
    at.client.set_tag(run, "b", "größer")
    at.client.set_tag(run, "c", 5)
    at.client.delete_tag(run, "a")
    found = at.client.get_run(run).data.tags
    return {
        "kept": {key: value for key, value in found.items() if not key.startswith("mlflow.")},
        "missing": at.refused(at.client.delete_tag, run, "a"),
    }


def run_delete(at):
    experiment = at.experiment("delete")
    kept = at.client.create_run(experiment).info.run_id
    gone = at.client.create_run(experiment).info.run_id
    at.client.log_metric(gone, "m", 1)
    at.client.delete_run(gone)

    def listed(view):
        return sorted(r.info.run_id for r in at.client.search_runs([experiment], "", view))

    views = [listed(v) for v in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY, ViewType.ALL)]
    deleted = at.client.get_run(gone)
    refused = {
        "log": at.refused(at.client.log_metric, gone, "m", 2),
        "param": at.refused(at.client.log_param, gone, "p", 2),
        "tag": at.refused(at.client.set_tag, gone, "t", 2),
        "again": at.refused(at.client.delete_run, gone),
        "restore": at.refused(at.client.restore_run, kept),
        "unknown": at.refused(at.client.delete_run, "0" * 32),
    }
    at.client.restore_run(gone)
    at.client.log_metric(gone, "m", 3)
    return {
        "views": [view == want for view, want in zip(views, ([kept], [gone], sorted([kept, gone])))],
        "stage": deleted.info.lifecycle_stage,
        "metrics": deleted.data.metrics,
        "refused": refused,
        "restored": [listed(ViewType.ACTIVE_ONLY) == sorted([kept, gone]),
                     at.client.get_run(gone).data.metrics],
    }  # fmt: skip


def nested_runs(at):
    experiment = at.experiment("nested")
    with mlflow.start_run(run_name="parent") as parent:
        for number in range(2):
            with mlflow.start_run(run_name=f"child {number}", nested=True):
                mlflow.log_metric("m", number)
    mine = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    children = at.client.search_runs([experiment], mine, order_by=["attributes.run_name DESC"])
    return {
        "children": [run.info.run_name for run in children],
        "parent": at.client.get_parent_run(children[0].info.run_id).info.run_name,
        "none": at.client.get_parent_run(parent.info.run_id),
    }


def run_errors(at):
    missing = "0" * 32
    return {
        "get": at.refused(at.client.get_run, missing),
        "log": at.refused(at.client.log_metric, missing, "m", 1),
        "experiment": at.refused(at.client.create_run, "123456789"),
        "status": at.post("runs/get?run_id=" + missing, None, "GET"),
        "no id": at.post("runs/get", None, "GET"),
        "no key": at.post("runs/log-metric", {"run_id": missing, "value": 1, "timestamp": 1}),
        "text": at.post("runs/log-metric", {"run_id": missing, "key": "k", "value": "x",
                                            "timestamp": 1}),
        "type": at.post("runs/log-metric", {"run_id": 7, "key": "k", "value": 1, "timestamp": 1}),
        "no json": at.post("runs/log-metric", b"{broken"),
        "list": at.post("runs/log-batch", {"run_id": missing, "metrics": {"a": 1}}),
    }  # fmt: skip
