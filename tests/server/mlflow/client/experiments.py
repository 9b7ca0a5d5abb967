"""Experiments: create, find, rename, tag, delete, restore."""

from __future__ import annotations

import mlflow
from mlflow.entities import ViewType


def experiment_lifecycle(at):
    made = at.client.create_experiment("one experiment/ü", tags={"team": "red"})
    found = at.client.get_experiment_by_name("one experiment/ü")
    at.client.set_experiment_tag(made, "note", "x")
    at.client.rename_experiment(made, "renamed")
    renamed = at.client.get_experiment(made)
    at.client.set_experiment_tag(made, "gone", "x")
    at.client.delete_experiment_tag(made, "gone")
    return {
        "same": found.experiment_id == made,
        "stage": found.lifecycle_stage,
        "artifacts": found.artifact_location.startswith("mlflow-artifacts:/"),
        "times": 0 < found.creation_time <= found.last_update_time,
        "name": renamed.name,
        "tags": at.client.get_experiment(made).tags,
        "old name": at.client.get_experiment_by_name("one experiment/ü"),
    }


def experiment_default(at):
    found = at.client.get_experiment("0")
    mlflow.set_experiment("Default")
    with mlflow.start_run() as run:
        pass
    return {"name": found.name, "run": run.info.experiment_id,
            "listed": "0" in [e.experiment_id for e in at.client.search_experiments()]}  # fmt: skip


def experiment_set(at):
    first = mlflow.set_experiment("set by name")
    again = mlflow.set_experiment("set by name")
    return {"same": first.experiment_id == again.experiment_id, "name": first.name}


def experiment_delete(at):
    made = at.client.create_experiment("to delete")
    run = at.client.create_run(made).info.run_id
    at.client.delete_experiment(made)
    deleted = at.client.get_experiment(made).lifecycle_stage
    refused = {
        "create run": at.refused(at.client.create_run, made),
        "again": at.refused(at.client.delete_experiment, made),
        "taken": at.refused(at.client.create_experiment, "to delete"),
        "set": at.refused(mlflow.set_experiment, "to delete") != "",
    }
    stage = at.client.get_run(run).info.lifecycle_stage
    at.client.restore_experiment(made)
    return {
        "deleted": [deleted, stage],
        "refused": refused,
        "restored": [at.client.get_experiment(made).lifecycle_stage,
                     at.client.get_run(run).info.lifecycle_stage],
    }  # fmt: skip


def experiment_errors(at):
    made = at.client.create_experiment("taken")
    other = at.client.create_experiment("other name")
    return {
        "twice": at.refused(at.client.create_experiment, "taken"),
        "status": at.post("experiments/create", {"name": "taken"}),
        "rename": at.refused(at.client.rename_experiment, other, "taken"),
        "get": at.refused(at.client.get_experiment, "123456789"),
        "by name": at.client.get_experiment_by_name("nothing of this name"),
        "by name status": at.post("experiments/get-by-name?experiment_name=no", None, "GET"),
        "delete": at.refused(at.client.delete_experiment, "123456789"),
        "tag": at.refused(at.client.set_experiment_tag, "123456789", "a", "b"),
        "no name": at.post("experiments/create", {}),
        "default": made != other,
    }


def experiment_search(at):
    for number in range(7):
        at.client.create_experiment(f"found {number}", tags={"odd": str(number % 2)})
    gone = at.client.create_experiment("found gone")
    at.client.delete_experiment(gone)

    def names(text, **options):
        return [e.name for e in at.client.search_experiments(filter_string=text, **options)]

    page = at.client.search_experiments(
        filter_string="name LIKE 'found %'", max_results=4, order_by=["name ASC"]
    )
    rest = at.client.search_experiments(
        filter_string="name LIKE 'found %'", max_results=4, order_by=["name ASC"],
        page_token=page.token,
    )  # fmt: skip
    return {
        "like": names("name LIKE 'found %'", order_by=["name DESC"]),
        "ilike": names("name ILIKE 'FOUND 1'"),
        "equal": names("attribute.name = 'found 3'"),
        "tag": names("tags.odd = '1' AND name LIKE 'found%'", order_by=["name"]),
        "deleted": names("name LIKE 'found%'", view_type=ViewType.DELETED_ONLY),
        "all": len(names("name LIKE 'found%'", view_type=ViewType.ALL)),
        "newest": names("name LIKE 'found %'", order_by=["creation_time DESC", "name DESC"])[-1],
        "pages": [[e.name for e in page], [e.name for e in rest], rest.token],
        "wrong": [at.refused(names, text) for text in ("name > 5", "colour = 'x'", "name LIKE")],
    }
