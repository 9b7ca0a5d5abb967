"""Signed checkpoints as text: the formats "signed note" and "tlog-checkpoint" of C2SP.

    madang-ledger/5f0c1b2a…            which log
    1204                               lines
    CsUYapGGPo4dkMgIAUqom…             root of the Merkle tree, base64
    2013-04-01T06:00:00.000000Z        when, as an extension line

    — madang-ledger/5f0c1b2a… Az3gr…   key's id (4 bytes) and Ed25519 signature, base64

https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from madang.errors import IntegrityError, InvalidInputError

_ED25519 = b"\x01"
_DASH = "\N{EM DASH} "


@dataclass(frozen=True)
class Body:
    """What a checkpoint says."""

    origin: str
    size: int
    root: bytes
    time: str

    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n{self.time}\n"


def verifier_key(origin: str, key: Ed25519PublicKey) -> str:
    """The public key as text: name, id and key."""
    raw = key.public_bytes_raw()
    return f"{origin}+{_key_id(origin, raw).hex()}+{_base64(_ED25519 + raw)}"


def sign(body: Body, key: Ed25519PrivateKey) -> str:
    """The note: text, empty line, signature line."""
    text = body.text()
    known = _key_id(body.origin, key.public_key().public_bytes_raw())
    return f"{text}\n{_DASH}{body.origin} {_base64(known + key.sign(text.encode()))}\n"


def read(note: str, verifier: str) -> Body:
    """Checks a note's signature and gives what it says.

    Raises:
        InvalidInputError: It is no note, or `verifier` no key.
        IntegrityError: That key did not sign it.
    """
    origin, known, raw = _verifier(verifier)
    text, _, signatures = note.partition("\n\n")
    lines = text.split("\n")
    try:
        body = Body(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True), lines[3])
        if len(lines) != 4 or body.text() != text + "\n":
            raise ValueError(f"{len(lines)} lines")
    except (ValueError, IndexError) as error:
        raise InvalidInputError(f"this is no checkpoint of a ledger: {error}") from error
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if line.startswith(_DASH) and name == origin == body.origin and _is_signed(
            body, encoded, known, raw
        ):  # fmt: skip
            return body
    raise IntegrityError(f"the checkpoint is not signed by the key {verifier}")


def _is_signed(body: Body, encoded: str, known: bytes, raw: bytes) -> bool:
    try:
        signature = base64.b64decode(encoded, validate=True)
        if signature[:4] != known:
            return False
        Ed25519PublicKey.from_public_bytes(raw).verify(signature[4:], body.text().encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def _verifier(text: str) -> tuple[str, bytes, bytes]:
    try:
        origin, known, encoded = text.split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        if raw[:1] != _ED25519 or len(raw) != 33 or _key_id(origin, raw[1:]).hex() != known:
            raise ValueError("its parts don't belong together")
    except ValueError as error:
        raise InvalidInputError(f"this is no verifier key NAME+ID+KEY: {error}") from error
    return origin, bytes.fromhex(known), raw[1:]


def _key_id(origin: str, raw: bytes) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + raw).digest()[:4]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
