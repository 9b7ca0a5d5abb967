"""The repository: one search over all that a project has, what it was made from, and who uses it.

It keeps no truth of its own but what people say of things (`Repository.describe`). Names and columns
are the storage's, the views', the topics' and the registry's; descriptions, owners and tags stand in
`contracts/*.yaml` and in the definitions of views; who made what from what is the ledger's.
"""

from __future__ import annotations

from madang.data.repository.entries import KINDS, Column, Entry, Match
from madang.data.repository.store import Repository
from madang.data.repository.usage import Node, Usage

__all__ = ["KINDS", "Column", "Entry", "Match", "Node", "Repository", "Usage"]
