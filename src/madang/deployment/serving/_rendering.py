"""A prediction as the bytes of an answer over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from madang.deployment.serving._tensors import Parameters, binary_output, encode, json_output

if TYPE_CHECKING:
    from madang.deployment.serving._batching import Call


def render(call: Call, outputs: dict[str, Any]) -> tuple[bytes, int | None]:
    """`$inference_response`: the body, and where its JSON ends if binary data follows."""
    request, names = call.request, call.version.output_names
    everything = bool(request.parameters and request.parameters.get("binary_data_output"))
    if request.outputs:
        wanted = [
            (output.name, _is_binary(output.parameters, everything)) for output in request.outputs
        ]
    else:
        wanted = [(name, everything) for name in outputs]
    parts, blobs = [], []
    for name, binary in wanted:
        if binary:
            part, blob = binary_output(names[name], outputs[name])
            blobs.append(blob)
        else:
            part = json_output(names[name], outputs[name])
        parts.append(part)
    head = b'%b%b,"outputs":[%b]}' % (call.version.head, encode(call.id), b",".join(parts))
    return (head + b"".join(blobs), len(head)) if blobs else (head, None)


def _is_binary(parameters: Parameters | None, default: bool) -> bool:  # noqa: FBT001 - private
    return bool(parameters.get("binary_data", default)) if parameters else default
