"""The receipt of one prediction: from its id back to all that made it, with proofs.

    {"receipt": "madang-receipt/1", "prediction": {…}, "models": [{…}], "endpoint": {…}, "rollout": {…},
     "decisions": [{…}], "outcomes": [{…}], "explanation": {…},
     "proof": {"event": SealProof, "lines": [InclusionProof, …], "checkpoint": NOTE, "key": KEY}}

Whoever has the receipt and the public key checks it offline with `verify_receipt.py`, which needs
Python and `cryptography` alone. What `proof` holds is proven: the prediction as it was answered, and
each line of the ledger. The rest is read from these, except `outcomes` and the runs' parameters, which
are as they are known now, and `explanation`, which is computed anew.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from madang.errors import MadangError, NotFoundError
from madang.ledger import Line

if TYPE_CHECKING:
    from madang.stack import Stack

FORMAT = "madang-receipt/1"
LOGS = "predictions."

_OWN_ID = re.compile(r"[0-9a-f]{32}")
_SLACK = timedelta(minutes=1)  # clocks of workers differ, and an event is appended after its answer
_PAGE = 20_000
_MOST_LINES = 200


def receipt(
    stack: Stack, prediction_id: str, *, endpoint: str | None = None, explain: bool = True
) -> dict[str, Any]:
    """The receipt of a prediction, as JSON values.

    Its event is sealed first where that has not happened yet, and a checkpoint is signed where the
    newest one is older than one of its lines.

    Args:
        stack: The project.
        prediction_id: The `id` of the answer.
        endpoint: Where it was asked; default: all endpoints that keep a log are searched.
        explain: Whether the SHAP values of its inputs are computed.

    Raises:
        NotFoundError: No log has such a prediction (any more).
        IntegrityError: The event or a line is not what was sealed or signed.
    """
    topic, partition, offset, event = _find(stack, prediction_id, endpoint)
    stack.audit.seal(topic)
    sealed = stack.audit.prove_event(topic, partition, offset)
    models = [f"model:{ref}" for ref in event.get("models") or [_ref(event)]]
    about = _lines_about(stack, event, models)
    numbers = sorted({sealed.seq, *about})[-_MOST_LINES:]
    proofs = stack.audit.prove(numbers)
    found = [about[seq] for seq in numbers if seq in about]
    return {
        "receipt": FORMAT,
        "prediction": event,
        "models": [_model(stack, ref, found) for ref in models],
        "endpoint": _last(found, "endpoint."),
        "rollout": [_told(line) for line in found if line.kind.startswith("rollout.")],
        "decisions": [_told(line) for line in found if line.kind.startswith("policy.")],
        "outcomes": [
            {**asdict(one), "time": one.time.isoformat()}
            for one in stack.monitoring.outcomes_of(prediction_id)
        ],
        "explanation": _explanation(stack, event) if explain else None,
        "proof": {
            "event": asdict(sealed),
            "lines": [{"seq": p.seq, "line": p.line, "path": p.path} for p in proofs],
            "checkpoint": proofs[0].checkpoint.note,
            "key": stack.audit.verifier_key(),
        },
    }


# -- the prediction ----------------------------------------------------------------------------------


def _find(
    stack: Stack, prediction_id: str, endpoint: str | None
) -> tuple[str, int, int, dict[str, Any]]:
    """Topic, partition, offset and event of a prediction."""
    topics = [topic for topic in stack.collection.topics() if topic.name.startswith(LOGS)]
    if endpoint is not None:
        topics = [topic for topic in topics if topic.name == LOGS + endpoint]
    key = prediction_id.encode("utf-8", "replace")
    for topic in topics:
        for partition in range(topic.partitions):
            for start, end in _ranges(stack, topic, partition, prediction_id):
                for batch in _pages(stack, topic.name, partition, start, end):
                    at = pc.index(batch["key"], key).as_py()
                    if at >= 0:
                        event = json.loads(batch["value"][at].as_py())
                        return topic.name, partition, batch["offset"][at].as_py(), event
    logs = ", ".join(topic.name.removeprefix(LOGS) for topic in topics) or "none"
    raise NotFoundError(
        f"no prediction {prediction_id!r} is in a log; the endpoints searched are: {logs}. It may "
        "have been lost when a worker was killed, or removed by the log's retention"
    )


def _ranges(
    stack: Stack, topic: Any, partition: int, prediction_id: str
) -> Iterator[tuple[int, int]]:
    """Where to look: first around the time that an id of ours tells, then all."""
    first, end = topic.first_offsets[partition], topic.next_offsets[partition]
    if _OWN_ID.fullmatch(prediction_id):
        try:
            moment = datetime.fromtimestamp(int(prediction_id[:12], 16) / 1000, UTC)
            near = [
                stack.collection.offset_at(topic.name, partition, moment + shift)
                for shift in (-_SLACK, _SLACK)
            ]
        except (OverflowError, ValueError, OSError):
            near = []  # a client's own id that looks like one of ours
        if near:
            yield near[0], near[1]
    yield first, end


def _pages(stack: Stack, topic: str, partition: int, start: int, end: int) -> Iterator[Any]:
    while start < end:
        batch = stack.collection.read(topic, partition, start, max_events=min(_PAGE, end - start))
        if not batch.num_rows:
            return
        yield batch
        start = batch["offset"][-1].as_py() + 1


def _ref(event: Mapping[str, Any]) -> str:
    return f"{event['model']}@{event['version']}"


# -- the lines ---------------------------------------------------------------------------------------


def _lines_about(stack: Stack, event: Mapping[str, Any], models: list[str]) -> dict[int, Line]:
    """The lines that led to the prediction, by number; of its rollout also how that ended."""
    ledger, endpoint, time = stack.ledger, f"endpoint:{event['endpoint']}", event["time"]
    until = int(datetime.fromisoformat(time).timestamp() * 1_000_000) + 1
    lines: list[Line] = []
    for ref in models:
        name, _, version = ref.removeprefix("model:").rpartition("@")
        lines += ledger.origin(ref)
        lines += ledger.lines(subject=ref, until_us=until)
        moves = ledger.lines(kind="model.alias*", subject=f"model:{name}", until_us=until)
        lines += [line for line in moves if str(line.data.get("version")) == version]
        lines += [
            line
            for line in ledger.lines(kind="policy.*", text=ref, until_us=until)
            if ref in line.inputs
        ]
    changes = ledger.lines(kind="endpoint.*", subject=endpoint, until_us=until)
    lines += [line for line in changes if line.outputs][:1]
    rollout = (event.get("rollout") or {}).get("id")
    if rollout:
        lines += ledger.lines(subject=f"rollout:{rollout}")
    return {
        line.seq: line
        for line in lines
        if line.time <= time or line.subject == f"rollout:{rollout}"
    }


def _told(line: Line) -> dict[str, Any]:
    return {
        "line": line.seq, "time": line.time, "actor": line.actor, "kind": line.kind,
        "subject": line.subject, "inputs": list(line.inputs), "outputs": list(line.outputs),
        "data": dict(line.data),
    }  # fmt: skip


def _last(lines: list[Line], kind: str) -> dict[str, Any] | None:
    found = [line for line in lines if line.kind.startswith(kind)]
    return _told(found[-1]) if found else None


def _model(stack: Stack, ref: str, lines: list[Line]) -> dict[str, Any]:
    """What a version was made from, as its registration says, and its run's parameters."""
    registered = next((n for n in lines if n.kind == "model.register" and n.subject == ref), None)
    inputs = registered.inputs if registered else ()
    run = next((i.removeprefix("run:") for i in inputs if i.startswith("run:")), None)
    return {
        "ref": ref,
        "registered": _told(registered) if registered else None,
        "run": run,
        "parameters": _parameters(stack, run),
        "code": [i for i in inputs if i.startswith("code:")],
        "datasets": [i for i in inputs if i.startswith("dataset:")],
        "feature_views": [i for i in inputs if i.startswith("view:")],
        "lineage": [_told(line) for line in lines if not line.kind.startswith("policy.")],
    }


