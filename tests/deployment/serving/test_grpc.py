"""The Open Inference Protocol V2 over gRPC, asked by tritonclient's client and by hand."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.deployment.serving.conftest import Server, make_project, make_served, tensor
from tests.deployment.serving.gate import gated

from madang.deployment.serving import Arm, _grpc_messages as messages
from madang.deployment.serving._exchange import Limits
from madang.deployment.serving._grpc_port import require_grpc
from madang.deployment.serving.logged import array
from madang.errors import ConfigurationError, MissingDependencyError, UnavailableError
from madang.testing.serving import ROWS, logged, until


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A project as `server` has it, whose two workers speak gRPC too."""
    with make_served(tmp_path_factory.mktemp("grpc"), workers=2, options="&grpc_port=0") as stack:
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


@pytest.fixture
def headers(served):
    return {"authorization": f"Bearer {served.token}"}


@pytest.fixture
def triton(served):
    import tritonclient.grpc as client

    made = client.InferenceServerClient(served.stack.serving.grpc_url())
    yield made
    made.close()


@pytest.fixture
def channel(served):
    with grpc.insecure_channel(served.stack.serving.grpc_url()) as made:
        yield made


def triton_input(rows, name="input", datatype="FP64"):
    import tritonclient.grpc as client

    made = client.InferInput(name, list(rows.shape), datatype)
    made.set_data_from_numpy(rows)
    return made


def test_a_model_in_its_original_form_is_described(monkeypatch):
    """HTTP says why in `fallback`, for which the message has no place."""
    with gated() as gate, grpc.insecure_channel(gate.grpc_address) as channel:
        gate.model.fallback = "a package is missing"
        request = messages.message("ModelMetadataRequest")(name="gate").SerializeToString()
        metadata = (("authorization", f"Bearer {gate.token}"),)
        call = channel.unary_unary(f"/{messages.SERVICE}/ModelMetadata")
        answer = call(request, metadata=metadata, timeout=30)
    found = messages.message("ModelMetadataResponse").FromString(answer)
    assert (found.name, list(found.versions)) == ("gate", ["1"])


# -- tritonclient -----------------------------------------------------------------------------


def test_triton_sees_a_server_and_its_models(triton, headers):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    found = triton.get_server_metadata(headers)
    assert (found.name, "statistics" in found.extensions) == ("madang", True)
    assert triton.is_model_ready("sums", headers=headers)
    assert triton.is_model_ready("both", "1", headers=headers)
    described = triton.get_model_metadata("both", headers=headers, as_json=True)
    assert described == {
        "name": "both",
        "versions": ["1", "2"],
        "platform": "madang",
        "inputs": [{"name": "input", "datatype": "FP64", "shape": ["-1", "3"]}],
        "outputs": [{"name": "predict", "datatype": "FP64", "shape": ["-1"]}],
    }
    index = triton.get_model_repository_index(headers).models
    assert [(m.name, m.version, m.state) for m in index] == [
        ("both", "1", "READY"),
        ("both", "2", "READY"),
        ("sums", "2", "READY"),
        ("weather", "1", "READY"),
    ]


def test_triton_gets_predictions_that_equal_those_over_http(served, triton, headers):
    result = triton.infer("sums", [triton_input(ROWS)], request_id="r1", headers=headers)
    over_http = served.infer("sums", {"inputs": [tensor(ROWS)]}).json
    assert result.as_numpy("predict").tolist() == over_http["outputs"][0]["data"]
    response = result.get_response()
    assert (response.id, response.model_version) == ("r1", "2")
    assert len(response.raw_output_contents) == 1
    for version, values in (("1", [6.0, 15.0]), ("2", [12.0, 30.0])):
        result = triton.infer("both", [triton_input(ROWS)], version, headers=headers)
        np.testing.assert_allclose(result.as_numpy("predict"), values)
        assert result.get_response().model_version == version


def test_triton_sends_texts_whole_numbers_and_booleans(triton, headers):
    import tritonclient.grpc as client

    inputs = [
        triton_input(np.array(["grey", "blue"], object), "sky", "BYTES"),
        triton_input(np.array([3, 2]), "wind", "INT64"),
        triton_input(np.array([True, False]), "warm", "BOOL"),
    ]
    outputs = [client.InferRequestedOutput(name) for name in ("predict_proba", "predict")]
    result = triton.infer("weather", inputs, outputs=outputs, headers=headers)
    assert result.as_numpy("predict").tolist() == [b"rain", b"dry"]
    assert result.as_numpy("predict_proba").shape == (2, 2)
    assert [o.name for o in result.get_response().outputs] == ["predict_proba", "predict"]


