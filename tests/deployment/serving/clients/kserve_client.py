"""Asks endpoints with KServe's client, in its own environment: URL, gRPC address and token as arguments.

Endpoints: `sums` gives twice a row's sum; `weather` takes sky, wind and warm, and gives rain or dry.
"""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput

ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def rows(*, binary):
    made = InferInput("input", [2, 3], "FP64")
    made.set_data_from_numpy(ROWS, binary_data=binary)
    return made


def weather(*, binary):
    made = []
    for name, datatype, values in (
        ("sky", "BYTES", np.array(["grey", "blue"], object)),
        ("wind", "INT64", np.array([3, 2])),
        ("warm", "BOOL", np.array([True, False])),
    ):
        one = InferInput(name, [2], datatype)
        one.set_data_from_numpy(values, binary_data=binary)
        made.append(one)
    return made


def of(response, name):
    (found,) = [output for output in response.outputs if output.name == name]
    return found.as_numpy()


async def over_http(url, headers):
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "sums", headers=dict(headers))
        assert not await client.is_model_ready(url, "none", headers=dict(headers))
        for binary_in in (True, False):
            for binary_out in (True, False):
                request = InferRequest(
                    "sums",
                    [rows(binary=binary_in)],
                    request_id="k1",
                    request_outputs=[RequestedOutput("predict", {"binary_data": binary_out})],
                )
                answer = await client.infer(url, request, "sums", headers=dict(headers))
                # The client does not read the version.
                assert (answer.id, answer.model_name) == ("k1", "sums")
                np.testing.assert_allclose(of(answer, "predict"), [12.0, 30.0])
        for binary in (True, False):
            request = InferRequest("weather", weather(binary=binary))
            answer = await client.infer(url, request, "weather", headers=dict(headers))
            texts = [t.decode() if isinstance(t, bytes) else t for t in of(answer, "predict")]
            assert texts == ["rain", "dry"], texts
        try:
            wrong = InferRequest("sums", [InferInput("input", [2, 2], "FP64", [1.0] * 4)])
            await client.infer(url, wrong, "sums", headers=dict(headers))
        except httpx.HTTPStatusError as error:
            assert "shape [2, 2]; expected [-1, 3]" in str(error), error
        else:
            raise AssertionError("a wrong shape was taken")


async def over_grpc(address, metadata):
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("sums", headers=metadata)
        for binary in (True, False):
            answer = await client.infer(
                InferRequest("sums", [rows(binary=binary)], request_id="k2"), headers=metadata
            )
            assert answer.id == "k2"
            np.testing.assert_allclose(of(answer, "predict"), [12.0, 30.0])
            answer = await client.infer(
                InferRequest("weather", weather(binary=binary)), headers=metadata
            )
            texts = [t.decode() if isinstance(t, bytes) else t for t in of(answer, "predict")]
            assert texts == ["rain", "dry"], texts


def main():
    url, address, token = sys.argv[1:]
    asyncio.run(over_http(url, {"Authorization": f"Bearer {token}"}))
    asyncio.run(over_grpc(address, (("authorization", f"Bearer {token}"),)))
    print(json.dumps({"passed": ["http", "grpc"]}))


if __name__ == "__main__":
    main()
