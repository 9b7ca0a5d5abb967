"""The Open Inference Protocol V2 over HTTP, asked by tritonclient and by hand."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.deployment.serving.conftest import tensor

from madang.deployment.serving import Arm
from madang.deployment.serving._service import PUBLIC
from madang.deployment.serving._tensors import InferRequest, RequestInput, read_inputs
from madang.development.experiments import TensorSpec
from madang.errors import InvalidInputError
from madang.security.identity.contract import TokenGrant
from madang.testing.serving import ROWS, until

ROUTES = [
    ("GET", "/v2"),
    ("GET", "/v2/models/sums"),
    ("GET", "/v2/models/sums/ready"),
    ("GET", "/v2/models/sums/versions/2"),
    ("GET", "/v2/models/sums/versions/2/ready"),
    ("POST", "/v2/models/sums/infer"),
    ("POST", "/v2/models/sums/versions/2/infer"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/sums/stats"),
    ("GET", "/v2/models/sums/versions/2/stats"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/sums/load"),
    ("POST", "/v2/repository/models/sums/unload"),
    ("POST", "/features/read"),
    ("GET", "/metrics"),
    ("GET", "/no/such/path"),
]


# -- tritonclient -----------------------------------------------------------------------------


@pytest.fixture
def triton(server):
    import tritonclient.http as http

    host, port = server.address
    client = http.InferenceServerClient(f"{host}:{port}")
    yield client
    client.close()


@pytest.fixture
def headers(server):
    return {"Authorization": f"Bearer {server.token}"}


def triton_input(rows, name="input", datatype="FP64", *, binary=True):
    import tritonclient.http as http

    made = http.InferInput(name, list(rows.shape), datatype)
    made.set_data_from_numpy(rows, binary_data=binary)
    return made


def test_triton_sees_a_server_and_its_models(triton, headers):
    assert triton.is_server_live(headers)
    assert triton.is_server_ready(headers)
    assert triton.get_server_metadata(headers)["name"] == "madang"
    assert triton.is_model_ready("sums", headers=headers)
    assert triton.is_model_ready("both", "1", headers=headers)
    assert not triton.is_model_ready("none", headers=headers)
    assert not triton.is_model_ready("both", "9", headers=headers)
    assert triton.get_model_metadata("both", headers=headers) == {
        "name": "both",
        "versions": ["1", "2"],
        "platform": "madang",
        "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 3]}],
        "outputs": [{"name": "predict", "datatype": "FP64", "shape": [-1]}],
    }
    index = triton.get_model_repository_index(headers)
    assert {"name": "both", "version": "2", "state": "READY", "reason": ""} in index


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_gets_predictions(triton, headers, binary_in, binary_out):
    import tritonclient.http as http

    wanted = [http.InferRequestedOutput("predict", binary_data=binary_out)]
    given_rows = triton_input(ROWS, binary=binary_in)
    result = triton.infer("sums", [given_rows], outputs=wanted, request_id="r1", headers=headers)
    np.testing.assert_allclose(result.as_numpy("predict"), [12.0, 30.0])
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("r1", "2")


def test_triton_gets_binary_outputs_by_default(triton, headers):
    result = triton.infer("sums", [triton_input(ROWS)], headers=headers)
    assert "binary_data_size" in result.get_output("predict")["parameters"]
    np.testing.assert_allclose(result.as_numpy("predict"), [12.0, 30.0])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_triton_compresses(triton, headers, algorithm):
    result = triton.infer(
        "sums", [triton_input(ROWS)], headers=headers, request_compression_algorithm=algorithm
    )
    np.testing.assert_allclose(result.as_numpy("predict"), [12.0, 30.0])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [300, 30_000])
def test_triton_gets_compressed_answers(triton, headers, algorithm, rows):
    """Smaller and larger than what is compressed on the event loop."""
    many = np.tile(ROWS, (rows, 1))
    result = triton.infer(
        "sums", [triton_input(many)], headers=headers, response_compression_algorithm=algorithm
    )
    np.testing.assert_allclose(result.as_numpy("predict"), np.tile([12.0, 30.0], rows))


def test_triton_reads_statistics(triton, headers):
    def read():
        (found,) = triton.get_inference_statistics("sums", headers=headers)["model_stats"]
        return found

    before = read()
    for _ in range(4):
        triton.infer("sums", [triton_input(ROWS)], headers=headers)
    after = read()
    assert (after["name"], after["version"]) == ("sums", "2")
    assert after["inference_count"] - before["inference_count"] == 8
    assert after["execution_count"] - before["execution_count"] == 4
    assert after["last_inference"] >= before["last_inference"]
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        was, now = (each["inference_stats"][part] for each in (before, after))
        assert now["count"] - was["count"] == 4, part
        assert now["ns"] > was["ns"], part
    assert after["inference_stats"]["fail"] == before["inference_stats"]["fail"]
    (of_two,) = [b for b in after["batch_stats"] if b["batch_size"] == 2]
    assert of_two["compute_infer"]["count"] >= 4
    names = [m["name"] for m in triton.get_inference_statistics(headers=headers)["model_stats"]]
    assert names == ["both", "both", "sums", "weather"]
    stats = triton.get_inference_statistics("both", "1", headers=headers)["model_stats"]
    assert [(m["name"], m["version"]) for m in stats] == [("both", "1")]


def test_the_parts_of_a_request_are_within_the_whole(server):
    """Reading, waiting, predicting and writing take no more time than from request to answer."""
    name = "timed"
    server.stack.serving.deploy(name, [Arm("sums", 1)])
    for rows in (1, 5, 40, 40):
        server.infer(name, {"inputs": [tensor(np.tile(ROWS[:1], (rows, 1)))]})
    assert server.infer(name, {"inputs": []}).status == 400
    path = f"/v2/models/{name}/stats"
    until(lambda: server.ask("GET", path).json["model_stats"][0]["inference_count"] == 86)
    (found,) = server.ask("GET", path).json["model_stats"]
    stats = found["inference_stats"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    # The log is told after the answer is written, and what that takes counts as writing.
    assert sum(stats[p]["ns"] for p in parts[:3]) <= stats["success"]["ns"]
    # Above 16 rows they are counted by powers of two.
    counts = [(b["batch_size"], b["compute_infer"]["count"]) for b in found["batch_stats"]]
    assert counts == [(1, 1), (5, 1), (64, 2)]
    server.stack.serving.undeploy(name)


def test_triton_asks_for_a_version(triton, headers):
    for version, values in (("1", [6.0, 15.0]), ("2", [12.0, 30.0])):
        result = triton.infer("both", [triton_input(ROWS)], version, headers=headers)
        np.testing.assert_allclose(result.as_numpy("predict"), values)
        assert result.get_response()["model_version"] == version


@pytest.mark.parametrize("binary", [True, False])
def test_triton_sends_texts_whole_numbers_and_booleans(triton, headers, binary):
    inputs = [
        triton_input(np.array(["grey", "blue"], object), "sky", "BYTES", binary=binary),
        triton_input(np.array([3, 2]), "wind", "INT64", binary=binary),
        triton_input(np.array([True, False]), "warm", "BOOL", binary=binary),
    ]
    result = triton.infer("weather", inputs, headers=headers)
    assert result.as_numpy("predict").tolist() == [b"rain", b"dry"]


def test_triton_is_told_what_is_wrong(triton, headers):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match=r"shape \[2, 2\]; expected \[-1, 3\]"):
        triton.infer("sums", [triton_input(ROWS[:, :2].copy())], headers=headers)


# -- by hand ----------------------------------------------------------------------------------


def test_a_prediction_in_json(server):
    answer = server.infer("sums", {"inputs": [tensor(ROWS)]})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    made = answer.json
    assert list(made) == ["model_name", "model_version", "id", "outputs"]
    assert (made["model_name"], made["model_version"]) == ("sums", "2")
    assert len(made["id"]) == 32
    (output,) = made["outputs"]
    np.testing.assert_allclose(output.pop("data"), [12.0, 30.0])
    assert output == {"name": "predict", "datatype": "FP64", "shape": [2]}


def test_the_given_id_comes_back(server):
    for given_id in ("r1", 'with "quotes" and ü', "x" * 256):
        answer = server.infer("sums", {"id": given_id, "inputs": [tensor(ROWS)]})
        assert answer.json["id"] == given_id


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.1, deflate;q=0.5", "deflate"),
        ("GZIP", "gzip"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=x", None),
        ("br, zstd", None),
        ("identity", None),
        (",;=,", None),
    ],
)
def test_the_answer_is_compressed_as_the_client_accepts(server, accept, coding):
    rows = np.tile(ROWS, (1000, 1))
    answer = server.infer("sums", {"inputs": [tensor(rows)]}, headers={"Accept-Encoding": accept})
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers.get("vary") == (coding and "accept-encoding")
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[coding]
    made = json.loads(unpack(answer.body))
    np.testing.assert_allclose(made["outputs"][0]["data"], np.tile([12.0, 30.0], 1000))


def test_a_small_answer_is_not_compressed(server):
    sent = {"Accept-Encoding": "gzip"}
    answer = server.infer("sums", {"inputs": [tensor(ROWS)]}, headers=sent)
    assert "content-encoding" not in answer.headers
    assert answer.status == 200


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sequence_id": 7}, "sequence_id asks for a sequence"),
        ({"sequence_id": "a", "sequence_start": True}, "sequence_id asks for a sequence"),
        ({"sequence_id": 0, "sequence_end": True}, "sequence_end asks for a sequence"),
        ({"binary_data_output": "false"}, "binary_data_output is true or false: 'false'"),
        ({"timeout": -1}, "timeout is a whole number of microseconds: -1"),
        ({"timeout": "1"}, "timeout is a whole number of microseconds: '1'"),
        ({"timeout": 1.5}, "timeout is a whole number of microseconds: 1.5"),
        ({"timeout": 2**64}, "timeout is a whole number"),
        ({"sequence_id": 0, "priority": 3, "timeout": 0, "mine": [1]}, None),
        ({"timeout": 60_000_000}, None),
    ],
)
def test_parameters_are_followed_refused_or_ignored(server, parameters, message):
    answer = server.infer("sums", {"parameters": parameters, "inputs": [tensor(ROWS)]})
    assert answer.status == (400 if message else 200)
    assert message is None or message in answer.error


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"classification": 3}, "the parameter classification is not supported"),
        ({"shared_memory_region": "r"}, "the parameter shared_memory_region is not supported"),
        ({"binary_data": 1}, "the parameter binary_data is true or false: 1"),
        ({"classification": 0, "binary_data": False, "mine": 1}, None),
    ],
)
def test_parameters_of_outputs(server, parameters, message):
    outputs = [{"name": "predict", "parameters": parameters}]
    answer = server.infer("sums", {"outputs": outputs, "inputs": [tensor(ROWS)]})
    assert answer.status == (400 if message else 200)
    assert message is None or message in answer.error


def test_an_output_is_asked_for_once(server):
    """Else a small request could ask for an answer of any size."""
    outputs = [{"name": "predict"}] * 2
    answer = server.infer("sums", {"outputs": outputs, "inputs": [tensor(ROWS)]})
    assert (answer.status, answer.error) == (400, "output 'predict' is asked for twice")


@pytest.mark.parametrize(
    ("value", "status"), [("1000", 200), ("0", 200), ("-1", 400), ("1.5", 400), ("x", 400)]
)
def test_the_timeout_header_is_in_milliseconds(server, value, status):
    answer = server.infer(
        "sums", {"inputs": [tensor(ROWS)]}, headers={"X-Request-Timeout-Ms": value}
    )
    assert answer.status == status
    assert status == 200 or "X-Request-Timeout-Ms is not a number" in answer.error


def test_nested_data_is_taken(server):
    nested = {**tensor(ROWS), "data": ROWS.tolist()}
    answer = server.infer("sums", {"inputs": [nested]})
    np.testing.assert_allclose(answer.json["outputs"][0]["data"], [12.0, 30.0])


@pytest.mark.parametrize("data", [["grey", "blue"], [["grey"], ["blue"]]])
def test_a_column_may_come_nested_as_its_shape_says(server, data):
    inputs = [
        {"name": "sky", "datatype": "BYTES", "shape": [2, 1], "data": data},
        {"name": "wind", "datatype": "INT64", "shape": [2, 1], "data": [[1], [2]]},
        {"name": "warm", "datatype": "BOOL", "shape": [2], "data": [True, False]},
    ]
    answer = server.infer("weather", {"inputs": inputs})
    assert answer.json["outputs"][0]["data"] == ["rain", "dry"]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("FP16", 70_000), ("FP32", 1e39), ("FP32", -(10**39)), ("FP64", 10**400 // 10**85)],
)
def test_a_number_that_is_too_large_is_no_infinity(datatype, value):
    sent = {"name": "x", "datatype": datatype, "shape": [2], "data": [1, value]}
    request = InferRequest([RequestInput(**sent)])
    with pytest.raises(InvalidInputError, match=f"a value does not fit into {datatype}"):
        read_inputs(request, {"x": TensorSpec("x", datatype, (-1,))}, b"", 0)


def test_json_and_binary_outputs_in_one_answer(server):
    wanted = [
        {"name": "predict_proba", "parameters": {"binary_data": True}},
        {"name": "predict"},
    ]
    inputs = [
        {"name": "sky", "datatype": "BYTES", "shape": [1, 1], "data": ["blue"]},
        {"name": "wind", "datatype": "INT64", "shape": [1], "data": [2]},
        {"name": "warm", "datatype": "BOOL", "shape": [1], "data": [False]},
    ]
    answer = server.infer("weather", {"inputs": inputs, "outputs": wanted})
    end = int(answer.headers["inference-header-content-length"])
    binary, plain = json.loads(answer.body[:end])["outputs"]
    assert plain == {"name": "predict", "datatype": "BYTES", "shape": [1], "data": ["dry"]}
    assert binary["parameters"] == {"binary_data_size": 16}
    np.testing.assert_allclose(np.frombuffer(answer.body[end:]), [1.0, 0.0])


def test_the_same_id_goes_to_the_same_version(server):
    """Half of the ids go to each of the two versions, and each stays where it is."""

    def version(given_id):
        answer = server.infer("both", {"id": given_id, "inputs": [tensor(ROWS)]})
        made = answer.json
        factor = int(made["model_version"])
        np.testing.assert_allclose(made["outputs"][0]["data"], [6.0 * factor, 15.0 * factor])
        return made["model_version"]

    ids = [f"user-{i}" for i in range(60)]
    first = [version(i) for i in ids]
    assert [version(i) for i in ids] == first
    assert set(first) == {"1", "2"}


def wrong(change, message):
    return pytest.param(change, message, id=message[:40])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        wrong({"datatype": "FP32"}, "input 'input' has datatype FP32; expected FP64"),
        wrong({"datatype": "FP99"}, "datatype FP99; expected FP64"),
        wrong({"shape": [3, 2]}, "shape [3, 2]; expected [-1, 3]"),
        wrong({"shape": [6]}, "shape [6]; expected [-1, 3]"),
        wrong({"shape": [0, 3], "data": []}, "shape [0, 3]; expected [-1, 3]"),
        wrong({"shape": [-2, 3]}, "shape [-2, 3]; expected [-1, 3]"),
        wrong({"shape": [9, 3]}, "has 6 values; expected 27 for shape [9, 3]"),
        wrong({"shape": [2**62, 3]}, "has 6 values; expected"),
        wrong({"name": "x"}, "input 'x' is unknown; expected input (FP64 [-1, 3])"),
        wrong({"data": [1, 2, 3, 4, 5, "6"]}, 'takes numbers or null; value 5 is "6"'),
        wrong({"data": [1, 2, 3, 4, 5, True]}, "takes numbers or null; value 5 is true"),
        wrong({"data": [[1, 2], [3, 4], [5, 6]]}, "the nesting of data does not have its shape"),
        wrong({"data": [1, 2, 3, 4, 5, {}]}, "value 5 is an object"),
        wrong({"data": [1, 2, 3, 4, 5, 10**400]}, "input 'input'"),
        wrong({"data": "text"}, "Expected `array | null`, got `str` - at `$.inputs[0].data`"),
        wrong({"data": None}, "neither data nor the parameter binary_data_size"),
        wrong({"parameters": {"binary_data_size": 48}}, "both data and binary_data_size"),
        wrong(
            {"data": None, "parameters": {"binary_data_size": 48}},
            "binary_data_size is 48, and 0 bytes are left",
        ),
        wrong(
            {"data": None, "parameters": {"binary_data_size": -1}},
            "binary_data_size is not a size: -1",
        ),
        wrong({"data": [1, 2, 3, 4, 5, None]}, "NaN"),
    ],
)
def test_a_wrong_input_is_refused_and_says_why(server, change, message):
    answer = server.infer("sums", {"inputs": [{**tensor(ROWS), **change}]})
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not an inference request: Input data was truncated"),
        (b"{", "not an inference request"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": []}', "input input is missing; expected input (FP64 [-1, 3])"),
        (b'{"inputs": [1]}', "Expected `object`, got `int` - at `$.inputs[0]`"),
        (b"\xff\xfe", "not an inference request"),
        (b"[" * 100_000, "not an inference request"),
        (json.dumps({"inputs": [tensor(ROWS)] * 2}).encode(), "input 'input' is twice"),
        (
            json.dumps({"inputs": [tensor(ROWS)], "outputs": [{"name": "q"}]}).encode(),
            "there is no output 'q'; outputs: predict",
        ),
        (json.dumps({"inputs": [tensor(ROWS)], "id": "x" * 257}).encode(), "256 characters"),
    ],
)
def test_a_wrong_body_is_refused_and_says_why(server, body, message):
    answer = server.infer("sums", body)
    assert answer.status == 400
    assert message in answer.error


def test_binary_data_must_have_its_sizes(server):
    def ask(size, data, header_length=None):
        rows = {"name": "input", "datatype": "FP64", "shape": [2, 3]}
        head = json.dumps({"inputs": [{**rows, "parameters": {"binary_data_size": size}}]})
        length = {"Inference-Header-Content-Length": str(header_length or len(head))}
        return server.infer("sums", head.encode() + data, headers=length)

    assert ask(48, ROWS.tobytes()).status == 200
    for size, data, length, message in (
        (40, ROWS.tobytes()[:40], None, "binary_data_size is 40; expected 48"),
        (48, ROWS.tobytes()[:-1], None, "binary_data_size is 48, and 47 bytes are left"),
        (48, ROWS.tobytes() + b"more", None, "4 bytes more than"),
        (48, ROWS.tobytes(), 10_000, "Inference-Header-Content-Length is 10000"),
        (48, ROWS.tobytes(), "x", "Inference-Header-Content-Length is not a number"),
        ("48", ROWS.tobytes(), None, "binary_data_size is not a size: '48'"),
    ):
        answer = ask(size, data, length)
        assert answer.status == 400
        assert message in answer.error


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<I", 4) + b"grey", None),
        (struct.pack("<I", 5) + b"grey", "its last element is cut off"),
        (struct.pack("<I", 4) + b"grey\0", "its last element is cut off"),
        (struct.pack("<I", 2) + b"\xff\xfe", "element 0 is not UTF-8"),
        (struct.pack("<I", 1) + b"a" + struct.pack("<I", 1) + b"b", "has 2 elements; expected 1"),
    ],
)
def test_binary_texts_must_be_whole(server, data, message):
    inputs = [
        {
            "name": "sky",
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"binary_data_size": len(data)},
        },
        {"name": "wind", "datatype": "INT64", "shape": [1], "data": [2]},
        {"name": "warm", "datatype": "BOOL", "shape": [1], "data": [False]},
    ]
    head = json.dumps({"inputs": inputs}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    answer = server.infer("weather", head + data, headers=length)
    assert answer.status == (400 if message else 200)
    assert message is None or message in answer.error


def test_whole_numbers_keep_their_range(server):
    def ask(value):
        inputs = [
            {"name": "sky", "datatype": "BYTES", "shape": [1], "data": ["blue"]},
            {"name": "wind", "datatype": "INT64", "shape": [1], "data": [value]},
            {"name": "warm", "datatype": "BOOL", "shape": [1], "data": [False]},
        ]
        return server.infer("weather", {"inputs": inputs})

    assert ask(2**62).status == 200
    assert "takes whole numbers; value 0 is 1.5" in ask(1.5).error
    assert "does not fit into INT64" in ask(2**63).error


def test_one_long_text_does_not_take_the_memory(server):
    rows = 2000
    inputs = [
        {
            "name": "sky",
            "datatype": "BYTES",
            "shape": [rows],
            "data": ["x"] * (rows - 1) + ["y" * 100_000],
        },
        {"name": "wind", "datatype": "INT64", "shape": [rows], "data": [1] * rows},
        {"name": "warm", "datatype": "BOOL", "shape": [rows], "data": [True] * rows},
    ]
    answer = server.infer("weather", {"inputs": inputs})
    assert answer.status == 400
    assert "too much for one request; send fewer rows" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        (
            "POST",
            "/v2/models/none/infer",
            404,
            "no endpoint 'none'; endpoints: both, sums, weather",
        ),
        ("GET", "/v2/models/none", 404, "there is no endpoint 'none'"),
        ("POST", "/v2/models/both/versions/9/infer", 404, "no version '9'; versions: 1, 2"),
        ("GET", "/v2/models/sums/infer", 405, "use POST here"),
        ("POST", "/v2/health/live", 405, "use GET or HEAD here"),
        ("DELETE", "/v2/models/sums", 405, "use GET or HEAD here"),
        ("GET", "/v3", 404, "no such path: /v3"),
        ("GET", "/v2/models", 404, "no such path"),
    ],
)
def test_a_wrong_path_is_refused_and_says_why(server, method, path, status, message):
    answer = server.ask(method, path, b"{}" if method == "POST" else None)
    assert answer.status == status
    assert message in answer.error


def test_head_has_no_body(server):
    answer = server.ask("HEAD", "/v2/models/sums")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 100


def test_bombs_and_damaged_compression_are_refused(server):
    for body, message in (
        (gzip.compress(bytes(40 * 1024 * 1024)), "larger than 33554432 bytes when decompressed"),
        (b"not gzip", "the body is not gzip"),
        (gzip.compress(b"{}")[:-4], "cut off"),
    ):
        answer = server.infer("sums", body, headers={"Content-Encoding": "gzip"})
        assert answer.status == 415
        assert message in answer.error
    answer = server.infer("sums", b"x", headers={"Content-Encoding": "br"})
    assert "gzip, deflate or identity" in answer.error


# -- access -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("token", ["", "wrong", "ü"])
def test_without_a_known_token_every_route_is_closed(server, method, path, token):
    body = b"{}" if method == "POST" else None
    answer = server.ask(method, path, body, token=token.encode().decode("latin-1"))
    assert answer.status == 401
    assert "token" in answer.error
    assert answer.headers["www-authenticate"] == "Bearer"


def test_only_health_is_public(server):
    assert {"/v2/health/live", "/v2/health/ready"} == PUBLIC
    for path in PUBLIC:
        assert server.ask("GET", path, token=None).status == 200


def test_a_token_may_do_what_its_user_may(server):
    from madang.deployment.serving._state import hash_token

    def grant(secret, name, *permissions, expires_us=None):
        return TokenGrant(hash_token(secret), name, frozenset(permissions), expires_us)

    server.stack.serving.refresh_tokens(
        [
            grant("all", "ann", "*:*"),
            grant("caller", "bob", "endpoint:predict"),
            grant("reader", "cai", "*:read"),
            grant("late", "dan", "*:*", expires_us=1),
        ]
    )
    infer = {"inputs": [tensor(ROWS)]}
    until(lambda: server.ask("GET", "/v2", token="all").status == 200)
    assert server.infer("sums", infer, token="all").status == 200
    assert server.infer("sums", infer, token="caller").status == 200
    assert server.ask("GET", "/metrics", token="reader").status == 200
    refused = server.infer("sums", infer, token="reader")
    assert (refused.status, refused.error) == (403, "cai lacks the permission endpoint:predict")
    assert server.ask("GET", "/metrics", token="caller").status == 403
    assert server.ask("GET", "/v2", token="late").status == 401
    server.stack.serving.refresh_tokens([])
    until(lambda: server.ask("GET", "/v2", token="all").status == 401)
    assert server.infer("sums", infer).status == 200  # the own token stays


def test_tokens_of_the_identity_component_are_accepted(server):
    identity = server.stack.identity
    identity.create_user("eve", roles=["viewer"])
    token, info = identity.create_token("eve")
    server.stack.serving.refresh_tokens()
    until(lambda: server.infer("sums", {"inputs": [tensor(ROWS)]}, token=token).status == 200)
    identity.revoke_token(info.id)
    server.stack.serving.refresh_tokens()
    until(lambda: server.ask("GET", "/v2", token=token).status == 401)


def test_the_files_are_for_their_owner_only(server):
    for path in [server.files.folder, *server.files.folder.rglob("*")]:
        if path.is_dir() or path.suffix == ".json" or path.name == "token":
            if server.files.models not in path.parents:  # its folder is closed
                assert path.stat().st_mode & 0o077 == 0, path
    assert server.token.encode() not in server.files.desired.read_bytes()
    assert server.token not in server.files.log.read_text()


# -- metrics ----------------------------------------------------------------------------------


def metrics(server):
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    return {k: float(v) for k, v in (s.rsplit(" ", 1) for s in lines if s[0] != "#")}


def test_metrics_count_what_happened(server):
    before = metrics(server)
    for _ in range(5):
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
    assert server.infer("sums", {"inputs": []}).status == 400
    assert server.infer("none", {"inputs": []}).status == 404
    after = metrics(server)

    def grown(key):
        return after.get(key, 0) - before.get(key, 0)

    labels = 'endpoint="sums",model_version="2"'
    assert grown(f"madang_predictions_total{{{labels}}}") == 5
    assert grown(f"madang_prediction_rows_total{{{labels}}}") == 10
    assert grown(f"madang_prediction_seconds_count{{{labels}}}") == 5
    assert grown(f'madang_prediction_seconds_bucket{{{labels},le="+Inf"}}') == 5
    assert grown(f"madang_prediction_seconds_sum{{{labels}}}") > 0
    assert grown(f'madang_prediction_errors_total{{{labels},status="400"}}') == 1
    unknown = 'madang_prediction_errors_total{endpoint="",model_version="",status="404"}'
    assert grown(unknown) == 1
    assert after["madang_prediction_log_lost_total"] == 0
    until(lambda: metrics(server)["madang_prediction_log_queued"] == 0)


def test_metrics_are_what_prometheus_reads(server):
    server.infer("sums", {"inputs": [tensor(ROWS)]})
    text = server.ask("GET", "/metrics").body.decode()
    sample = re.compile(
        r'([a-z_]+?)(_bucket|_sum|_count)?(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? \S+'
    )
    described = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert kind in ("counter", "gauge", "histogram")
            described.add(name)
        elif not line.startswith("# HELP "):
            found = sample.fullmatch(line)
            assert found, line
            assert found[1] in described, line
            float(line.rsplit(" ", 1)[1])
    counts = metrics(server)
    of = 'endpoint="sums",model_version="2"'
    buckets = [
        v for k, v in counts.items() if k.startswith(f"madang_prediction_seconds_bucket{{{of}")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == counts[f"madang_prediction_seconds_count{{{of}}}"]
    if shutil.which("promtool"):
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- whatever comes ---------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NEAR = st.fixed_dictionaries(
    {"name": st.sampled_from(["input", "x"]) | JSON},
    optional={
        "shape": st.lists(st.integers(), max_size=3) | JSON,
        "datatype": st.sampled_from(["FP64", "INT64", "BYTES"]) | JSON,
        "data": st.lists(st.floats() | st.integers(), max_size=6) | JSON,
        "parameters": st.dictionaries(st.just("binary_data_size"), JSON) | JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(NEAR, max_size=2) | JSON},
    optional={"id": JSON, "outputs": JSON, "parameters": JSON},
)


@given(body=st.binary(max_size=200) | REQUESTS.map(lambda r: json.dumps(r).encode()))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_body_gets_an_answer_that_is_not_a_fault_of_the_server(server, body):
    answer = server.infer("sums", body)
    assert answer.status in (200, 400)
    assert answer.status == 200 or answer.error