def test_triton_is_told_what_is_wrong(triton, headers):
    from tritonclient.utils import InferenceServerException

    for ask, status, message in (
        (lambda: triton.infer("sums", [triton_input(ROWS[:, :2])], headers=headers),
         "INVALID_ARGUMENT", "shape [2, 2]; expected [-1, 3]"),
        (lambda: triton.infer("none", [triton_input(ROWS)], headers=headers),
         "NOT_FOUND", "no endpoint 'none'"),
        (lambda: triton.infer("sums", [triton_input(ROWS)], "9", headers=headers),
         "NOT_FOUND", "no version '9'"),
        (lambda: triton.infer("sums", [triton_input(ROWS)], sequence_id=3, headers=headers),
         "INVALID_ARGUMENT", "asks for a sequence"),
        (lambda: triton.infer("sums", [triton_input(ROWS)]), "UNAUTHENTICATED", "send a token"),
        (lambda: triton.get_model_metadata("none", headers=headers), "NOT_FOUND", "no endpoint"),
        (triton.get_model_repository_index, "UNAUTHENTICATED", "send a token"),
        (lambda: triton.get_model_config("sums", headers=headers), "UNIMPLEMENTED", "Method"),
    ):  # fmt: skip
        with pytest.raises(InferenceServerException) as refused:
            ask()
        assert refused.value.status() == f"StatusCode.{status}"
        assert message in refused.value.message()


def test_triton_reads_statistics(triton, headers):
    def read():
        (found,) = triton.get_inference_statistics("sums", headers=headers).model_stats
        return found

    for _ in range(3):
        triton.infer("sums", [triton_input(ROWS)], headers=headers)
    until(lambda: read().inference_stats.success.count >= 3)
    found = read()
    assert (found.name, found.version) == ("sums", "2")
    assert found.inference_count >= 2 * found.inference_stats.success.count
    assert found.inference_stats.compute_infer.ns > 0
    assert len(triton.get_inference_statistics(headers=headers).model_stats) == 4


def test_triton_loads_and_unloads(served, triton, headers):
    from tritonclient.utils import InferenceServerException

    triton.unload_model("weather", headers=headers)
    assert served.ask("GET", "/v2/models/weather/ready").status == 503
    with pytest.raises(InferenceServerException, match="unloaded"):
        triton.get_model_metadata("weather", headers=headers)
    triton.load_model("weather", headers=headers)
    assert triton.is_model_ready("weather", headers=headers)
    with pytest.raises(InferenceServerException, match="a model is registered"):
        triton.load_model("weather", headers=headers, config="{}")


# -- by hand ----------------------------------------------------------------------------------


def ask(channel, name, data, token=None, **options):
    call = channel.unary_unary(f"/{messages.SERVICE}/{name}")
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return call(data, metadata=metadata, timeout=30, **options)


def infer_request(**fields):
    return messages.message("ModelInferRequest")(**{"model_name": "sums", **fields})


def test_typed_contents_are_answered_with_typed_contents(served, channel):
    rows = {"name": "input", "datatype": "FP64", "shape": [2, 3]}
    request = infer_request(inputs=[{**rows, "contents": {"fp64_contents": ROWS.ravel()}}])
    answer = messages.message("ModelInferResponse").FromString(
        ask(channel, "ModelInfer", request.SerializeToString(), served.token)
    )
    np.testing.assert_allclose(answer.outputs[0].contents.fp64_contents, [12.0, 30.0])
    assert len(answer.id) == 32
    assert not answer.raw_output_contents
    request.parameters["binary_data_output"].bool_param = True
    answer = messages.message("ModelInferResponse").FromString(
        ask(channel, "ModelInfer", request.SerializeToString(), served.token)
    )
    np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0]), [12.0, 30.0])


