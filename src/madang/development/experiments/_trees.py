"""Decision trees of any library as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madang.development.experiments._tensors import Array


@dataclass(frozen=True)
class Trees:
    """Nodes of trees, one array for each of their properties.

    Attributes:
        leaf: Whether a node is a leaf.
        column: Which column an inner node asks.
        split: An inner node's threshold: `value <= split` goes to `yes`.
        yes: The child's index within these arrays.
        no: The other child's.
        missing: Whether NaN goes to `yes`.
        value: What a leaf adds to its target.
        target: Which target a leaf adds to.
        root: The index of each tree's root, in the order of adding.
        targets: How many targets there are.
        strict: Whether an inner node asks `value < split` instead.
    """

    leaf: Array
    column: Array
    split: Array
    yes: Array
    no: Array
    missing: Array
    value: Array
    target: Array
    root: Array
    targets: int
    strict: bool = False


def joined(trees: Sequence[Trees], targets: int) -> Trees:
    """One ensemble of several, in their order."""
    starts = np.cumsum([0, *(len(tree.leaf) for tree in trees[:-1])])

    def column(name: str) -> Array:
        return np.concatenate([getattr(tree, name) for tree in trees])

    def moved(name: str) -> Array:
        pairs = zip(trees, starts, strict=True)
        return np.concatenate([getattr(tree, name) + start for tree, start in pairs])

    plain = {name: column(name) for name in ("leaf", "column", "split", "missing", "value")}
    indices = {name: moved(name) for name in ("yes", "no", "root")}
    return Trees(
        **plain, **indices, target=column("target"), targets=targets, strict=trees[0].strict
    )


def constant(value: float, target: int, *, strict: bool = False) -> Trees:
    """A tree of one leaf: adds `value` whatever the row."""
    zero, leaf = np.zeros(1, dtype=np.int64), np.array([value])
    return Trees(
        leaf=np.ones(1, dtype=np.bool_), column=zero, split=np.zeros_like(leaf), yes=zero, no=zero,
        missing=np.zeros(1, dtype=np.bool_), value=leaf,
        target=np.array([target]), root=zero, targets=target + 1, strict=strict,
    )  # fmt: skip
