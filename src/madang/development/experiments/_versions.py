"""Versions of registered models in the metadata database."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from madang.development.experiments import _rows
from madang.development.experiments._base import check_names
from madang.development.experiments._files import require_model
from madang.development.experiments._languages import VERSIONS, VERSIONS_TAIL
from madang.development.experiments._registered import COLUMNS, LocalModels, RegistrySearch
from madang.development.experiments._registry_base import check_model_name, parsed_version
from madang.development.experiments._search import Condition, Pairs, Subject
from madang.development.experiments.contract import ModelVersions
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    ModelVersion,
    Page,
    Signature,
)
from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import current_actor, new_id, now_us
from madang.metadata import Row, Transaction

_MAX_PAGE = 200_000  # MLflow's (SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD)
_SUBJECT = Subject(
    language=VERSIONS,
    source="model_version v",
    identity=("v.name", "v.version"),
    attributes={
        "name": "v.name",
        "run_id": "v.run_id",
        "source_path": "v.source",
        "creation_timestamp": "(v.created / 1000)",
        "last_updated_timestamp": "(v.updated / 1000)",
        "version_number": "v.version",
        "updated": "v.updated",  # the order's end alone, to the microsecond
    },
    pairs={
        "tag": Pairs(
            "model_tag",
            "{0}.project = v.project AND {0}.model = v.name AND {0}.version = v.version",
        )
    },
    tail=VERSIONS_TAIL,
)


class LocalVersions(LocalModels, ModelVersions):
    """A deleted version keeps its row until a purge, its number is never used again."""

    def add_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None = None,
        run_link: str = "",
        model_id: str | None = None,
        inputs: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> ModelVersion:
        check_model_name(name)
        check_names("a tag", tags or {})
        with self._database.transaction(write=False) as tx:
            if run_id is not None:
                _rows.require_run(tx, self._project, run_id)
            if model_id is not None:
                require_model(tx, self._project, model_id)
            known = self._of_version(tx, source)
        stored, reason = (known, "") if known else self._uploaded(name, source)
        edges = [
            *([f"run:{run_id}"] if run_id else []),
            *([f"logged_model:{model_id}"] if model_id else []),
            *([known.ref] if known else []),
            *inputs,
        ]
        now = now_us()
        version = replace(
            stored,
            name=name,
            version=0,  # given in the transaction
            created_us=now,
            updated_us=now,
            aliases=(),
            run_id=run_id,
            run_link=run_link,
            model_id=model_id,
            inputs=tuple(dict.fromkeys(edges)),
            tags={key: str(value) for key, value in (tags or {}).items()},
            description=description,
            source=source,
            user=current_actor(),
        )
        with self._database.transaction() as tx:
            return self._insert(tx, version, {"reason": reason, "source": source})

    def _of_version(self, tx: Transaction, source: str) -> ModelVersion | None:
        """The version that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names."""
        named = parsed_version(source)
        if named is None:
            return None
        name, number = named
        row = self._version_row(tx, name, self._number(tx, name, number))
        return self._models(tx, [row])[0]

    def _uploaded(self, name: str, source: str) -> tuple[ModelVersion, str]:
        """Files that a client uploaded: a safe format is a model; else an object, and why it is."""
        location = location_of(source)
        if not location:
            found = ModelVersion("", 0, OBJECT_FORMAT, "", "", 0, Signature((), ()))
            return found, "its files are not in the project's storage"
        return self._converted(name, location, source)

    def _converted(self, name: str, location: str, source: str) -> tuple[ModelVersion, str]:
        """Files at a location as a model, where they are one of a safe format."""
        from madang.development.experiments import formats

        digest = self._digest(location, source)
        found = ModelVersion("", 0, OBJECT_FORMAT, digest, location, 0, Signature((), ()))
        with tempfile.TemporaryDirectory(prefix="madang-model-") as place:
            folder, target = Path(place) / "uploaded", Path(place) / "model"
            target.mkdir()
            self._fetch(location, folder)
            manifest = formats.import_folder(folder, target)
            if manifest.format == OBJECT_FORMAT:
                return found, str(manifest.facts["reason"])
            if not manifest.signature.inputs:
                return (
                    found,
                    "it has neither an input example nor a signature, so it predicts nothing",
                )
            native = f"models/{name}/{new_id()}"
            self._store(native, target, {})
        return replace(
            found,
            format=manifest.format,
            digest=manifest.digest,
            location=native,
            signature=manifest.signature,
        ), ""

    def _fetch(self, location: str, folder: Path) -> None:
        """Writes all files under a location into a folder, with their folders."""
        prefix = location + "/"
        for item in self._storage.list(prefix):
            # A key has no `..` and no empty part, so that this stays in the folder.
            path = folder / item.key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._storage.get(item.key))

    def _store(self, location: str, folder: Path, reports: Mapping[str, bytes]) -> None:
        for file in sorted(folder.iterdir()):
            self._storage.put(f"{location}/{file.name}", file)
        for file_name, content in reports.items():
            self._storage.put(f"{location}/{file_name}", content)

    def _digest(self, location: str, source: str) -> str:
        """SHA-256 over the paths and the SHA-256 of the files."""
        total, prefix = hashlib.sha256(), location + "/"
        keys = [item.key for item in self._storage.list(prefix)]
        for key in keys:
            digest = hashlib.sha256(self._storage.get(key)).hexdigest()
            total.update(f"{digest}  {key.removeprefix(prefix)}\n".encode())
        if not keys:
            raise NotFoundError(f"there is no file at {source!r}; upload the model first")
        return total.hexdigest()

    def _insert(
        self, tx: Transaction, given: ModelVersion, line: Mapping[str, Any]
    ) -> ModelVersion:
        # Writers take turns, so that no two get one number.
        if not self._is_there(tx, given.name):
            self._insert_model(tx, given.name, "")
        number = tx.execute(
            "UPDATE model SET last_version = last_version + 1, updated = ? "
            "WHERE project = ? AND name = ? RETURNING last_version",
            (given.created_us, self._project, given.name),
        )[0][0]
        found = replace(given, version=int(number))
        self._insert_row(tx, found, line)
        return found

    def _insert_row(self, tx: Transaction, found: ModelVersion, line: Mapping[str, Any]) -> None:
        tx.execute(
            f"INSERT INTO model_version (project, {COLUMNS}) "  # noqa: S608 - names of ours
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._project, found.name, found.version, found.format, found.digest, found.location,
             found.created_us, found.run_id, json.dumps(asdict(found.signature)),
             json.dumps(found.inputs), json.dumps(dict(found.evaluation)), found.description,
             found.updated_us, found.source, found.run_link, found.model_id, found.user),
        )  # fmt: skip
        owner = {"model": found.name, "version": found.version}
        self._set_pairs(tx, "model_tag", owner, found.tags)
        self._ledger.append(
            tx,
            "model.register",
            found.ref,
            inputs=found.inputs,
            outputs=[found.ref],
            data={
                "digest": found.digest,
                "evaluation": dict(found.evaluation),
                "format": found.format,
                "location": found.location,
                **line,
            },
        )

    def search_versions(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 10_000,
        page_token: str | None = None,
    ) -> Page[ModelVersion]:
        search = RegistrySearch(
            self._database, _SUBJECT,
            Condition("v.project = ? AND v.deleted IS NULL", [self._project]),
            filter=filter, order_by=order_by, limit=limit, page_token=page_token,
            max_limit=_MAX_PAGE,
        )  # fmt: skip
        with self._database.transaction(write=False) as tx:
            found, token = search.run(tx)
            rows: dict[tuple[str, int], Row] = {}
            names = list(dict.fromkeys(row[0] for row in found))
            columns = COLUMNS.removeprefix("name, ")
            for row in _rows.of_owners(
                tx, "model_version", "name", columns, "name", self._project, names
            ):
                rows[row[0], row[1]] = row
            wanted = [rows[name, version] for name, version in found]
            return Page(tuple(self._models(tx, wanted)), token)

    def describe_version(self, name: str, version: int, description: str) -> ModelVersion:
        with self._database.transaction() as tx:
            self._touch_version(tx, name, version, "description = ?", description)
            self._record_version(tx, "update", name, version, {"description": description})
            return self._models(tx, [self._version_row(tx, name, version)])[0]

    def set_version_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        check_names("a tag", tags)
        with self._database.transaction() as tx:
            self._touch_version(tx, name, version)
            self._set_pairs(tx, "model_tag", {"model": name, "version": version}, tags)
            self._record_version(tx, "tag", name, version, {"tags": dict(tags)})

    def delete_version_tag(self, name: str, version: int, key: str) -> None:
        with self._database.transaction() as tx:
            self._version_row(tx, name, version)
            if self._delete_pair(tx, "model_tag", {"model": name, "version": version}, key):
                self._touch_version(tx, name, version)
                self._record_version(tx, "untag", name, version, {"tag": key})

    def delete_version(self, name: str, version: int) -> None:
        self._refuse_served(name, version, "deleted")
        with self._database.transaction(write=False) as tx:
            self._version_row(tx, name, version)
            aliases = {a: v for a, v in self._aliases(tx, name).items() if v == version}
        self._ask_removed(name, aliases)
        with self._database.transaction() as tx:
            self._refuse_new_aliases(tx, name, aliases, version)
            self._touch_version(tx, name, version, "deleted = ?", now_us())
            tx.execute(
                "DELETE FROM model_alias WHERE project = ? AND model = ? AND version = ?",
                (self._project, name, version),
            )
            self._record_version(tx, "delete", name, version, {"aliases": sorted(aliases)})

    def _touch_version(
        self, tx: Transaction, name: str, version: int, change: str = "", *values: Any
    ) -> None:
        self._version_row(tx, name, version)
        tx.execute(
            f"UPDATE model_version SET {change}{', ' if change else ''}updated = ? "  # noqa: S608
            "WHERE project = ? AND name = ? AND version = ?",
            (*values, now_us(), self._project, name, version),
        )

    def _record_version(
        self, tx: Transaction, what: str, name: str, version: int, data: Mapping[str, Any]
    ) -> None:
        self._ledger.append(tx, f"model.version.{what}", f"model:{name}@{version}", data=data)


def location_of(source: str) -> str:
    """The key prefix of a source in the project's storage; empty for one that is elsewhere.

    Raises:
        InvalidInputError: It is a path of the storage that holds no artifacts.
    """
    scheme, _, rest = source.partition(":/")
    if scheme == "mlflow-artifacts":
        key = unquote(urlsplit(source).path).strip("/")
    elif scheme in ("runs", "models"):
        key = f"runs/{unquote(rest).strip('/')}"
    else:
        return ""
    parts = key.split("/")
    if parts[0] not in ("runs", "models") or len(parts) < 2 or {"", ".", ".."} & set(parts):
        raise InvalidInputError(
            f"{source!r} is no place of a run's or model's files; a source in the project's "
            "storage is runs:/RUN/PATH, models:/m-ID or mlflow-artifacts:/runs/ID/PATH"
        )
    return key
