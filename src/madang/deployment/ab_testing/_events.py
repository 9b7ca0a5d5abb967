"""From the events of topics to the rows of a rollout."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa

from madang.deployment.ab_testing._observations import Outcome, Prediction
from madang.deployment.ab_testing._scores import answer_of, as_number, named_value
from madang.deployment.ab_testing.contract import Plan
from madang.errors import InvalidInputError


class _Assigned(msgspec.Struct):
    id: str
    stage: int
    unit: str | None = None
    shadow: bool = False


class _Predicted(msgspec.Struct):
    id: str
    version: int
    rollout: _Assigned | None = None
    latency_seconds: float = math.nan
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    features: list[dict[str, Any]] = []
    error: int | None = None


class _Assignment(msgspec.Struct):
    rollout: _Assigned | None = None


class _Happened(msgspec.Struct):
    id: str
    value: Any
    time: datetime | None = None


_assignment = msgspec.json.Decoder(_Assignment).decode
_predicted = msgspec.json.Decoder(_Predicted).decode
# Numbers of NumPy are as good as others.
_encode = msgspec.json.Encoder(enc_hook=lambda value: value.tolist()).encode
_happened = msgspec.json.Decoder(_Happened).decode


def predictions(batch: pa.RecordBatch, rollout: str, plan: Plan) -> list[Prediction]:
    """The requests of a rollout among events of the prediction log, or of copies and failures."""
    # It brings SciPy, which a control process without rollouts does without.
    from madang.deployment.ab_testing.statistics import bucket_of

    found = []
    groups = [guard.group for guard in plan.guards if guard.kind == "fairness"]
    rows = zip(
        *(batch.column(name).to_pylist() for name in ("partition", "offset", "value")), strict=True
    )
    for partition, offset, value in rows:
        assigned = _assignment(value).rollout
        if assigned is None or assigned.id != rollout:
            continue
        event = _predicted(value)
        failed = event.error is not None
        tensors = [*event.inputs, *event.features]
        covariate = plan.target.covariate if plan.target else ""
        found.append(
            Prediction(
                # A failed request may be sent again under its id, and is a request of its own.
                f"failed:{partition}:{offset}" if failed else event.id,
                event.version,
                assigned.stage,
                event.id if assigned.unit is None else f"key:{assigned.unit}",
                str(named_value(groups[0], tensors)) if groups else "",
                None if failed or assigned.shadow else int(bucket_of(event.latency_seconds)),
                failed,
                as_number(named_value(covariate, tensors)) if covariate else None,
                msgspec.json.encode(answer_of(plan.target, event.outputs)).decode(),
            )
        )
    return found


def outcomes(batch: pa.RecordBatch) -> tuple[list[Outcome], list[str]]:
    """The outcomes of a batch of events; and those that are none, with the reasons."""
    found, problems = [], []
    times = batch.column("timestamp").cast(pa.int64()).to_pylist()
    for value, time_us in zip(batch.column("value").to_pylist(), times, strict=True):
        try:
            event = _happened(value or b"")
        except msgspec.MsgspecError as error:
            problems.append(f"an outcome is an object with id and value: {error}")
            continue
        if event.time is not None:
            zoned = event.time if event.time.tzinfo else event.time.replace(tzinfo=UTC)
            time_us = round(zoned.timestamp() * 1e6)  # noqa: PLW2901 - its own time counts
        found.append(Outcome(event.id, msgspec.json.encode(event.value).decode(), time_us))
    return found, problems


def outcome_events(ids: list[str], values: list[Any]) -> pa.RecordBatch:
    """Events for a topic of outcomes, to be appended to it.

    Args:
        ids: Of the predictions.
        values: What really happened: numbers, texts, truth values, lists with one of these for each
            row of the request, or `None` to withdraw an outcome.

    Raises:
        InvalidInputError: A number is not finite, which JSON can't say.
    """
    from madang.data.collection.contract import events

    for id, value in zip(ids, values, strict=True):
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
            raise InvalidInputError(f"the outcome of {id} is {value}; None withdraws an outcome")
    encoded = [_encode({"id": id, "value": value}) for id, value in zip(ids, values, strict=True)]
    return events(encoded, keys=[id.encode() for id in ids])
