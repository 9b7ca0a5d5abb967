"""Searching objects by what is known of them."""

from __future__ import annotations

import pyarrow as pa

from madang.data.storage.contract import OBJECTS, Objects


def search_objects(
    storage: Objects, prefix: str = "", *, where: str | None = None, limit: int | None = None
) -> pa.Table:
    """Objects whose key starts with `prefix` and of which a condition is true, in order of keys.

    Args:
        storage: Where they are.
        prefix: What their keys start with.
        where: A condition in DuckDB's SQL over the columns `OBJECTS`
            (`"content_type = 'image/png' AND metadata['label'] = 'cat'"`).
        limit: At most so many.

    Returns:
        A table with the columns `OBJECTS`.

    Raises:
        InvalidInputError: It is no condition on these columns.
    """
    from madang.data.storage._predicate import Predicate

    predicate = None if where is None else Predicate(where, OBJECTS)
    found, rows = [], 0
    for batch in storage.objects(prefix):
        some = batch
        if predicate is not None:
            some = batch.filter(pa.array(predicate.holds(batch)))
        if limit is not None:
            some = some.slice(0, limit - rows)
        found.append(some)
        rows += some.num_rows
        if rows == limit:
            break
    return pa.Table.from_batches(found, OBJECTS)
