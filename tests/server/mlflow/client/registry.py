"""The model registry."""

from __future__ import annotations

import functools

import lightgbm
import mlflow
import numpy as np
import xgboost
from mlflow.entities.model_registry import ModelVersion
from sklearn.linear_model import LinearRegression, LogisticRegression

REQUIREMENTS = ["scikit-learn"]
X = np.array([[0.0], [1.0], [2.0], [3.0]])


def _logged(run_name="training", **options):
    """A model that a run logged; its prediction for 10 is 20."""
    with mlflow.start_run(run_name=run_name) as run:
        mlflow.log_metric("rmse", 0.0)  # a champion needs an evaluation
        info = mlflow.sklearn.log_model(
            LinearRegression().fit(X, 2 * X[:, 0]), name="model", pip_requirements=REQUIREMENTS,
            input_example=X[:2], **options,
        )  # fmt: skip
    return run.info.run_id, info


def _facts(version: ModelVersion):
    return [version.name, str(version.version), version.status, version.current_stage,
            version.description, dict(version.tags), sorted(version.aliases)]  # fmt: skip


def registry_lifecycle(at):
    at.experiment("registry")
    run, info = _logged()
    made = at.client.create_registered_model("house.price-1", tags={"a": "1"}, description="d")
    version = at.client.create_model_version("house.price-1", info.model_uri, run, tags={"t": "x"},
                                             description="first", model_id=info.model_id)  # fmt: skip
    second = mlflow.register_model(info.model_uri, "house.price-1", tags={"n": "2"})
    third = mlflow.register_model(f"runs:/{run}/model", "house.price-1")
    at.client.update_registered_model("house.price-1", description="better")
    at.client.set_registered_model_tag("house.price-1", "b", "2")
    at.client.delete_registered_model_tag("house.price-1", "a")
    at.client.set_model_version_tag("house.price-1", "1", "u", "y")
    at.client.delete_model_version_tag("house.price-1", "1", "t")
    at.client.update_model_version("house.price-1", "1", description="the first")
    at.client.set_registered_model_alias("house.price-1", "champion", "1")
    at.client.set_registered_model_alias("house.price-1", "Challenger", 2)
    model = at.client.get_registered_model("house.price-1")
    one = at.client.get_model_version("house.price-1", "1")
    champion = at.client.get_model_version_by_alias("house.price-1", "champion")
    loaded = [
        float(
            mlflow.pyfunc.load_model(f"models:/house.price-1{which}").predict(np.array([[10.0]]))[0]
        )
        for which in ("/1", "@champion", "@Challenger", "/3")
    ]
    at.client.set_registered_model_alias("house.price-1", "champion", "3")
    moved = at.client.get_model_version_by_alias("house.price-1", "champion").version
    at.client.delete_registered_model_alias("house.price-1", "Challenger")
    return {
        "made": [made.name, made.description, made.tags, made.creation_timestamp > 0],
        "versions": [str(version.version), str(second.version), str(third.version)],
        "model": [model.description, dict(model.tags), {k: str(v) for k, v in
                  model.aliases.items()}, [str(v.version) for v in model.latest_versions]],
        "one": _facts(one),
        "source": [one.run_id == run, one.model_id == info.model_id, third.run_id == run],
        "champion": str(champion.version),
        "loaded": [round(x, 6) for x in loaded],
        "moved": str(moved),
        "aliases": {k: str(v) for k, v in
                    at.client.get_registered_model("house.price-1").aliases.items()},
        "uri": at.client.get_model_version_download_uri("house.price-1", "1") != "",
        "registrations": "house.price-1" in str(at.client.get_logged_model(info.model_id).tags),
    }  # fmt: skip


def registry_by_log_model(at):
    at.experiment("registered at once")
    run, info = _logged(registered_model_name="at-once")
    _, _ = _logged(registered_model_name="at-once")
    native = mlflow.sklearn.load_model("models:/at-once/2")
    found = at.client.search_model_versions("name = 'at-once'")
    return {
        "version": info.registered_model_version,
        "native": type(native).__name__,
        "found": sorted(str(v.version) for v in found),
        "run": at.client.get_model_version("at-once", "1").run_id == run,
        "latest": round(float(mlflow.pyfunc.load_model("models:/at-once/latest")
                              .predict(np.array([[1.0]]))[0]), 6),
    }  # fmt: skip


def registry_delete(at):
    at.experiment("registry delete")
    _, info = _logged(serialization_format="pickle")
    for _ in range(3):
        mlflow.register_model(info.model_uri, "leaving")
    at.client.set_registered_model_alias("leaving", "old", "1")
    at.client.delete_model_version("leaving", "1")
    at.client.delete_model_version("leaving", "3")
    aliases = at.client.get_registered_model("leaving").aliases
    fourth = mlflow.register_model(info.model_uri, "leaving")
    at.client.rename_registered_model("leaving", "left")
    renamed = at.client.get_model_version("left", "2")
    refused = {
        "old name": at.refused(at.client.get_registered_model, "leaving"),
        "old version": at.refused(at.client.get_model_version, "leaving", "2"),
        "gone": at.refused(at.client.get_model_version, "left", "1"),
        "alias": at.refused(at.client.get_model_version_by_alias, "left", "old"),
    }
    at.client.delete_registered_model("left")
    again = at.client.create_registered_model("leaving")
    return {
        "aliases": aliases,
        "fourth": str(fourth.version) in ("3", "4"),  # MLflow gives a deleted number again
        "renamed": [renamed.name, str(renamed.version)],
        "refused": refused,
        "deleted": at.refused(at.client.get_registered_model, "left"),
        "again": again.name,
        "still there": mlflow.get_logged_model(info.model_id).name,
    }


