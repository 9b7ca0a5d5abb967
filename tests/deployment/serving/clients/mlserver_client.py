"""Asks endpoints with requests of MLServer's codecs, in its own environment: URL and token as arguments.

Endpoints: as in `kserve_client.py`.
"""

import json
import sys
import urllib.request

import numpy as np
import pandas as pd
from mlserver.codecs import (
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    StringRequestCodec,
)
from mlserver.types import InferenceRequest, InferenceResponse

ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
FRAME = pd.DataFrame({"sky": ["grey", "blue"], "wind": [3, 2], "warm": [True, False]})


def ask(url, token, name, request):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = request.model_dump_json().encode()
    sent = urllib.request.Request(f"{url}/v2/models/{name}/infer", body, headers)
    with urllib.request.urlopen(sent, timeout=30) as answer:
        return InferenceResponse.model_validate_json(answer.read())


def main():
    url, token = sys.argv[1:]
    # One tensor, by the codec of an input and by that of a whole request.
    for request in (
        InferenceRequest(id="m1", inputs=[NumpyCodec.encode_input("input", ROWS)]),
        NumpyRequestCodec.encode_request(ROWS),
    ):
        request.inputs[0].name = "input"
        answer = ask(url, token, "sums", request)
        assert answer.id == (request.id or answer.id)
        assert (answer.model_name, answer.model_version) == ("sums", "2")
        np.testing.assert_allclose(NumpyCodec.decode_output(answer.outputs[0]), [12.0, 30.0])
    # A frame is one tensor a column; its shape is (rows, 1).
    for use_bytes in (True, False):
        request = PandasCodec.encode_request(FRAME, use_bytes=use_bytes)
        assert [list(each.shape) for each in request.inputs] == [[2, 1]] * 3
        answer = ask(url, token, "weather", request)
        predicted = answer.outputs[0]
        assert predicted.name == "predict"
        assert StringCodec.decode_output(predicted) == ["rain", "dry"]
        assert StringRequestCodec.decode_response(
            InferenceResponse(model_name="weather", outputs=[predicted])
        ) == ["rain", "dry"]
    # Texts beside arrays, each by its own codec.
    request = InferenceRequest(
        inputs=[
            StringCodec.encode_input("sky", ["grey", "blue"]),
            NumpyCodec.encode_input("wind", np.array([3, 2])),
            NumpyCodec.encode_input("warm", np.array([True, False])),
        ]
    )
    answer = ask(url, token, "weather", request)
    assert StringCodec.decode_output(answer.outputs[0]) == ["rain", "dry"]
    assert NumpyCodec.decode_output(answer.outputs[1]).shape == (2, 2)
    print(json.dumps({"passed": ["NumpyCodec", "PandasCodec", "StringCodec"]}))


if __name__ == "__main__":
    main()
