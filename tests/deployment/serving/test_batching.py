"""Batches: what goes together, what goes alone, and slow models in threads."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from madang.deployment.serving import _batching
from madang.deployment.serving._batching import MAX_BATCH_ROWS, Batcher, Call, DeadlinePassedError
from madang.deployment.serving._endpoints import ServedEndpoint, Version
from madang.deployment.serving._state import WantedArm, WantedEndpoint
from madang.deployment.serving._tensors import InferRequest
from madang.development.experiments import Signature, TensorSpec
from madang.errors import InvalidInputError


class Asker:
    """Who waits for an answer, over whatever."""

    started = 0.0
    gone = False


class Doubling:
    """Answers twice the input; refuses negative values; remembers the sizes of its batches."""

    def __init__(self, shape=(-1, 2), datatype="FP64"):
        self.signature = Signature(
            (TensorSpec("input", datatype, shape),), (TensorSpec("predict", "FP64", (-1,)),)
        )
        self.sizes = []

    def predict(self, inputs):
        rows = inputs["input"]
        self.sizes.append(len(rows))
        if rows.dtype.kind != "f":
            return {"predict": np.char.str_len(rows).astype(float)}
        if (rows < 0).any():
            raise InvalidInputError("a value is negative")
        return {"predict": rows.sum(axis=1) * 2}


def version(model, weight=1.0, number=1):
    wanted = WantedEndpoint("e", 1, False, ())
    return Version(wanted, WantedArm("m", number, weight, "d"), model)


def run(served, arrays, between=None):
    """Adds a call for each array in one turn of a loop; the results in order of the calls."""
    results = {}

    async def main():
        done = asyncio.Event()

        def finish(call, result):
            assert call not in results
            results[call] = result
            if len(results) == len(calls):
                done.set()

        batcher = Batcher(finish)
        calls = [
            Call(Asker(), InferRequest([]), served, {"input": array}, str(i))
            for i, array in enumerate(arrays)
        ]
        for call in calls:
            batcher.add(call)
        if between:
            await between()
        await asyncio.wait_for(done.wait(), 30)
        batcher.close()
        return [results[call] for call in calls]

    return asyncio.run(main())


def rows(*values):
    return np.array([[value, 0.0] for value in values])


def test_one_turn_of_the_loop_is_one_call_and_each_gets_its_own():
    model = Doubling()
    found = run(version(model), [rows(1), rows(2, 3), rows(4)])
    assert model.sizes == [4]
    assert [result["predict"].tolist() for result in found] == [[2], [4, 6], [8]]


def test_one_bad_request_does_not_spoil_the_others():
    model = Doubling()
    found = run(version(model), [rows(1), rows(-1), rows(3)])
    assert found[0]["predict"].tolist() == [2]
    assert isinstance(found[1], InvalidInputError)
    assert found[2]["predict"].tolist() == [6]
    assert model.sizes == [3, 1, 1, 1]


def test_a_batch_has_a_largest_size():
    model = Doubling()
    arrays = [np.zeros((MAX_BATCH_ROWS // 2, 2)) for _ in range(5)] + [
        np.zeros((3 * MAX_BATCH_ROWS, 2))
    ]
    found = run(version(model), arrays)
    assert [len(result["predict"]) for result in found] == [len(array) for array in arrays]
    half = MAX_BATCH_ROWS // 2
    assert model.sizes == [2 * half, 2 * half, half, 3 * MAX_BATCH_ROWS]


def test_a_long_text_goes_alone():
    model = Doubling((-1,), "BYTES")
    texts = [np.array([text]) for text in ("a", "b" * 5000, "cc", "dd")]
    found = run(version(model), texts)
    assert [result["predict"].tolist() for result in found] == [[1], [5000], [2], [2]]
    assert model.sizes == [1, 1, 2]


@pytest.mark.parametrize("shape", [(3, 2), (-1, -1)])
def test_what_can_not_be_stacked_goes_one_by_one(shape):
    model = Doubling(shape)
    assert len(run(version(model), [rows(1), rows(2)])) == 2
    assert model.sizes == [1, 1]


def test_a_model_that_mixes_rows_is_not_batched():
    class Summing(Doubling):
        def predict(self, inputs):
            self.sizes.append(len(inputs["input"]))
            return {"predict": inputs["input"].sum(axis=(0, 1), keepdims=True)[0]}

    model = Summing()
    served = version(model)
    found = run(served, [rows(1), rows(2)])
    assert [result["predict"].tolist() for result in found] == [[1], [2]]
    assert not served.batchable


def test_a_slow_model_leaves_the_loop_free_and_what_comes_meanwhile_is_one_batch():
    entered, release = threading.Event(), threading.Event()

    class Slow(Doubling):
        def predict(self, inputs):
            entered.set()
            assert release.wait(30)
            return super().predict(inputs)

    model = Slow()
    served = version(model)
    served.seconds = 1.0
    results = []

    async def main():
        batcher = Batcher(lambda _, result: results.append(result))

        def add(value):
            batcher.add(Call(Asker(), InferRequest([]), served, {"input": rows(value)}, "i"))

        add(1)
        while not entered.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.001)  # the loop runs while the model predicts
        add(2)
        add(3)
        await asyncio.sleep(0.01)
        release.set()
        while len(results) < 3:  # noqa: ASYNC110 - a callback fills it
            await asyncio.sleep(0.001)
        batcher.close()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert model.sizes == [1, 2]
    assert [result["predict"].tolist() for result in results] == [[2], [4], [6]]


def test_a_request_that_is_late_at_once_leaves_those_of_other_models():
    """Both are predicted on the loop, one after the other."""
    results = []

    async def main():
        batcher = Batcher(lambda _, result: results.append(result))
        for model, deadline in ((Doubling(), 0.0), (Doubling(), np.inf)):
            inputs = {"input": rows(1)}
            batcher.add(
                Call(Asker(), InferRequest([]), version(model), inputs, "i", deadline=deadline)
            )
        while len(results) < 2:  # noqa: ASYNC110 - a callback fills it
            await asyncio.sleep(0.001)
        assert batcher.waiting == 0
        batcher.close()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert isinstance(results[0], DeadlinePassedError)
    assert results[1]["predict"].tolist() == [2]


class Centering(Doubling):
    """A row's output depends on the other rows."""

    def predict(self, inputs):
        self.sizes.append(len(inputs["input"]))
        return {"predict": inputs["input"].sum(axis=1) - inputs["input"].mean()}