def test_typed_texts_and_booleans(served, channel):
    request = messages.message("ModelInferRequest")(
        model_name="weather",
        inputs=[
            {"name": "sky", "datatype": "BYTES", "shape": [1],
             "contents": {"bytes_contents": [b"grey"]}},
            {"name": "wind", "datatype": "INT64", "shape": [1],
             "contents": {"int64_contents": [3]}},
            {"name": "warm", "datatype": "BOOL", "shape": [1],
             "contents": {"bool_contents": [True]}},
        ],
    )  # fmt: skip
    answer = messages.message("ModelInferResponse").FromString(
        ask(channel, "ModelInfer", request.SerializeToString(), served.token)
    )
    found = {output.name: output for output in answer.outputs}
    assert found["predict"].contents.bytes_contents == [b"rain"]
    assert len(found["predict_proba"].contents.fp64_contents) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw_input_contents": [b"12"]}, "binary_data_size is 2; expected 48"),
        ({"raw_input_contents": [b"12"] * 2}, "raw_input_contents has 2 tensors for 1 inputs"),
        ({}, "has 0 values; expected 6"),
        ({"id": "x" * 257}, "256 characters"),
        ({"inputs": [{"name": "input", "datatype": "FP16", "shape": [2, 3]}]}, "datatype FP16"),
        (
            {"inputs": [{"name": "input", "datatype": "FP64", "shape": [2, 3],
                         "contents": {"fp64_contents": [1]}}], "raw_input_contents": [b""]},
            "both contents and raw contents",
        ),
        ({"outputs": [{"name": "predict"}] * 2, "raw_input_contents": [ROWS.tobytes()]}, "twice"),
    ],
)  # fmt: skip
def test_wrong_messages_are_refused_and_say_why(served, channel, change, message):
    rows = {"name": "input", "datatype": "FP64", "shape": [2, 3]}
    request = infer_request(**{"inputs": [rows], **change})
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, "ModelInfer", request.SerializeToString(), served.token)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


def test_what_is_no_message_is_refused(served, channel):
    for name in ("ModelInfer", "ModelReady", "RepositoryModelLoad"):
        with pytest.raises(grpc.RpcError) as refused:
            ask(channel, name, b"\xff\xff\xff", served.token)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "the message is not a" in refused.value.details()


def test_only_health_is_public(channel):
    for name in messages.POOL.FindServiceByName(messages.SERVICE).methods_by_name:
        if name in ("ServerLive", "ServerReady"):
            ask(channel, name, b"")
            continue
        for token in (None, "wrong"):
            with pytest.raises(grpc.RpcError) as refused:
                ask(channel, name, b"", token)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_large_message_is_refused(served, channel):
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, "ModelInfer", bytes(33 * 1024 * 1024), served.token)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_predictions_are_logged_as_those_over_http(served, channel):
    stack, name = served.stack, "logged-grpc"
    stack.serving.deploy(name, [Arm("sums", 1)])
    request = infer_request(
        inputs=[{"name": "input", "datatype": "FP64", "shape": [2, 3]}],
        raw_input_contents=[ROWS.tobytes()],
        id="g1",
    )
    request.model_name = name
    ask(channel, "ModelInfer", request.SerializeToString(), served.token)
    served.infer(name, {"id": "h1", "inputs": [tensor(ROWS)]})
    events = {event.pop("id"): event for event in logged(stack, name, 2)}
    for event in events.values():
        del event["time"], event["latency_seconds"]
        for one in (*event["inputs"], *event["outputs"]):
            one["data"] = array(one).tolist()
            one.pop("data_base64", None)
    assert events["g1"] == events["h1"]
    stack.serving.undeploy(name)


# -- many requests, and the processes ------------------------------------------------------


def test_many_requests_at_once_get_their_own_answers(served):
    async def run():
        async with grpc.aio.insecure_channel(served.stack.serving.grpc_url()) as channel:
            call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
            metadata = (("authorization", f"Bearer {served.token}"),)

            async def one(i):
                request = infer_request(
                    inputs=[{"name": "input", "datatype": "FP64", "shape": [2, 3]}],
                    raw_input_contents=[(ROWS * i).tobytes()],
                    id=str(i),
                )
                data = await call(request.SerializeToString(), metadata=metadata)
                answer = messages.message("ModelInferResponse").FromString(data)
                assert answer.id == str(i)
                values = np.frombuffer(answer.raw_output_contents[0])
                np.testing.assert_allclose(values, [12.0 * i, 30.0 * i], atol=1e-9)

            await asyncio.gather(*[one(i) for i in range(500)])

    asyncio.run(run())


def test_a_drain_answers_what_has_begun():
    """With a model that waits until the server is told to stop."""
    request = infer_request(
        model_name="gate",
        inputs=[{"name": "input", "datatype": "FP64", "shape": [2, 3]}],
        raw_input_contents=[ROWS.tobytes()],
    ).SerializeToString()
    with gated() as gate, grpc.insecure_channel(gate.grpc_address) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
        metadata = (("authorization", f"Bearer {gate.token}"),)
        begun = call.future(request, metadata=metadata, timeout=30)
        until(gate.model.entered.is_set)
        stopping = gate.run(gate.grpc.stop(30))
        until(lambda: refused(gate.grpc_address))
        assert not stopping.done()
        gate.model.release.set()
        answer = messages.message("ModelInferResponse").FromString(begun.result())
        np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0]), [6.0, 15.0])
        stopping.result(30)


