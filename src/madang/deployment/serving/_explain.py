"""`POST /v2/models/NAME/explain`: what each input column added to each prediction.

The request is that of `infer`; the answer has the SHAP values of `madang.development.experiments.
explain` as nested lists. A chain, an ensemble or a model behind joined features is explained on
what its models take: the columns after `before` and with the features as they were read. It runs in
a thread of its own, so that predictions don't wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from madang.deployment.serving._composed import Composed
from madang.deployment.serving._endpoints import Version
from madang.deployment.serving._tensors import Array, encode
from madang.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from madang.development.experiments.explain import Explanation

MAX_ROWS = 100
"""How many rows one request may have explained."""

_MAX_WAITING = 16
_BACKGROUND = "the stored input example of the model version"
_OF_TREES = "the training data, as the trees remember it"


class Explanations:
    """Explains predictions, one request after the other. Lives on the event loop's thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "explain")
        self._waiting = 0

    def start(
        self,
        version: Version,
        inputs: dict[str, Array],
        request_id: str,
        done: Callable[[asyncio.Future[bytes]], None],
    ) -> None:
        """Begins to explain; `done` gets the answer's bytes, or what was raised.

        Raises:
            InvalidInputError: The request has too many rows.
            UnavailableError: Too many requests wait.
        """
        rows = len(next(iter(inputs.values())))
        if rows > MAX_ROWS:
            raise InvalidInputError(
                f"a request may have {MAX_ROWS} rows explained, found {rows}; send several"
            )
        if self._waiting >= _MAX_WAITING:
            raise UnavailableError(f"{_MAX_WAITING} explanations wait; try again later")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, answer, version, inputs, request_id)

        def finished(future: asyncio.Future[bytes]) -> None:
            self._waiting -= 1
            if not future.cancelled():
                done(future)

        work.add_done_callback(finished)

    def close(self) -> None:
        """Ends the thread after what it does now, which is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def answer(version: Version, inputs: dict[str, Array], request_id: str) -> bytes:
    """The answer's JSON; numbers that JSON lacks are null.

    Raises:
        Exception: As `explain`, and whatever the model raises.
    """
    from madang.development.experiments.explain import explain

    model: Any = version.model
    if isinstance(model, Composed):
        inputs, _ = model.prepare(inputs)
        model = model.explained
    found = explain(model, inputs, background=version.example)
    return version.head + encode(request_id) + b"," + encode(_members(found))[1:]


def _members(found: Explanation) -> dict[str, Any]:
    error = found.standard_error
    return {
        "method": found.method,
        "scale": found.scale,
        "columns": found.columns,
        "outputs": found.outputs,
        "base": found.base.tolist(),
        "values": found.values.tolist(),
        "prediction": found.prediction.tolist(),
        "standard_error": None if error is None else error.tolist(),
        "background": {
            "rows": found.background_rows,
            "source": _BACKGROUND if found.background_rows else _OF_TREES,
        },
    }
