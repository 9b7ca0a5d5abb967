from __future__ import annotations

import base64

import numpy as np
import pytest

from madang.deployment.serving.logged import array
from madang.errors import InvalidInputError


@pytest.mark.parametrize("kind", ["<f8", "<f4", "<i8", "<u1", "?"])
def test_binary_tensors_come_back_as_they_were(kind):
    names = {"<f8": "FP64", "<f4": "FP32", "<i8": "INT64", "<u1": "UINT8", "?": "BOOL"}
    rows = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    tensor = {
        "name": "x",
        "datatype": names[kind],
        "shape": [2, 3],
        "data_base64": base64.b64encode(rows.tobytes()).decode(),
    }
    found = array(tensor)
    np.testing.assert_array_equal(found, rows)
    assert found.dtype == rows.dtype


def test_json_tensors():
    found = array({"datatype": "FP64", "shape": [1, 3], "data": [1, None, 2.5]})
    np.testing.assert_array_equal(found, [[1.0, np.nan, 2.5]])
    assert array({"datatype": "BYTES", "shape": [2], "data": ["a", "b"]}).tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "tensor",
    [
        {},
        {"datatype": "FP65", "shape": [1], "data": [1]},
        {"datatype": "FP64", "shape": [2], "data": [1]},
        {"datatype": "FP64", "shape": [1], "data_base64": "AA=="},
        {"datatype": "FP64", "shape": [1], "data_base64": "!"},
    ],
)
def test_what_is_no_tensor_of_the_log(tensor):
    with pytest.raises(InvalidInputError, match="no tensor of the prediction log"):
        array(tensor)
