"""Traffic of a rollout without workers: the events that they would write, by the same assignment."""

from __future__ import annotations

import msgspec

from madang.data.collection.contract import events
from madang.deployment.ab_testing import outcome_events
from madang.deployment.serving._assignment import chosen

START_US = 1_800_000_000_000_000


class Traffic:
    """Writes what the workers of an endpoint would log."""

    def __init__(self, stack, endpoint):
        self.stack = stack
        self.endpoint = endpoint
        self.sent = 0
        self.versions = {}

    def send(self, count, *, latency=lambda version: 0.01, fails=lambda number, version: False,
             units=None, inputs=lambda number: [], answers=lambda number, version: [0.0],
             broken=None, outcomes=None, ids=None):  # fmt: skip
        """Sends requests; `outcomes(number, version)` follow at once where given. Their ids."""
        endpoint = self.stack.serving.get(self.endpoint)
        split, weights = endpoint.split, [arm.weight for arm in endpoint.arms]
        logged, aside, made = [], [], []
        for _ in range(count):
            number, self.sent = self.sent, self.sent + 1
            id = ids(number) if ids else f"{number:08d}"
            unit = units(number) if units else None
            arm = endpoint.arms[chosen(split.salt.encode(), (unit or id).encode(), weights)]
            assigned = {"id": split.rollout, "stage": split.stage}
            if unit is not None:
                assigned["unit"] = unit
            event = self._event(id, arm, assigned, inputs(number), latency)
            if broken is not None and broken(number, arm.version):
                continue
            if fails(number, arm.version):
                aside.append({**event, "outputs": [], "error": 500})
                continue
            event["outputs"] = _outputs(answers(number, arm.version))
            self.versions[id] = arm.version
            logged.append(event)
            made.append((number, id))
            for version in split.shadows:
                copy = next(one for one in endpoint.arms if one.version == version)
                shadow = self._event(
                    id, copy, {**assigned, "shadow": True}, inputs(number), latency
                )
                aside.append({**shadow, "outputs": _outputs(answers(number, version))})
        self._append(f"predictions.{self.endpoint}", logged)
        self._append(f"rollouts.{self.endpoint}", aside)
        ids = [id for _, id in made]
        if outcomes is not None:
            self.happen(ids, [outcomes(number, self.versions[id]) for number, id in made])
        return ids

    def happen(self, ids, values):
        if ids:
            self.stack.collection.append(f"outcomes.{self.endpoint}", outcome_events(ids, values))

    def _event(self, id, arm, assigned, inputs, latency):
        return {
            "id": id,
            "endpoint": self.endpoint,
            "model": arm.model,
            "version": arm.version,
            "time": "2027-01-15T08:00:00.000000Z",
            "latency_seconds": latency(arm.version),
            "inputs": inputs,
            "rollout": assigned,
        }

    def _append(self, topic, found):
        if found:
            values = [msgspec.json.encode(event) for event in found]
            keys = [event["id"].encode() for event in found]
            self.stack.collection.append(topic, events(values, keys=keys))


def _outputs(values):
    return [{"name": "predict", "datatype": "FP64", "shape": [len(values)], "data": values}]


def text_input(name, value):
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]}


def number_input(name, value):
    return {"name": name, "datatype": "FP64", "shape": [1, 1], "data": [value]}
