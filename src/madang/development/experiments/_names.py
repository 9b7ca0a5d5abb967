"""Experiments by id and name in the metadata database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from madang.development.experiments import _rows
from madang.development.experiments._base import LocalPart, check_names
from madang.development.experiments._languages import EXPERIMENTS, EXPERIMENTS_TAIL
from madang.development.experiments._search import Condition, Pairs, Search, Subject
from madang.development.experiments.contract import NamedExperiments
from madang.development.experiments.values import (
    DEFAULT_EXPERIMENT,
    DEFAULT_EXPERIMENT_ID,
    Experiment,
    Lifecycle,
    Page,
    View,
)
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError
from madang.ledger import new_id, now_us
from madang.metadata import Row, Transaction

_COLUMNS = "id, name, created, updated, deleted"
_SUBJECT = Subject(
    language=EXPERIMENTS,
    source="experiment e",
    identity=("e.id",),
    attributes={
        "experiment_id": "e.id",
        "name": "e.name",
        "creation_time": "(e.created / 1000)",
        "last_update_time": "(e.updated / 1000)",
        "created": "e.created",  # the order's end alone, to the microsecond
    },
    pairs={"tag": Pairs("experiment_tag", "{0}.project = e.project AND {0}.experiment_id = e.id")},
    tail=EXPERIMENTS_TAIL,
)


def in_view(alias: str, view: View) -> str:
    """SQL that leaves what a search looks at."""
    wanted = {View.ACTIVE: " AND {}.deleted IS NULL", View.DELETED: " AND {}.deleted IS NOT NULL"}
    return wanted.get(View(view), "").format(alias)


class LocalNames(LocalPart, NamedExperiments):
    """Experiments; MLflow's default one is made when somebody first looks for it."""

    def create_experiment(self, name: str, *, tags: Mapping[str, str] | None = None) -> Experiment:
        check_names("an experiment", [name])
        check_names("a tag", tags or {})
        with self._database.transaction() as tx:
            self._ensure_default_name(tx, name)
            if self._named(tx, name):
                raise AlreadyExistsError(
                    f"there is an experiment {name!r} already, maybe a deleted one; choose another "
                    "name, restore it, or purge what is deleted"
                )
            experiment_id = self._create(tx, name, tags or {})
            return self._experiment(tx, experiment_id)

    def _create(self, tx: Transaction, name: str, tags: Mapping[str, str]) -> str:
        experiment_id = DEFAULT_EXPERIMENT_ID
        if name != DEFAULT_EXPERIMENT or self._rows(tx, "id = ?", experiment_id):
            # The default experiment may have been renamed.
            experiment_id = self._new_experiment_id(tx)
        now = now_us()
        tx.execute(
            f"INSERT INTO experiment (project, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, NULL)",  # noqa: S608 - names above
            (self._project, experiment_id, name, now, now),
        )
        self._set_pairs(tx, "experiment_tag", {"experiment_id": experiment_id}, tags)
        ref = f"experiment:{experiment_id}"
        self._ledger.append(
            tx, "experiment.create", ref, outputs=[ref], data={"name": name, "tags": dict(tags)}
        )
        return experiment_id

    def _new_experiment_id(self, tx: Transaction) -> str:
        return new_id()

    def _experiment_id(self, tx: Transaction, experiment: str | Experiment) -> tuple[str, str]:
        """The id and name of an experiment that takes runs; one by name is made when it isn't there.

        Raises:
            NotFoundError: There is no such experiment.
            ConflictError: It is deleted.
        """
        if isinstance(experiment, Experiment):
            self._ensure_default(tx, experiment.id)
            found = self._experiment(tx, experiment.id)
        else:
            rows = self._named(tx, experiment)
            if not rows:
                return self._create(tx, experiment, {}), experiment
            found = _experiment(rows[0], {})
        if found.lifecycle is Lifecycle.DELETED:
            raise ConflictError(f"experiment {found.name!r} is deleted; restore it first")
        return found.id, found.name

    def _ensure_default(self, tx: Transaction, experiment_id: str) -> None:
        if experiment_id == DEFAULT_EXPERIMENT_ID and not self._rows(tx, "id = ?", experiment_id):
            self._create(tx, DEFAULT_EXPERIMENT, {})

    def _ensure_default_name(self, tx: Transaction, name: str) -> None:
        """The default experiment's name is taken before anybody looked for it."""
        if name == DEFAULT_EXPERIMENT:
            self._ensure_default(tx, DEFAULT_EXPERIMENT_ID)

    def get_experiment(self, experiment_id: str) -> Experiment:
        self._make_default()
        with self._database.transaction(write=False) as tx:
            return self._experiment(tx, experiment_id)

    def find_experiment(self, name: str) -> Experiment | None:
        self._make_default()
        with self._database.transaction(write=False) as tx:
            rows = self._named(tx, name)
            return self._whole(tx, rows)[0] if rows else None

    def _make_default(self) -> None:
        with self._database.transaction(write=False) as tx:
            there = self._rows(tx, "id = ?", DEFAULT_EXPERIMENT_ID)
        if not there:
            with self._database.transaction() as tx:
                self._ensure_default(tx, DEFAULT_EXPERIMENT_ID)

    def search_experiments(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[Experiment]:
        self._make_default()
        scope = Condition(f"e.project = ?{in_view('e', view)}", [self._project])
        search = Search(
            self._database, _SUBJECT, scope,
            filter=filter, order_by=order_by, limit=limit, page_token=page_token,
        )  # fmt: skip
        with self._database.transaction(write=False) as tx:
            found, token = search.run(tx)
            return Page(tuple(self._load(tx, [row[0] for row in found])), token)

    # -- changes ------------------------------------------------------------------------------

    def rename_experiment(self, experiment_id: str, name: str) -> None:
        check_names("an experiment", [name])
        with self._database.transaction() as tx:
            self._ensure_default_name(tx, name)
            found = self._active(tx, experiment_id)
            if found.name == name:
                return
            if self._named(tx, name):
                raise AlreadyExistsError(f"there is an experiment {name!r} already")
            self._update(tx, experiment_id, "name = ?", name)
            self._record(tx, "rename", experiment_id, {"name": name, "previous": found.name})

    def set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        check_names("a tag", tags)
        with self._database.transaction() as tx:
            self._active(tx, experiment_id)
            self._set_pairs(tx, "experiment_tag", {"experiment_id": experiment_id}, tags)
            self._update(tx, experiment_id, "")
            self._record(tx, "tag", experiment_id, {"tags": dict(tags)})

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        with self._database.transaction() as tx:
            self._active(tx, experiment_id)
            owner = {"experiment_id": experiment_id}
            if not self._delete_pair(tx, "experiment_tag", owner, key):
                raise NotFoundError(f"experiment {experiment_id} has no tag {key!r}")
            self._update(tx, experiment_id, "")
            self._record(tx, "untag", experiment_id, {"tag": key})

    def delete_experiment(self, experiment_id: str) -> None:
        with self._database.transaction() as tx:
            self._ensure_default(tx, experiment_id)
            if self._experiment(tx, experiment_id).lifecycle is Lifecycle.DELETED:
                return
            # The same moment on both tells which runs come back with it.
            now = now_us()
            self._update(tx, experiment_id, "deleted = ?", now)
            runs = tx.execute(
                "UPDATE run SET deleted = ? WHERE project = ? AND experiment_id = ? "
                "AND deleted IS NULL RETURNING id",
                (now, self._project, experiment_id),
            )
            self._record(tx, "delete", experiment_id, {"runs": len(runs)})

    def restore_experiment(self, experiment_id: str) -> None:
        with self._database.transaction() as tx:
            rows = self._rows(tx, "id = ?", experiment_id)
            if not rows:
                raise self._no_experiment(experiment_id)
            deleted = rows[0][4]
            if deleted is None:
                return
            self._update(tx, experiment_id, "deleted = NULL")
            runs = tx.execute(
                "UPDATE run SET deleted = NULL WHERE project = ? AND experiment_id = ? "
                "AND deleted = ? RETURNING id",
                (self._project, experiment_id, deleted),
            )
            self._record(tx, "restore", experiment_id, {"runs": len(runs)})

    def _update(self, tx: Transaction, experiment_id: str, change: str, *values: Any) -> None:
        tx.execute(
            f"UPDATE experiment SET {change}{', ' if change else ''}updated = ? "  # noqa: S608 - ours
            "WHERE project = ? AND id = ?",
            (*values, now_us(), self._project, experiment_id),
        )

    def _record(
        self, tx: Transaction, what: str, experiment_id: str, data: Mapping[str, Any]
    ) -> None:
        self._ledger.append(tx, f"experiment.{what}", f"experiment:{experiment_id}", data=data)

    # -- rows ---------------------------------------------------------------------------------

    def _rows(self, tx: Transaction, where: str, value: str) -> list[Row]:
        return tx.execute(
            f"SELECT {_COLUMNS} FROM experiment WHERE project = ? AND {where}",  # noqa: S608 - ours
            (self._project, value),
        )

    def _named(self, tx: Transaction, name: str) -> list[Row]:
        return self._rows(tx, "name = ?", name)

    def _experiment(self, tx: Transaction, experiment_id: str) -> Experiment:
        rows = self._rows(tx, "id = ?", experiment_id)
        if not rows:
            raise self._no_experiment(experiment_id)
        return self._whole(tx, rows)[0]

    def _active(self, tx: Transaction, experiment_id: str) -> Experiment:
        self._ensure_default(tx, experiment_id)
        found = self._experiment(tx, experiment_id)
        if found.lifecycle is Lifecycle.DELETED:
            raise ConflictError(f"experiment {found.name!r} is deleted; restore it first")
        return found

    def _load(self, tx: Transaction, ids: Sequence[str]) -> list[Experiment]:
        rows: list[Row] = []
        for chunk in _rows.chunks(ids):
            marks = ", ".join("?" * len(chunk))
            rows += tx.execute(
                f"SELECT {_COLUMNS} FROM experiment WHERE project = ? AND id IN ({marks})",  # noqa: S608 - ours
                (self._project, *chunk),
            )
        found = {experiment.id: experiment for experiment in self._whole(tx, rows)}
        return [found[experiment_id] for experiment_id in ids]

    def _whole(self, tx: Transaction, rows: Sequence[Row]) -> list[Experiment]:
        ids = [row[0] for row in rows]
        tags = _rows.pairs(tx, "experiment_tag", "experiment_id", self._project, ids)
        return [_experiment(row, tags[row[0]]) for row in rows]

    def _no_experiment(self, experiment_id: str) -> NotFoundError:
        return NotFoundError(
            f"project {self._project!r} has no experiment {experiment_id!r}; "
            "see: madang experiments list"
        )


def _experiment(row: Row, tags: Mapping[str, str]) -> Experiment:
    lifecycle = Lifecycle.ACTIVE if row[4] is None else Lifecycle.DELETED
    return Experiment(row[0], row[1], row[2], row[3], tags, lifecycle)
