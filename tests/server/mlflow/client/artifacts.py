"""Artifacts: files up, listed, down."""

from __future__ import annotations

import hashlib

import mlflow
import requests

MEGABYTES = 50


def artifact_files(at):
    at.experiment("artifacts")
    source = at.folder / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "empty.bin").write_bytes(b"")
    (source / "data.bin").write_bytes(bytes(range(256)) * 10)
    (source / "deep" / "ünï çode & +#%.txt".replace("#", "")).write_text("ü")
    (source / "deep" / "er" / "x.json").write_text("{}")
    with mlflow.start_run() as run:
        mlflow.log_artifact(source / "data.bin")
        mlflow.log_artifacts(source, "folder")
        mlflow.log_text("hello", "texts/hello.txt")
        mlflow.log_dict({"a": [1, 2]}, "dict.json")
        uri = mlflow.get_artifact_uri("texts")
    run_id = run.info.run_id

    def listed(path=None):
        return [[f.path, f.is_dir, f.file_size] for f in at.client.list_artifacts(run_id, path)]

    down = at.folder / "down"
    down.mkdir()
    mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="folder", dst_path=down)
    one = at.client.download_artifacts(run_id, "data.bin", str(down))
    return {
        "root": listed(),
        "folder": listed("folder"),
        "deep": listed("folder/deep"),
        "file": listed("data.bin"),
        "nothing": listed("nothing/here"),
        "same": {str(p.relative_to(source)): p.read_bytes() == (down / "folder" /
                 p.relative_to(source)).read_bytes() for p in source.rglob("*") if p.is_file()},
        "one": open(one, "rb").read() == (source / "data.bin").read_bytes(),
        "text": mlflow.artifacts.load_text(uri + "/hello.txt"),
        "dict": mlflow.artifacts.load_dict(f"runs:/{run_id}/dict.json"),
        "uri": [f.path for f in mlflow.artifacts.list_artifacts(uri)],
        "missing": _raises(at.client.download_artifacts, run_id, "nothing.txt", str(down)),
        "server lists": _server_lists(at, run_id),
        "get-artifact": _get(at, run_id, "texts/hello.txt"),
    }  # fmt: skip


def _raises(call, *args):
    try:
        call(*args)
    except Exception as error:
        return type(error).__name__
    return ""


def _server_lists(at, run_id):
    answer = requests.get(f"{at.url}/api/2.0/mlflow/artifacts/list",
                          {"run_id": run_id, "path": "folder"}, timeout=60).json()  # fmt: skip
    return sorted(file["path"] for file in answer["files"])


def _get(at, run_id, path):
    answer = requests.get(f"{at.url}/get-artifact", {"run_id": run_id, "path": path}, timeout=60)
    return [answer.status_code, answer.text, answer.headers.get("X-Content-Type-Options"),
            "attachment" in answer.headers["Content-Disposition"]]  # fmt: skip


def artifact_overwrite(at):
    run = at.client.create_run(at.experiment("overwrite")).info.run_id
    at.client.log_text(run, "one", "x.txt")
    at.client.log_text(run, "two", "x.txt")
    repository = at.client._tracking_client._get_artifact_repo(run)
    at.client.log_text(run, "deep", "folder/y.txt")
    repository.delete_artifacts("folder")
    listed = [f.path for f in at.client.list_artifacts(run)]
    found = mlflow.artifacts.load_text(f"runs:/{run}/x.txt")
    repository.delete_artifacts("x.txt")
    return {"found": found, "listed": listed,
            "after": [f.path for f in at.client.list_artifacts(run)]}  # fmt: skip


def artifact_big(at):
    run = at.client.create_run(at.experiment("big")).info.run_id
    file = at.folder / "big.bin"
    block = hashlib.sha256(b"block").digest() * 32_768
    with file.open("wb") as out:
        for _ in range(MEGABYTES):
            out.write(block)
    at.client.log_artifact(run, str(file))
    down = at.folder / "down"
    down.mkdir()
    got = at.client.download_artifacts(run, "big.bin", str(down))
    with open(got, "rb") as found, file.open("rb") as given:
        same = hashlib.file_digest(found, "sha256").digest() == (
            hashlib.file_digest(given, "sha256").digest()
        )
    return {"same": same, "size": at.client.list_artifacts(run)[0].file_size == file.stat().st_size}
