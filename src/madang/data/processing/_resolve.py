"""Which dataset a query means, where names ignore case."""

from __future__ import annotations

from collections.abc import Sequence

from madang.data.storage import Storage
from madang.errors import NotFoundError


def dataset_name(storage: Storage, name: str, others: Sequence[str] = ()) -> str:
    """The dataset that a query calls `name`.

    Args:
        storage: Where the datasets are.
        name: As it stands in the query.
        others: What else the query may name; for the error.

    Raises:
        NotFoundError: There is none, or several differ from `name` in case alone.
    """
    known = storage.tables()
    if name in known:
        return name
    alike = [table for table in known if table.casefold() == name.casefold()]
    if len(alike) != 1:
        raise NotFoundError(
            f"the query reads {name!r}, which is no dataset; "
            f"the datasets are: {', '.join(known) or 'none yet'}"
            + (f"; given with the query: {', '.join(others)}" if others else "")
        )
    return alike[0]
