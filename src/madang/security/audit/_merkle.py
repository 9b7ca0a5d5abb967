"""The Merkle tree over a ledger's lines or over events: RFC 9162 (Certificate Transparency 2.0), 2.1.

A leaf's hash is SHA-256(0x00 || bytes), an inner node's SHA-256(0x01 || left || right), so that no
leaf can be taken for a node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

HASH_BYTES = 32

Subtree = Callable[[int, int], bytes]
"""(height, index) to the root of the 2**height leaves from index * 2**height on."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over 2**k hashes that stand side by side."""
    while len(hashes) > 1:
        hashes = [
            node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)
        ]
    return hashes[0]


def root(size: int, subtree: Subtree, start: int = 0) -> bytes:
    """The root over the `size` leaves from `start` on, which is a multiple of a power of 2 >= size."""
    if not size:
        return hashlib.sha256(b"").digest()
    parts, at = [], start
    for height in reversed(range(size.bit_length())):
        if size >> height & 1:
            parts.append(subtree(height, at >> height))
            at += 1 << height
    found = parts.pop()
    while parts:
        found = node_hash(parts.pop(), found)
    return found


def path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """The inclusion proof of leaf `index` (from 0) among `size`, from its neighbour up (2.1.3.1)."""
    found: list[bytes] = []
    start = 0
    while size > 1:
        left = 1 << (size - 1).bit_length() - 1
        if index - start < left:
            found.append(root(size - left, subtree, start + left))
            size = left
        else:
            found.append(root(left, subtree, start))
            start, size = start + left, size - left
    return found[::-1]


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to (2.1.3.2); `None` where its length is wrong."""
    if not 0 <= index < size:
        return None
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return found if last == 0 else None


def subtrees_of(leaves: Sequence[bytes]) -> Subtree:
    """The subtrees over leaves' hashes that are at hand."""
    return lambda height, index: fold(leaves[index << height : index + 1 << height])
