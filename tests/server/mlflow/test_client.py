"""MLflow's client finds with our server what it finds with MLflow's own.

`expected.json` holds what the cases in `client/` find with MLflow 3.17.2's server. To look whether
it still does, or to write it anew:

    MADANG_TEST_MLFLOW_SERVER=1 pytest tests/server/mlflow/test_client.py
    MADANG_TEST_MLFLOW_SERVER=write pytest tests/server/mlflow/test_client.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from madang.errors import UnsafeModelError

FILE = Path(__file__).parent / "expected.json"
EXPECTED = json.loads(FILE.read_text("utf-8"))
pytestmark = pytest.mark.timeout(600)
THEIRS = os.environ.get("MADANG_TEST_MLFLOW_SERVER", "")

OURS = {
    # An empty file has 0 bytes, not an unknown number of them.
    "artifact_files": {
        "folder": [
            ["folder/data.bin", False, 2560],
            ["folder/deep", True, None],
            ["folder/empty.bin", False, 0],
        ]
    },
    # A dataset that is logged again has the tags of the last time.
    "dataset_inputs": {
        "found": {
            "rows": ["http", True, {"mlflow.data.context": "training"}],
            "zeros": ["code", True, {"mlflow.data.context": "eval"}],
        }
    },
    # Deleting again is safe.
    "experiment_delete": {
        "refused": {
            **EXPECTED["experiment_delete"]["found"]["refused"],
            "again": "",
        }
    },
    # A name that is taken is told by the same code, whoever asks for it.
    "experiment_errors": {"rename": "RESOURCE_ALREADY_EXISTS"},
    # A run that isn't there has no history, not an empty one.
    "metric_history": {"no run": "RESOURCE_DOES_NOT_EXIST"},
    # Every attribute may be compared with a list.
    "search_filters": {
        "wrong": {**EXPECTED["search_filters"]["found"]["wrong"], "list": ""},
    },
}
"""Case to what is otherwise with our server, by design."""


@pytest.fixture(scope="module")
def found(request, mlflow):
    if THEIRS:
        found = mlflow.client(request.getfixturevalue("mlflow_server"))
        if THEIRS == "write":
            text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
            FILE.write_text(f"{text}\n", "utf-8")
        return found
    return mlflow.client(request.getfixturevalue("served").url)


@pytest.mark.parametrize("case", EXPECTED)
def test_the_client_finds_the_same(found, case):
    assert "error" not in found[case], found[case]["error"]
    expected = EXPECTED[case]["found"]
    if case in OURS and not THEIRS:
        expected = {**expected, **OURS[case]}
    assert found[case]["found"] == expected


def test_no_case_is_missing(found):
    assert set(found) == set(EXPECTED)
    assert len(EXPECTED) > 35


@pytest.mark.skipif(bool(THEIRS), reason="MLflow's own server keeps every model as files")
@pytest.mark.parametrize("form", ["lightgbm", "xgboost"])
def test_a_safe_format_that_a_client_uploaded_is_a_model_of_ours(found, served, form):
    assert found["registry_formats"] == {"found": {"lightgbm": True, "xgboost": True}}
    version = served.stack.registry.get(f"native-{form}")
    assert version.format == form
    assert version.run_id
    assert version.model_id
    model = served.stack.registry.load(f"native-{form}")
    rows = np.array([[0.0], [3.0]])
    outputs = model.predict(model.inputs(rows))["predict"]
    assert np.allclose(outputs, model.native.predict(rows))


@pytest.mark.skipif(bool(THEIRS), reason="MLflow's own server loads no models")
def test_a_pickle_that_a_client_uploaded_is_kept_and_refused(found, served):
    assert "error" not in found["registry_unsafe"]
    version = served.stack.registry.get("pickled")
    assert version.format == "object"
    with pytest.raises(UnsafeModelError, match="pickle"):
        served.stack.registry.load("pickled")
    line = served.stack.ledger.lines(kind="model.register", subject=version.ref)[0]
    assert "pickle" in line.data["reason"]