def _parameters(stack: Stack, run: str | None) -> dict[str, str] | None:
    if run is None:
        return None
    try:
        return dict(stack.experiments.get_run(run).params)
    except NotFoundError:  # the run of a pipeline, or one that was purged
        return None


# -- why ---------------------------------------------------------------------------------------------


def _explanation(stack: Stack, event: Mapping[str, Any]) -> dict[str, Any]:
    """SHAP values of the inputs, computed now by the same version; else the reason why not."""
    from madang.deployment.serving.logged import array
    from madang.development.experiments import formats
    from madang.development.experiments.explain import explain

    if event.get("models") or event.get("transformers") or event.get("features"):
        return {"missing": "it was answered by several parts; ask the endpoint's explain route"}
    name, version = event["model"], event["version"]
    try:
        with tempfile.TemporaryDirectory(prefix="madang-receipt-") as text:
            stack.registry.download(name, version, folder := Path(text))
            model = formats.load(folder, digest=stack.registry.get(name, version).digest)
            inputs = {tensor["name"]: array(tensor) for tensor in event["inputs"]}
            found = explain(model, inputs, background=formats.example_inputs(folder))
    except MadangError as error:
        return {"missing": str(error)}
    return {
        "method": found.method,
        "scale": found.scale,
        "columns": list(found.columns),
        "outputs": list(found.outputs),
        "base": found.base.tolist(),
        "values": found.values.tolist(),
    }
