"""Webhook signatures, as Standard Webhooks say (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from madang.errors import AuthenticationError

TOLERANCE_SECONDS = 300

_REFUSED = "the webhook's signature is not valid for this path"


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a delivery.

    Args:
        secret: `whsec_` and base64, or any text.
        id: The header `webhook-id`.
        timestamp: The header `webhook-timestamp`, seconds since 1970.
        body: The body, as it is sent.
    """
    signed = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def verify(secret: str | None, headers: Mapping[str, str], body: bytes, now_us: int) -> str:
    """The delivery's id, when it is signed and of now; without a secret nothing is.

    Raises:
        AuthenticationError: It is not.
    """
    given = {name.lower(): value for name, value in headers.items()}
    id, time = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not id or len(id) > 256 or not (time.isascii() and time.isdecimal() and len(time) < 16):
        raise AuthenticationError(_REFUSED)
    expected = sign(secret or "", id, int(time), body).encode()
    signatures = given.get("webhook-signature", "").encode("utf-8", "replace").split()
    # Every one is compared, and one without a secret too: the time taken tells nothing.
    equal = [hmac.compare_digest(expected, signature) for signature in signatures[:16]]
    if secret is None or not any(equal):
        raise AuthenticationError(_REFUSED)
    if abs(now_us / 1e6 - int(time)) > TOLERANCE_SECONDS:
        raise AuthenticationError(
            f"the webhook's time is over {TOLERANCE_SECONDS} s from now; sign it again"
        )
    return id


def _key(secret: str) -> bytes:
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return secret.encode()
