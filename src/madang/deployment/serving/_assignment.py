"""Which arm a rollout gives a request: the same for the same key, and for everybody who recomputes it.

    digest = BLAKE2b(salt + NUL + key, digest size = 8 bytes for each arm)
    u_i    = (the i-th 8 bytes as a big-endian number + 1/2) / 2**64
    arm    = the i with weight w_i > 0 for which -ln(u_i) / w_i is smallest

Salt and key are UTF-8, the arms are in the endpoint's order, and BLAKE2b is that of RFC 7693 without a
key. This is weighted rendezvous hashing (Thaler & Ravishankar 1998; the weights by exponential clocks):
arm i gets the share `w_i / sum(w)`, and when one arm's weight grows, keys move to it and nowhere
else; so in a growing canary nobody goes back and forth.

The key is what the request says: the header `X-Madang-Key` or the parameter `madang_key`, else the
rollout's input (its first value, so that a request of several rows goes to one arm), else the
request's id. Under the rollout's key `id` it is the id in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import inf, log
from struct import Struct
from typing import TYPE_CHECKING, Any

from madang.deployment.serving._state import WantedSplit
from madang.deployment.serving._tensors import InferRequest, encode, read_inputs

if TYPE_CHECKING:
    from madang.deployment.serving._batching import Asker
    from madang.deployment.serving._endpoints import Version

MAX_ARMS = 8
"""The digest of BLAKE2b has at most 64 bytes."""

BY_ID = "id"
_UNIT = 2.0**-64
_PARAMETER = "madang_key"


class Chooser:
    """Gives keys to arms; the module's docstring has the formula. What each key shares is made once."""

    def __init__(self, salt: bytes, weights: Sequence[float]) -> None:
        self._start = blake2b(salt + b"\0", digest_size=8 * len(weights))
        self._numbers = Struct(f">{len(weights)}Q").unpack
        self._arms = [(arm, -weight) for arm, weight in enumerate(weights) if weight > 0]

    def __call__(self, key: bytes) -> int:
        """The number of the arm that a key gets."""
        state = self._start.copy()
        state.update(key)
        numbers = self._numbers(state.digest())
        best, first = 0, inf
        for arm, negative in self._arms:
            clock = log((numbers[arm] + 0.5) * _UNIT) / negative
            if clock < first:
                best, first = arm, clock
        return best


def chosen(salt: bytes, key: bytes, weights: Sequence[float]) -> int:
    """The number of the arm that a key gets."""
    return Chooser(salt, weights)(key)


class Assigner:
    """Gives the requests of one endpoint to its arms, as a rollout wants it."""

    def __init__(self, split: WantedSplit, versions: Sequence[Version]) -> None:
        self._versions = versions
        self._chosen = Chooser(split.salt.encode(), [version.weight for version in versions])
        self._key = split.key
        self._head = b',"rollout":{"id":%b,"stage":%d' % (encode(split.rollout), split.stage)
        self._by_id = self._head + b"}"
        shadows = tuple(version for version in versions if version.number in split.shadows)
        for version in versions:
            version.shadows = shadows

    def assign(
        self, request: InferRequest, asker: Asker, body: bytes, offset: int
    ) -> tuple[Version, bytes]:
        """The version that answers, and what the log says of it: a JSON member after a comma.

        Args:
            request: It has an id.
            asker: Who brought it.
            body: Where binary tensors are, from `offset` on.
            offset: See `body`.

        Raises:
            InvalidInputError: The input that is the key is missing or can't be read.
        """
        unit = None if self._key == BY_ID else self._unit(request, asker, body, offset)
        key = (request.id or "") if unit is None else unit
        number = self._chosen(key.encode("utf-8", "surrogatepass"))
        if unit is None:
            return self._versions[number], self._by_id
        return self._versions[number], b'%b,"unit":%b}' % (self._head, encode(unit))

    def _unit(self, request: InferRequest, asker: Asker, body: bytes, offset: int) -> str | None:
        if asker.key:
            return asker.key.decode("utf-8", "replace")
        if request.parameters and _PARAMETER in request.parameters:
            return str(request.parameters[_PARAMETER])
        if not self._key:
            return None
        found: Any = read_inputs(request, self._versions[0].inputs, body, offset)[self._key]
        return str(found.flat[0]) if found.size else ""


def as_shadow(assigned: bytes) -> bytes:
    """What the log says of a copy of a request."""
    return assigned[:-1] + b',"shadow":true}'
