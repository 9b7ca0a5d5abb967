"""Reading the prediction log: the tensors of an event as arrays, however they travelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pybase64

from madang.deployment.serving._tensors import DATATYPES, Array
from madang.errors import InvalidInputError


def array(tensor: Mapping[str, Any]) -> Array:
    """The values of one of an event's `inputs` or `outputs`.

    Args:
        tensor: Its `datatype`, `shape`, and `data` or `data_base64` (little-endian, row by row).

    Raises:
        InvalidInputError: It is no tensor of the log.
    """
    try:
        kind, shape = np.dtype(DATATYPES[tensor["datatype"]]), tuple(tensor["shape"])
        if "data_base64" in tensor:
            raw = pybase64.b64decode(tensor["data_base64"], validate=True)
            return np.frombuffer(raw, kind.newbyteorder("<")).astype(kind).reshape(shape)
        values = tensor["data"]
        if kind.kind == "f":  # JSON has no NaN: null stands for it and for the infinities
            values = [np.nan if value is None else value for value in values]
        return np.array(values, kind).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"this is no tensor of the prediction log: {error!r}") from error