class Two(Doubling):
    """Two outputs, whatever the rows."""

    def predict(self, inputs):
        self.sizes.append(len(inputs["input"]))
        return {"predict": np.array([1.0, 2.0])}


@pytest.mark.parametrize("kind", [Centering, Two])
def test_a_model_that_looks_at_other_rows_is_found_before_the_first_request(kind):
    """Though it gives as many outputs as two requests have rows."""
    model = kind()
    served = version(model)
    served.warm_up({"input": rows(1, 5, 9)})
    model.sizes.clear()
    run(served, [rows(1), rows(2)])
    assert model.sizes == [1, 1]


def test_shares_follow_the_weights_and_ids_stay():
    arms = [version(Doubling(), weight, number) for number, weight in ((1, 1), (2, 0), (3, 4))]
    endpoint = ServedEndpoint(WantedEndpoint("e", 1, False, ()), arms)
    ids = [f"request-{i}" for i in range(10_000)]
    chosen = [endpoint.choose(i).number for i in ids]
    assert [endpoint.choose(i).number for i in ids] == chosen
    assert 1800 < chosen.count(1) < 2200  # p = 1/5: five standard deviations
    assert chosen.count(2) == 0
    assert endpoint.main.number == 3
    by_chance = [endpoint.choose(None).number for _ in range(10_000)]
    assert 1800 < by_chance.count(1) < 2200
    assert by_chance.count(2) == 0


def test_the_clock_of_latencies_runs():
    assert _batching.now() <= _batching.now()