def registry_errors(at):
    at.experiment("registry errors")
    run, info = _logged(serialization_format="pickle")
    at.client.create_registered_model("there")
    at.client.create_registered_model("there-too")
    create = functools.partial(at.client.create_model_version, model_id=info.model_id)
    create("there", info.model_uri, run)
    return {
        "twice": at.refused(at.client.create_registered_model, "there"),
        "status": at.post("registered-models/create", {"name": "there"}),
        "no name": at.refused(at.client.create_registered_model, ""),
        "slash": at.refused(at.client.create_registered_model, "a/b"),
        "get": at.refused(at.client.get_registered_model, "nothing"),
        "version": at.refused(at.client.get_model_version, "there", "9"),
        "not a number": at.refused(at.client.get_model_version, "there", "x"),
        "alias": at.refused(at.client.get_model_version_by_alias, "there", "nobody"),
        "alias name": at.refused(at.client.set_registered_model_alias, "there", "latest", "1"),
        "alias number": at.refused(at.client.set_registered_model_alias, "there", "v1", "1"),
        "alias version": at.refused(at.client.set_registered_model_alias, "there", "a", "9"),
        "rename": at.refused(at.client.rename_registered_model, "there", "there-too"),
        "no model": at.refused(create, "nothing", info.model_uri, run),
        "file": at.refused(create, "there", "file:///etc/passwd", run),
        "traversal": at.refused(create, "there", f"mlflow-artifacts:/0/../../{run}", run),
        "elsewhere": at.refused(create, "there", "https://example.org/model", run),
        "delete": at.refused(at.client.delete_registered_model, "nothing"),
        "tag": at.refused(at.client.set_model_version_tag, "there", "9", "a", "b"),
    }


def registry_stages(at):
    at.experiment("stages")
    _, info = _logged(serialization_format="pickle")
    for _ in range(2):
        mlflow.register_model(info.model_uri, "staged")
    move = at.client.transition_model_version_stage
    first = move("staged", "1", "Production").current_stage
    second = move("staged", "2", "production", archive_existing_versions=True).current_stage
    return {
        "moved": [first, second],
        "archived": at.client.get_model_version("staged", "1").current_stage,
        "latest": [str(v.version) for v in at.client.get_latest_versions("staged", ["Production"])],
        "loaded": type(mlflow.sklearn.load_model("models:/staged/Production")).__name__,
        "wrong": at.refused(move, "staged", "1", "Heaven"),
    }


def registry_search(at):
    at.experiment("registry search")
    run, info = _logged(serialization_format="pickle")
    for number in range(4):
        at.client.create_registered_model(f"found-{number}", tags={"odd": str(number % 2)})
    for name in ("found-0", "found-0", "found-1"):
        at.client.create_model_version(
            name, info.model_uri, run, tags={"for": name}, model_id=info.model_id
        )

    def models(text, **options):
        return [m.name for m in at.client.search_registered_models(text, **options)]

    def versions(text, **options):
        found = at.client.search_model_versions(text, **options)
        return [[v.name, str(v.version)] for v in found]

    page = at.client.search_registered_models("name LIKE 'found-%'", max_results=3)
    rest = at.client.search_registered_models("name LIKE 'found-%'", max_results=3,
                                              page_token=page.token)  # fmt: skip
    return {
        "like": models("name LIKE 'found-%'"),
        "down": models("name ILIKE 'FOUND-%'", order_by=["name DESC"]),
        "tag": models("tags.odd = '1' AND name LIKE 'found%'"),
        "pages": [[m.name for m in page], [m.name for m in rest], rest.token],
        "by name": sorted(versions("name = 'found-0'")),
        "by run": sorted(versions(f"run_id = '{run}'")),
        "by tag": versions("tags.`for` = 'found-1'"),
        "ordered": versions("name LIKE 'found-%'", order_by=["name ASC", "version_number DESC"]),
        "wrong": [at.refused(models, "colour = 'x'"), at.refused(versions, "name >")],
        "names": [m.name for m in at.client.search_registered_models(
            "name = 'found-2'")],
    }  # fmt: skip


def registry_unsafe(at):
    """A pickled model is kept and given back as it came; the client decides to load it."""
    at.experiment("pickled")
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            LogisticRegression().fit(X, [0, 0, 1, 1]), name="pickled",
            serialization_format="pickle", pip_requirements=REQUIREMENTS,
            registered_model_name="pickled",
        )  # fmt: skip
    found = mlflow.sklearn.load_model("models:/pickled/1")
    return {"version": info.registered_model_version, "run": len(run.info.run_id),
            "predicts": [int(x) for x in found.predict([[0.0], [3.0]])]}  # fmt: skip


def registry_formats(at):
    """Registered by libraries with a format of their own; each loads back what was logged."""
    at.experiment("formats")
    rows = np.repeat(X, 10, axis=0)
    fitted = {
        "lightgbm": lightgbm.LGBMRegressor(n_estimators=3, verbose=-1).fit(rows, 2 * rows[:, 0]),
        "xgboost": xgboost.XGBRegressor(n_estimators=3).fit(rows, 2 * rows[:, 0]),
    }
    found = {}
    for flavor, model in fitted.items():
        module = getattr(mlflow, flavor)
        with mlflow.start_run():
            module.log_model(
                model, name=flavor, input_example=X, pip_requirements=[flavor],
                registered_model_name=f"native-{flavor}",
            )  # fmt: skip
        back = module.load_model(f"models:/native-{flavor}/1")
        found[flavor] = bool(np.array_equal(back.predict(rows), model.predict(rows)))
    return found
