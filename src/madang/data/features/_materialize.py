"""Materialization: from a view's history to the online store, at once for the whole view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from madang.activity import note
from madang.data.features import _history, _increment
from madang.data.features._increment import Files
from madang.data.features._newest import Newest
from madang.data.features.contract import FeatureView, Materialization, OnlineStore
from madang.engines import Context
from madang.errors import ConflictError
from madang.ledger import format_time


class Materializer:
    """Puts one view's newest rows online.

    Args:
        context: The project.
        online: The online store.
        view: The view.
        digest: Its definition's hash.
        until_us: Rows after this time don't count yet.
    """

    def __init__(
        self, context: Context, online: OnlineStore, view: FeatureView, digest: str, until_us: int
    ) -> None:
        self._context = context
        self._online = online
        self._view = view
        self._digest = digest
        self._until_us = until_us

    def increment(self) -> Materialization | str:
        """Adds the rows that are new since the last materialization, or says why that can't be."""
        files = _increment.files_of(self._context, self._view, None)
        online = self._online.describe(self._view.name)
        reason = _increment.why_full(files, self._digest, online, self._until_us)
        if reason:
            return reason
        assert files is not None and online is not None  # noqa: PT018 - else there is a reason
        base = online["base"]
        if len(files.found.files) == base["files"]:
            return Materialization(0, "current")
        newest = self._newest(files, base["files"])
        packed = newest.packed(self._digest)
        reason = _increment.why_not_added(base, newest, online, packed.description["layout"])
        if reason:
            return reason
        since = _increment.combined(base, files.base(newest))

        def write(marker: str) -> int:
            description = {**packed.description, "base": since, "materialization": marker}
            return self._online.put(
                self._view.name, packed.keys, packed.rows, description, after=online
            )

        try:
            return self._write("incremental", "", newest.rows, [files.ref], write)
        except ConflictError:
            return "another materialization came between"

    def replace(
        self,
        reason: str,
        *,
        versions: Mapping[str, int] | None = None,
        tables: Mapping[str, Any] | None = None,
        keep_pushed: bool = True,
    ) -> Materialization:
        """Replaces all rows by the newest of the whole history.

        Args:
            reason: Why it is full.
            versions: A dataset's version to read instead of the newest.
            tables: Tables to use instead of datasets.
            keep_pushed: Whether rows stay that were pushed and are newer than all of the history.
        """
        view = self._view
        files = None if tables else _increment.files_of(self._context, view, versions)
        if files is not None:
            newest, refs = self._newest(files, 0), [files.ref]
            base: dict[str, Any] = {"base": files.base(newest)}
        else:
            newest, base = Newest(view, self._until_us), {}
            table, refs = _history.compute(
                self._context, view, view.features, versions=versions, tables=tables
            )
            newest.add(table)
        packed = newest.packed(self._digest)

        def write(marker: str) -> int:
            description = {**packed.description, **base, "materialization": marker}
            kept = packed.last_us if keep_pushed else None
            self._online.replace(
                view.name, packed.keys, packed.rows, description, keep_after_us=kept
            )
            return len(packed.keys)

        return self._write("full", reason, newest.rows, refs, write)

    def _newest(self, files: Files, start: int) -> Newest:
        newest = Newest(self._view, self._until_us)
        for part in _increment.history(self._context, self._view, files, start):
            newest.add(part)
        return newest

    def _write(
        self,
        mode: Literal["full", "incremental"],
        reason: str,
        rows: int,
        refs: Sequence[str],
        write: Callable[[str], int],
    ) -> Materialization:
        """Writes rows that name the ledger's intent, so that a restart can tell if they landed."""
        name, ref = self._view.name, f"view:{self._view.name}@{self._digest}"
        note(newest=(f"view:{name}", self._digest))
        data: dict[str, Any] = {"mode": mode, "until": format_time(self._until_us), "rows": rows}
        if reason:
            data["reason"] = reason
        with self._context.ledger.intent(
            "view.materialize", f"view:{name}", inputs=[*refs, ref], data=data
        ) as intent:
            entities = write(intent.id)
            intent.outputs.append(f"online:{name}@{intent.id}")
            intent.data.update({**data, "entities": entities})
        return Materialization(entities, mode, reason, rows)
