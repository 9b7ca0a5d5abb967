"""Registered models and their aliases in the metadata database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from madang.development.experiments import _rows
from madang.development.experiments._base import LocalPart, check_names
from madang.development.experiments._filter import Clause
from madang.development.experiments._languages import MODELS, MODELS_TAIL
from madang.development.experiments._manifest import signature_from
from madang.development.experiments._registry_base import (
    GuardedModels,
    check_alias,
    check_model_name,
)
from madang.development.experiments._search import Condition, Pairs, Search, Subject
from madang.development.experiments.values import AliasMove, ModelVersion, Page, RegisteredModel
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError
from madang.ledger import current_actor, now_us
from madang.metadata import Row, Transaction

COLUMNS = (
    "name, version, format, digest, location, created, run_id, signature, inputs, evaluation, "
    "description, updated, source, run_link, model_id, actor"
)
_MAX_VERSION = 2**63 - 1  # what a column holds
_OF_MODEL = 0  # the version of a tag that belongs to the model itself
_IS_PROMPT = "mlflow.prompt.is_prompt"
_SUBJECT = Subject(
    language=MODELS,
    source="model m",
    identity=("m.name",),
    attributes={
        "name": "m.name",
        "creation_timestamp": "(m.created / 1000)",
        "last_updated_timestamp": "(m.updated / 1000)",
    },
    pairs={
        "tag": Pairs(
            "model_tag", "{0}.project = m.project AND {0}.model = m.name AND {0}.version = 0"
        )
    },
    tail=MODELS_TAIL,
)


class RegistrySearch(Search):
    """A search for which what has no such tag is no prompt, as in MLflow (SearchModelUtils)."""

    def _clause(self, clause: Clause) -> Condition:
        found = super()._clause(clause)
        asks = (clause.operator, clause.value) in {("!=", "true"), ("=", "false")}
        if clause.entity == "tag" and clause.key == _IS_PROMPT and asks:
            missing = super()._clause(Clause("tag", _IS_PROMPT, "IS NULL", None))
            return Condition(f"({found.sql} OR {missing.sql})", [*found.values, *missing.values])
        return found


class LocalModels(LocalPart, GuardedModels):
    """A deleted model keeps its row: its numbers, and so its references, are never used again."""

    def create_model(
        self, name: str, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> RegisteredModel:
        check_model_name(name)
        check_names("a tag", tags or {})
        with self._database.transaction() as tx:
            if self._is_there(tx, name):
                raise AlreadyExistsError(f"there is a model {name!r} already")
            self._insert_model(tx, name, description)
            self._set_pairs(tx, "model_tag", {"model": name, "version": _OF_MODEL}, tags or {})
            data = {"description": description, "tags": dict(tags or {})}
            self._record_model(tx, "create", name, outputs=[f"model:{name}"], data=data)
            return self._registered(tx, [name])[0]

    def _insert_model(self, tx: Transaction, name: str, description: str) -> None:
        now = now_us()
        tx.execute(
            "INSERT INTO model (project, name, last_version, created, updated, description) "
            "VALUES (?, ?, 0, ?, ?, ?) ON CONFLICT (project, name) DO UPDATE SET deleted = NULL, "
            "created = excluded.created, updated = excluded.updated, "
            "description = excluded.description",
            (self._project, name, now, now, description),
        )

    def get_model(self, name: str) -> RegisteredModel:
        with self._database.transaction(write=False) as tx:
            self._model_row(tx, name)
            return self._registered(tx, [name])[0]

    def search_models(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        page_token: str | None = None,
    ) -> Page[RegisteredModel]:
        search = RegistrySearch(
            self._database, _SUBJECT,
            Condition("m.project = ? AND m.deleted IS NULL", [self._project]),
            filter=filter, order_by=order_by, limit=limit, page_token=page_token,
        )  # fmt: skip
        with self._database.transaction(write=False) as tx:
            found, token = search.run(tx)
            return Page(tuple(self._registered(tx, [row[0] for row in found])), token)

    def describe_model(self, name: str, description: str) -> RegisteredModel:
        with self._database.transaction() as tx:
            self._touch_model(tx, name, "description = ?", description)
            self._record_model(tx, "update", name, data={"description": description})
            return self._registered(tx, [name])[0]

    def rename_model(self, name: str, new_name: str) -> RegisteredModel:
        check_model_name(new_name)
        self._refuse_served(name, None, "renamed")
        with self._database.transaction() as tx:
            self._model_row(tx, name)
            if new_name != name:
                self._rename(tx, name, new_name)
            return self._registered(tx, [new_name])[0]

    def _rename(self, tx: Transaction, name: str, new_name: str) -> None:
        taken = tx.execute(
            "SELECT last_version, deleted FROM model WHERE project = ? AND name = ?",
            (self._project, new_name),
        )
        if taken and (taken[0][0] or taken[0][1] is None):
            raise AlreadyExistsError(
                f"the name {new_name!r} is taken, or was by a model whose versions' numbers are "
                "not used again; choose another"
            )
        tx.execute("DELETE FROM model WHERE project = ? AND name = ?", (self._project, new_name))
        tx.execute(
            "INSERT INTO model (project, name, last_version, created, updated, description) "
            "SELECT project, ?, last_version, created, ?, description FROM model "
            "WHERE project = ? AND name = ?",
            (new_name, now_us(), self._project, name),
        )
        for table, column in (
            ("model_version", "name"), ("model_tag", "model"), ("model_alias", "model"),
        ):  # fmt: skip
            tx.execute(
                f"UPDATE {table} SET {column} = ? WHERE project = ? AND {column} = ?",  # noqa: S608 - names above
                (new_name, self._project, name),
            )
        # The old name keeps its row, so that nobody gets its versions' references again.
        self._touch_model(tx, name, "description = '', deleted = ?", now_us())
        self._record_model(
            tx,
            "rename",
            name,
            inputs=[f"model:{name}", *self._refs(tx, new_name, name)],
            outputs=[f"model:{new_name}", *self._refs(tx, new_name, new_name)],
            data={"name": new_name},
        )

    def _refs(self, tx: Transaction, name: str, shown: str) -> list[str]:
        rows = tx.execute(
            "SELECT version FROM model_version WHERE project = ? AND name = ? "
            "AND deleted IS NULL ORDER BY version",
            (self._project, name),
        )
        return [f"model:{shown}@{row[0]}" for row in rows]

    def delete_model(self, name: str) -> None:
        self._refuse_served(name, None, "deleted")
        aliases = self.get_model(name).aliases
        self._ask_removed(name, aliases)
        with self._database.transaction() as tx:
            self._model_row(tx, name)
            self._refuse_new_aliases(tx, name, aliases, None)
            self._touch_model(tx, name, "description = '', deleted = ?", now_us())
            tx.execute(
                "UPDATE model_version SET deleted = ? WHERE project = ? AND name = ? "
                "AND deleted IS NULL",
                (now_us(), self._project, name),
            )
            tx.execute(
                "DELETE FROM model_alias WHERE project = ? AND model = ?", (self._project, name)
            )
            tx.execute(
                "DELETE FROM model_tag WHERE project = ? AND model = ? AND version = ?",
                (self._project, name, _OF_MODEL),
            )
            self._record_model(tx, "delete", name, data={"aliases": dict(aliases)})

    def set_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        check_names("a tag", tags)
        with self._database.transaction() as tx:
            self._touch_model(tx, name)
            self._set_pairs(tx, "model_tag", {"model": name, "version": _OF_MODEL}, tags)
            self._record_model(tx, "tag", name, data={"tags": dict(tags)})

    def delete_model_tag(self, name: str, key: str) -> None:
        with self._database.transaction() as tx:
            self._model_row(tx, name)
            if self._delete_pair(tx, "model_tag", {"model": name, "version": _OF_MODEL}, key):
                self._touch_model(tx, name)
                self._record_model(tx, "untag", name, data={"tag": key})

    def _touch_model(self, tx: Transaction, name: str, change: str = "", *values: Any) -> None:
        self._model_row(tx, name)
        tx.execute(
            f"UPDATE model SET {change}{', ' if change else ''}updated = ? "  # noqa: S608 - ours
            "WHERE project = ? AND name = ?",
            (*values, now_us(), self._project, name),
        )

    def _record_model(self, tx: Transaction, what: str, name: str, **line: Any) -> None:
        self._ledger.append(tx, f"model.{what}", f"model:{name}", **line)

    # -- aliases ------------------------------------------------------------------------------

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """See `Registry.set_alias`."""
        check_alias(alias)
        while not self._moved(name, alias, version):
            continue  # somebody else moved it while the guard was asked: ask again

    def delete_alias(self, name: str, alias: str) -> None:
        """See `Registry.delete_alias`."""
        while not self._moved(name, alias, None):
            continue

    def _moved(self, name: str, alias: str, version: int | None) -> bool:
        """Moves an alias, unless it is no longer where it was when the guard was asked."""
        with self._database.transaction(write=False) as tx:
            if version is not None:
                self._version_row(tx, name, version)
            previous = self._alias(tx, name, alias)
        if previous == version:
            return True
        self._ask(AliasMove(name, alias, version, previous, current_actor()))
        with self._database.transaction() as tx:
            if self._alias(tx, name, alias) != previous:
                return False
            if version is None:
                tx.execute(
                    "DELETE FROM model_alias WHERE project = ? AND model = ? AND name = ?",
                    (self._project, name, alias),
                )
            else:
                self._version_row(tx, name, version)
                tx.execute(
                    "INSERT INTO model_alias VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (project, model, name) DO UPDATE SET version = excluded.version",
                    (self._project, name, alias, version),
                )
            self._record_alias(tx, name, alias, version, previous)
        return True

    def _refuse_new_aliases(
        self, tx: Transaction, name: str, asked: Mapping[str, int], version: int | None
    ) -> None:
        """Raises when an alias that the guard was not asked about would be removed."""
        for alias, points_to in self._aliases(tx, name).items():
            if alias not in asked and version in (None, points_to):
                raise ConflictError(f"the alias {alias!r} of {name!r} moved meanwhile; try again")

    def _record_alias(
        self, tx: Transaction, name: str, alias: str, version: int | None, previous: int | None
    ) -> None:
        self._record_model(
            tx,
            "alias",
            name,
            inputs=[f"model:{name}@{version}"] if version is not None else [],
            data={"alias": alias, "previous": previous, "version": version},
        )

    # -- rows ---------------------------------------------------------------------------------

    def _is_there(self, tx: Transaction, name: str) -> bool:
        return bool(
            tx.execute(
                "SELECT 1 FROM model WHERE project = ? AND name = ? AND deleted IS NULL",
                (self._project, name),
            )
        )

    def _model_row(self, tx: Transaction, name: str) -> None:
        if not self._is_there(tx, name):
            raise self._no_model(tx, name)

    def _registered(self, tx: Transaction, names: Sequence[str]) -> list[RegisteredModel]:
        rows: dict[str, Row] = {}
        columns = "created, updated, description"
        for row in _rows.of_owners(tx, "model", "name", columns, "name", self._project, names):
            rows[row[0]] = row
        tags: dict[str, dict[str, str]] = {}
        for name, version, key, value in _rows.of_owners(
            tx, "model_tag", "model", "version, name, value", "name", self._project, names
        ):
            if version == _OF_MODEL:
                tags.setdefault(name, {})[key] = value
        aliases: dict[str, dict[str, int]] = {}
        for name, alias, version in _rows.of_owners(
            tx, "model_alias", "model", "name, version", "name", self._project, names
        ):
            aliases.setdefault(name, {})[alias] = version
        found = []
        for name in names:
            _, created, updated, description = rows[name]
            found.append(
                RegisteredModel(
                    name, created, updated, description, tags.get(name, {}), aliases.get(name, {})
                )
            )
        return found

    def _number(self, tx: Transaction, name: str, version: int | str | None) -> int:
        if isinstance(version, str) and not (version.isdecimal() and len(version) < 19):
            number = self._alias(tx, name, version)
            if number is None:
                raise self._no_version(tx, name, version)
            return number
        if version is not None:
            return int(version)
        newest = tx.execute(
            "SELECT max(version) FROM model_version WHERE project = ? AND name = ? "
            "AND deleted IS NULL",
            (self._project, name),
        )[0][0]
        if newest is None:
            raise self._no_model(tx, name)
        return int(newest)

    def _alias(self, tx: Transaction, name: str, alias: str) -> int | None:
        return self._aliases(tx, name).get(alias)

    def _aliases(self, tx: Transaction, name: str) -> dict[str, int]:
        rows = tx.execute(
            "SELECT name, version FROM model_alias WHERE project = ? AND model = ?",
            (self._project, name),
        )
        return {alias: int(version) for alias, version in rows}

    def _version_row(self, tx: Transaction, name: str, version: int) -> Row:
        rows: list[Row] = []
        if 0 < version <= _MAX_VERSION:
            rows = tx.execute(
                f"SELECT {COLUMNS} FROM model_version "  # noqa: S608 - names above
                "WHERE project = ? AND name = ? AND version = ? AND deleted IS NULL",
                (self._project, name, version),
            )
        if not rows:
            raise self._no_version(tx, name, version)
        return rows[0]

    def _models(self, tx: Transaction, rows: Sequence[Row]) -> list[ModelVersion]:
        names = list(dict.fromkeys(row[0] for row in rows))
        aliases: dict[tuple[str, int], list[str]] = {}
        for name, alias, version in _rows.of_owners(
            tx, "model_alias", "model", "name, version", "name", self._project, names
        ):
            aliases.setdefault((name, version), []).append(alias)
        tags: dict[tuple[str, int], dict[str, str]] = {}
        for name, version, key, value in _rows.of_owners(
            tx, "model_tag", "model", "version, name, value", "name", self._project, names
        ):
            tags.setdefault((name, version), {})[key] = value
        return [
            _model(row, aliases.get((row[0], row[1]), []), tags.get((row[0], row[1]), {}))
            for row in rows
        ]

    def _no_model(self, tx: Transaction, name: str) -> NotFoundError:
        rows = tx.execute(
            "SELECT name FROM model WHERE project = ? AND deleted IS NULL ORDER BY name",
            (self._project,),
        )
        there = ", ".join(str(row[0]) for row in rows) or "none"
        return NotFoundError(f"there is no model {name!r}; registered are: {there}")

    def _no_version(self, tx: Transaction, name: str, version: int | str) -> NotFoundError:
        rows = tx.execute(
            "SELECT version FROM model_version WHERE project = ? AND name = ? "
            "AND deleted IS NULL ORDER BY version",
            (self._project, name),
        )
        if not rows:
            return self._no_model(tx, name)
        what = "alias" if isinstance(version, str) else "version"
        return NotFoundError(
            f"model {name!r} has no {what} {version!r}; its versions are: "
            f"{', '.join(str(row[0]) for row in rows)}; its aliases are: "
            f"{', '.join(sorted(self._aliases(tx, name))) or 'none'}"
        )


def _model(row: Row, aliases: Sequence[str], tags: Mapping[str, str]) -> ModelVersion:
    return ModelVersion(
        name=row[0],
        version=int(row[1]),
        format=row[2],
        digest=row[3],
        location=row[4],
        created_us=int(row[5]),
        run_id=row[6],
        signature=signature_from(json.loads(row[7])),
        inputs=tuple(json.loads(row[8])),
        evaluation=json.loads(row[9]),
        description=row[10],
        updated_us=int(row[11]),
        source=row[12],
        run_link=row[13],
        model_id=row[14],
        user=row[15],
        aliases=tuple(aliases),
        tags=tags,
    )
