"""Search: filters, order, pages, and the table that `mlflow.search_runs` makes."""

from __future__ import annotations

import mlflow


def _runs(at, name):
    experiment = at.experiment(name)
    for number in range(12):
        run = at.client.create_run(
            experiment,
            run_name=f"run {number:02}",
            start_time=1_700_000_000_000 + number * 1000,
            tags={"parity": "odd" if number % 2 else "even", "with.dot": "x", "user name": "Ann"},
        ).info.run_id
        at.client.log_param(run, "depth", number // 4)
        at.client.log_param(run, "kind", "Tree" if number < 6 else "linear")
        at.client.log_metric(run, "loss", 1 / (number + 1))
        if number % 3 == 0:
            at.client.log_metric(run, "rare metric", number)
        if number < 10:
            at.client.set_terminated(run, "FINISHED" if number % 2 else "FAILED",
                                     end_time=1_700_000_100_000 + number)  # fmt: skip
    return experiment


FILTERS = {
    "all": "",
    "metric": "metrics.loss < 0.2",
    "short": "metric.loss >= 0.5 and params.depth = '0'",
    "equal": "metrics.loss = 0.25",
    "not": "metrics.loss != 1",
    "quoted": 'metrics."rare metric" > 3',
    "ticks": "metrics.`rare metric` <= 3",
    "param": "params.kind = 'Tree'",
    "param not": "params.kind != 'Tree'",
    "like": "params.kind LIKE '%ee'",
    "case": "params.kind LIKE 'tree'",
    "ilike": "params.kind ILIKE 'tree'",
    "tag": "tags.parity = 'odd' AND tags.`with.dot` = 'x'",
    "named": "tags.\"user name\" = 'Ann' and metrics.loss > 0.4",
    "status": "attributes.status = 'RUNNING'",
    "name": "attributes.run_name = 'run 03'",
    "bare": "run_name LIKE 'run 1%'",
    "Run name": "attributes.`Run name` = 'run 04'",
    "started": "attributes.start_time > 1700000009000",
    "ended": "end_time <= 1700000100002",
    "null": "metrics.loss > 0 and params.missing IS NULL",
    "not null": "params.kind IS NOT NULL and tags.parity IS NOT NULL and metrics.loss > 0.5",
    "many": "tags.parity = 'even' and params.depth = '1' and metrics.loss < 0.2",
    "escaped": "params.kind = 'it''s'",
}

WRONG = {
    "or": "metrics.loss > 1 OR metrics.loss < 2",
    "unknown": "colour.x = 'y'",
    "number": "params.depth = 3",
    "text": "metrics.loss = 'x'",
    "metric like": "metrics.loss LIKE '0%'",
    "open": "params.kind = 'x",
    "empty": "params.kind =",
    "attribute": "attributes.nothing = 'x'",
    "sql": "params.kind = 'x'; DROP TABLE run",
    "comment": "params.kind = 'x' -- '",
    "bare": "loss > 1",
    "list": "attribute.status IN ('RUNNING', 'FAILED')",
}

ORDERS = {
    "default": [],
    "metric": ["metrics.loss ASC"],
    "missing last": ["metrics.`rare metric` DESC", "attributes.run_name ASC"],
    "missing last too": ["metrics.`rare metric` ASC", "attributes.run_name ASC"],
    "param": ["params.kind DESC", "run_name"],
    "tag": ["tags.parity", "attributes.start_time DESC"],
    "start": ["attribute.start_time ASC"],
    "status": ["attributes.status ASC", "start_time ASC"],
}


def search_filters(at):
    experiment = _runs(at, "filters")

    def names(text):
        found = at.client.search_runs([experiment], text, order_by=["run_name ASC"])
        return [int(run.info.run_name[4:]) for run in found]

    ids = at.client.search_runs([experiment], max_results=2)
    one, two = (run.info.run_id for run in ids)
    return {
        "found": {key: names(text) for key, text in FILTERS.items()},
        "wrong": {
            key: at.refused(at.client.search_runs, [experiment], text)
            for key, text in WRONG.items()
        },
        "id": len(names(f"attributes.run_id = '{one}'")),
        "ids": len(names(f"run_id IN ('{one}', '{two}')")),
    }


def search_orders(at):
    experiment = _runs(at, "orders")
    found = {}
    for key, order in ORDERS.items():
        runs = at.client.search_runs([experiment], order_by=order)
        found[key] = [int(run.info.run_name[4:]) for run in runs]
    wrong = ["metrics.loss UP", "nothing.x", "metrics.loss; DROP TABLE run"]
    return {
        "found": found,
        "wrong": [at.refused(at.client.search_runs, [experiment], order_by=[w]) for w in wrong],
    }


def search_pages(at):
    experiment = _runs(at, "pages")
    seen, sizes, token = [], [], None
    while True:
        page = at.client.search_runs(
            [experiment], "metrics.loss > 0", max_results=5, order_by=["params.kind"],
            page_token=token,
        )  # fmt: skip
        sizes.append(len(page))
        seen += [run.info.run_name for run in page]
        token = page.token
        if not token:
            break
    return {
        "sizes": sizes,
        "once": len(seen) == len(set(seen)),
        "exact": at.client.search_runs([experiment], max_results=12).token is None,
        "token": at.refused(at.client.search_runs, [experiment], page_token="nonsense"),
        "too many": at.post("runs/search", {"experiment_ids": [experiment], "max_results": 50001}),
        "nowhere": list(at.client.search_runs([])),
        "unknown": list(at.client.search_runs(["987654321"])),
    }


def search_table(at):
    experiment = _runs(at, "table")
    frame = mlflow.search_runs([experiment], "metrics.loss > 0.3", order_by=["metrics.loss DESC"])
    by_name = mlflow.search_runs(experiment_names=["table"], max_results=3)
    return {
        "loss": list(frame["metrics.loss"]),
        "depth": list(frame["params.depth"]),
        "columns": sorted(c for c in frame.columns if not c.startswith("tags.mlflow")),
        "by name": len(by_name),
    }
