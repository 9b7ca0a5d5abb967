"""A prediction as the bytes of an answer over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from madang.deployment.serving._parameters import wants_binary
from madang.deployment.serving._tensors import Array, Parameters, binary_output, encode, json_output

if TYPE_CHECKING:
    from madang.deployment.serving._batching import Call


def render(call: Call, outputs: dict[str, Array]) -> tuple[bytes, int | None]:
    """`$inference_response`: the body, and where its JSON ends if binary data follows."""
    request, names = call.request, call.version.output_names
    everything = wants_binary(request)
    blobs: list[bytes] = []
    if request.outputs:
        parts = [
            _part(names[output.name], outputs[output.name], blobs)
            if _is_binary(output.parameters, everything)
            else json_output(names[output.name], outputs[output.name])
            for output in request.outputs
        ]
    elif everything:
        parts = [_part(names[name], array, blobs) for name, array in outputs.items()]
    else:
        parts = [json_output(names[name], array) for name, array in outputs.items()]
    head = b'%b%b,"outputs":[%b]}' % (call.version.head, encode(call.id), b",".join(parts))
    return (head + b"".join(blobs), len(head)) if blobs else (head, None)


def _part(name: bytes, array: Array, blobs: list[bytes]) -> bytes:
    part, blob = binary_output(name, array)
    blobs.append(blob)
    return part


def _is_binary(parameters: Parameters | None, default: bool) -> bool:  # noqa: FBT001 - private
    return bool(parameters.get("binary_data", default)) if parameters else default
