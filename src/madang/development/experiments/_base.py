"""What the parts of the default engine share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from madang.engines import Context
from madang.errors import InvalidInputError
from madang.metadata import Transaction

MAX_NAME = 250  # as in MLflow (mlflow.utils.validation.MAX_ENTITY_KEY_LENGTH)


class LocalPart:
    """A part of the default engine: the project's database, ledger and storage."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._project = context.project
        self._database = context.metadata
        self._ledger = context.ledger

    @property
    def _storage(self) -> Any:
        return self._context.component("storage")

    def _set_pairs(
        self, tx: Transaction, table: str, owner: Mapping[str, Any], pairs: Mapping[str, str]
    ) -> None:
        """Sets names and values that belong to `owner` (column to value) in a table of ours."""
        if not pairs:
            return
        columns = ", ".join(["project", *owner, "name", "value"])
        keys = ", ".join(["project", *owner, "name"])
        marks = ", ".join("?" * (len(owner) + 3))
        tx.executemany(
            f"INSERT INTO {table} ({columns}) VALUES ({marks}) "  # noqa: S608 - tables of ours
            f"ON CONFLICT ({keys}) DO UPDATE SET value = excluded.value",
            [(self._project, *owner.values(), k, str(v)) for k, v in pairs.items()],
        )

    def _delete_pair(self, tx: Transaction, table: str, owner: Mapping[str, Any], key: str) -> bool:
        """Removes one of them, and says whether it was there."""
        where = " AND ".join(f"{column} = ?" for column in ("project", *owner, "name"))
        return bool(
            tx.execute(
                f"DELETE FROM {table} WHERE {where} RETURNING name",  # noqa: S608 - tables of ours
                (self._project, *owner.values(), key),
            )
        )


def check_names(what: str, names: Iterable[str]) -> None:
    """Refuses names that are empty, too long, or hold control characters.

    Raises:
        InvalidInputError: Naming the first of them.
    """
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidInputError(
                f"{what} needs a name of 1 to {MAX_NAME} printable characters, found {name!r}"
            )
