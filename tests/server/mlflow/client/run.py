"""Runs MLflow's own client against a server: `python run.py URL FOLDER [TOPIC...]`.

Every public function of the files beside this one is a case: it gets a `Place`, and what it returns
stands under its name in the JSON on stdout, or the error that it raised.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    GIT_PYTHON_REFRESH="quiet",
    MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
)

import mlflow
import requests
from mlflow.exceptions import MlflowException


class Place:
    """Where a case works: the server, a client of it, and a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.client = mlflow.MlflowClient(url)

    def experiment(self, name: str) -> str:
        """A new experiment's id, which is the active one from here on."""
        found = self.client.create_experiment(name)
        mlflow.set_experiment(experiment_id=found)
        return found

    def refused(self, call: Callable[..., Any], *args: Any, **options: Any) -> str:
        """The error code that a call ends with; `""` when it raises nothing."""
        try:
            call(*args, **options)
        except MlflowException as error:
            return error.error_code
        return ""

    def post(self, path: str, body: Any, method: str = "POST") -> tuple[int, Any]:
        """What the server answers to a request that the client would not send."""
        options = {"data": body} if isinstance(body, bytes) else {"json": body}
        headers = {"Content-Type": "application/json"}
        answer = requests.request(
            method, f"{self.url}/api/2.0/mlflow/{path}", headers=headers, timeout=60, **options
        )
        return answer.status_code, answer.json().get("error_code")


def main() -> None:
    url, folder, *topics = sys.argv[1:]
    mlflow.set_tracking_uri(url)
    here = Path(__file__).parent
    found: dict[str, Any] = {}
    for file in sorted(here.glob("*.py")):
        if file.stem == "run" or (topics and file.stem not in topics):
            continue
        for name, case in list(vars(importlib.import_module(file.stem)).items()):
            if isinstance(case, FunctionType) and case.__module__ == file.stem and name[0] != "_":
                found[name] = _outcome(case, Place(url, Path(folder, name)))
    print("\n" + json.dumps(found))


def _outcome(case: FunctionType, place: Place) -> dict[str, Any]:
    place.folder.mkdir(parents=True)
    try:
        return {"found": case(place)}
    except Exception:
        return {"error": traceback.format_exc()}
    finally:
        while mlflow.active_run():
            mlflow.end_run()


if __name__ == "__main__":
    main()