def refused(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_call_whose_deadline_passed_while_it_waited_is_not_computed():
    request = infer_request(
        model_name="gate",
        inputs=[{"name": "input", "datatype": "FP64", "shape": [2, 3]}],
        raw_input_contents=[ROWS.tobytes()],
    ).SerializeToString()
    with gated() as gate, grpc.insecure_channel(gate.grpc_address) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
        metadata = (("authorization", f"Bearer {gate.token}"),)
        first = call.future(request, metadata=metadata, timeout=30)
        until(gate.model.entered.is_set)
        with pytest.raises(grpc.RpcError) as late:
            call(request, metadata=metadata, timeout=0.1)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: gate.waiting == 1)
        left = call.future(request, metadata=metadata, timeout=30)
        until(lambda: gate.waiting == 2)
        left.cancel()
        until(lambda: gate.service.held_bytes == len(request))  # that of the first
        gate.model.release.set()
        assert first.result()
        call(request, metadata=metadata, timeout=30)
        assert gate.model.sizes == [2, 2]
        assert gate.service.held_bytes == 0


def test_more_waiting_calls_than_the_limit_are_refused():
    request = infer_request(
        model_name="gate",
        inputs=[{"name": "input", "datatype": "FP64", "shape": [2, 3]}],
        raw_input_contents=[ROWS.tobytes()],
    ).SerializeToString()
    with gated(Limits(max_waiting=2)) as gate:
        with grpc.insecure_channel(gate.grpc_address) as channel:
            call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
            metadata = (("authorization", f"Bearer {gate.token}"),)
            waiting = [call.future(request, metadata=metadata, timeout=30) for _ in range(2)]
            until(lambda: gate.waiting == 2)
            with pytest.raises(grpc.RpcError) as full:
                call(request, metadata=metadata, timeout=30)
            assert full.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "2 requests wait for their model" in full.value.details()
            gate.model.release.set()
            assert all(one.result() for one in waiting)


def test_without_the_option_nobody_speaks_grpc(server):
    assert server.stack.serving.grpc_url() is None


def test_a_taken_port_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with make_project(tmp_path, options=f"&grpc_port={port}") as stack:
            with pytest.raises(UnavailableError, match=f"can't listen on 127.0.0.1:{port} "):
                stack.serving.workers().start()


@pytest.mark.parametrize("port", ["x", "65536", "-1", ""])
def test_a_wrong_port_is_refused(tmp_path, port):
    with make_project(tmp_path, options=f"&grpc_port={port}") as stack:
        with pytest.raises(ConfigurationError, match="must be a port up to 65535"):
            _ = stack.serving


def test_asked_for_and_not_installed_is_said(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "grpc" else find(name)
    )
    require = r"needs the package 'grpc', .* pip install 'madang\[grpc\]'"
    with pytest.raises(MissingDependencyError, match=require):
        require_grpc()
    with make_project(tmp_path, options="&grpc_port=0") as stack:
        with pytest.raises(MissingDependencyError, match=require):
            stack.serving.workers().start()


# -- the messages --------------------------------------------------------------------------


def test_the_compiled_messages_are_those_of_the_proto_file(tmp_path):
    folder = Path(messages.__file__).parent
    made = tmp_path / "made.binpb"
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"-I{folder}"]
    subprocess.run([*command, f"--descriptor_set_out={made}", "inference.proto"], check=True)
    assert made.read_bytes() == (folder / "inference.binpb").read_bytes()


def test_the_messages_are_those_of_triton():
    """Each field has the number and type that another server's clients know it by."""
    from tritonclient.grpc import service_pb2

    def fields(message):
        return {
            (f.name, f.number, f.type, f.is_repeated, f.message_type and f.message_type.full_name)
            for f in message.fields
        }

    theirs = service_pb2.DESCRIPTOR.pool
    file = messages.POOL.FindFileContainingSymbol(messages.SERVICE)
    for name, message in file.message_types_by_name.items():
        for own in (message, *message.nested_types):
            other = theirs.FindMessageTypeByName(own.full_name)
            assert fields(own) <= fields(other), name
    methods = theirs.FindServiceByName(messages.SERVICE).methods_by_name
    for name, method in file.services_by_name["GRPCInferenceService"].methods_by_name.items():
        assert method.input_type.full_name == methods[name].input_type.full_name
        assert method.output_type.full_name == methods[name].output_type.full_name


def test_each_method_is_answered():
    from madang.deployment.serving._grpc import _METHODS

    service = messages.POOL.FindServiceByName(messages.SERVICE)
    assert set(_METHODS) == {f"/{messages.SERVICE}/{name}" for name in service.methods_by_name}
