"""The model registry of an MLflow server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._filter import Entity
from madang.development.experiments._languages import VERSIONS, VERSIONS_TAIL
from madang.development.experiments._memory_search import MemorySearch
from madang.development.experiments._registry_base import (
    EVALUATED,
    KeptEvaluation,
    ReadsVersions,
    check_model_name,
    finite,
    reports_of,
)
from madang.development.experiments._rest_base import MAX_REGISTRY_TAG, checked, checked_length
from madang.development.experiments._rest_registered import RestModels
from madang.development.experiments._rest_sources import Sources
from madang.development.experiments.contract import Report
from madang.development.experiments.values import (
    Artifact,
    ModelVersion,
    Page,
    RegisteredModel,
    Run,
)
from madang.engines import Context
from madang.errors import MadangError, NotFoundError, UnavailableError
from madang.ledger import Line, current_actor

if TYPE_CHECKING:
    from madang.development.experiments._rest_client import Client
    from madang.development.experiments.mlflow import MLflowExperiments

_MAX_PAGE = 200_000


class _Search(MemorySearch[ModelVersion]):
    language = VERSIONS
    tail = VERSIONS_TAIL

    def attribute(self, item: ModelVersion, key: str) -> str | float | None:
        found: Mapping[str, str | float | None] = {
            "creation_timestamp": item.created_us // 1000,
            "last_updated_timestamp": item.updated_us // 1000,
            "name": item.name,
            "run_id": item.run_id,
            "source_path": item.source,
            "updated": item.updated_us,
            "version_number": item.version,
        }
        return found[key]

    def values(self, item: ModelVersion, entity: Entity, key: str) -> Sequence[str | float]:
        return values.prompt_or(item.tags, key)

    @property
    def pushed(self) -> str:
        """A comparison that the server makes too."""
        for clause in self.clauses:
            if (clause.entity, clause.key, clause.operator) == ("attribute", "name", "="):
                return f"name = '{clause.value}'" if "'" not in str(clause.value) else ""
        return ""


class MLflowRegistry(RestModels, ReadsVersions):
    """MLflow's own registry.

    A version's files belong to a logged model, which MLflow's clients load; what MLflow has no
    place for stands in the version's tags `madang.version.…`, which are not shown here.
    """

    def __init__(self, engine: MLflowExperiments, context: Context, client: Client) -> None:
        super().__init__(context, client)
        self._engine = engine
        self._unknown = engine.unknown
        self._sources = Sources(engine, self)

    # -- writing ------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        model: Any,
        *,
        example: Any,
        parity: Any = None,
        run_id: str | None = None,
        inputs: Sequence[str] = (),
        evaluation: Mapping[str, float] | None = None,
        report: bytes | Report | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        trusted: Sequence[str] = (),
    ) -> ModelVersion:
        from madang.development.experiments import formats

        check_model_name(name)
        labels = checked("a tag", tags, MAX_REGISTRY_TAG)
        reports, measured = reports_of(report)
        figures = finite(measured if evaluation is None else evaluation)
        run = None if run_id is None else self._run(run_id)
        refs = [*([f"run:{run_id}"] if run_id else []), *inputs, *self._code(inputs)]
        with tempfile.TemporaryDirectory(prefix="madang-model-") as place:
            folder = Path(place)
            manifest = formats.save(model, folder, example=example, parity=parity, trusted=trusted)
            for file, content in reports.items():
                (folder / file).write_bytes(content)
            wanted = ModelVersion(
                name=name,
                version=0,  # the server gives it
                format=manifest.format,
                digest=manifest.digest,
                location="",
                created_us=0,
                signature=manifest.signature,
                run_id=run_id,
                inputs=tuple(dict.fromkeys(refs)),
                evaluation=figures,
                tags=labels,
                description=description,
                user=current_actor(),
            )
            said = {
                "compiled": dict(manifest.compiled),
                "reason": manifest.facts.get("reason"),  # of an object: why it is one
                "requirements": dict(manifest.requirements),
                "trusted": list(manifest.trusted),
            }
            return self._insert(wanted, said, folder, run)

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
        labels = checked("a tag", tags, MAX_REGISTRY_TAG)
        if run_id is not None:
            self._run_document(run_id)
        if model_id is not None:
            self._model_document(model_id)
        with self._sources.found(source) as found:
            edges = [
                *([f"run:{run_id}"] if run_id else []),
                *([f"logged_model:{model_id}"] if model_id else []),
                *([found.copied.ref] if found.copied else []),
                *inputs,
            ]
            wanted = ModelVersion(
                name=name,
                version=0,  # the server gives it
                format=found.format,
                digest=found.digest,
                location=found.location,
                created_us=0,
                signature=found.signature,
                run_id=run_id,
                inputs=tuple(dict.fromkeys(edges)),
                evaluation=found.copied.evaluation if found.copied else {},
                tags=labels,
                description=description,
                source=source,
                run_link=run_link,
                model_id=model_id,
                user=current_actor(),
            )
            said = {"reason": found.reason, "source": source}
            return self._insert(wanted, said, found.folder, None, found.told)

    def _insert(
        self,
        wanted: ModelVersion,
        said: Mapping[str, Any],
        folder: Path | None,
        run: Run | None,
        told: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Stores the files of a folder, if there is one, then makes the version.

        Args:
            wanted: The version, without what the server gives.
            said: What the ledger is to say of it besides.
            folder: Its files, unless they are where `wanted` says.
            run: The run that made it, whose experiment holds the files.
            told: The source, and its owner, as the server accepts them; those of `folder` if not
                given.
        """
        subject = f"model:{wanted.name}"
        with self._changing("model.register", subject, inputs=wanted.inputs, data=said) as intent:
            owner = ""
            if folder is not None:
                owner = self._store(wanted.name, folder, run, intent.id)
                wanted = values.moved(wanted, owner)
            told = told or {"source": f"models:/{owner}", "model_id": owner}
            tags = {**wanted.tags, values.INTENT: intent.id, **values.record_tags(wanted)}
            self._ensure_model(wanted.name)
            try:
                answer = self._client.post(
                    "/model-versions/create",
                    messages.CreateModelVersion(
                        name=wanted.name,
                        tags=messages.pair_list(tags),
                        run_link=wanted.run_link,
                        description=wanted.description,
                        **told,
                    ),
                    made=lambda: self._made_version(wanted.name, intent.id),
                )
            except MadangError as error:
                if owner and not isinstance(error, UnavailableError):
                    self._engine.drop_model(owner)
                raise
            version = values.model_version(answer["model_version"])
            intent.subject = version.ref
            intent.outputs = [version.ref]
            intent.data = {
                "digest": version.digest,
                "evaluation": dict(version.evaluation),
                "format": version.format,
                "location": version.location,
                **said,
            }
        return version

    def _store(self, name: str, folder: Path, run: Run | None, intent_id: str) -> str:
        """Puts files into a logged model of their own, which is READY when all are there."""
        owner, root = self._engine.new_owner(name, run, intent_id)
        for file in sorted(folder.iterdir()):
            self._engine.store_file(f"{root}/{file.name}", file)
        self._engine.ready(owner)
        return owner

    def _made_version(self, name: str, intent_id: str) -> Mapping[str, Any] | None:
        for document in self._documents(name):
            if values.pairs_of(document.get("tags", ())).get(values.INTENT) == intent_id:
                return {"model_version": document}
        return None

    def settled_version(self, line: Line) -> tuple[str, list[str], str]:
        """What became of a registration whose outcome nobody wrote down."""
        found = self._made_version(line.subject.removeprefix("model:"), str(line.data["id"]))
        if found is None:
            return line.subject, [], "nothing was made"
        ref = values.model_version(found["model_version"]).ref
        return ref, [ref], "made"

    def describe_version(self, name: str, version: int, description: str) -> ModelVersion:
        self.get(name, int(version))
        said = {"description": description}
        with self._changing("model.version.update", f"model:{name}@{version}", data=said):
            self._client.post(
                "/model-versions/update",
                messages.UpdateModelVersion(name, str(version), description),
                method="PATCH",
            )
        return self.get(name, int(version))

    def set_version_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        labels = checked("a tag", tags, MAX_REGISTRY_TAG)
        self.get(name, int(version))
        with self._changing("model.version.tag", f"model:{name}@{version}", data={"tags": labels}):
            for key, value in labels.items():
                message = messages.VersionTag(name, str(version), key=key, value=value)
                self._client.post("/model-versions/set-tag", message)

    def delete_version_tag(self, name: str, version: int, key: str) -> None:
        if key not in self.get(name, int(version)).tags:
            return
        with self._changing("model.version.untag", f"model:{name}@{version}", data={"tag": key}):
            self._client.post(
                "/model-versions/delete-tag",
                messages.VersionTag(name, str(version), key=key),
                method="DELETE",
            )

    def delete_version(self, name: str, version: int) -> None:
        self._refuse_served(name, version, "deleted")
        aliases = dict.fromkeys(self.get(name, int(version)).aliases, version)
        self._ask_removed(name, aliases)
        self._refuse_new_aliases(name, aliases, version)

        def gone() -> Mapping[str, Any] | None:
            try:
                self.get(name, int(version))
            except NotFoundError:
                return {}
            return None

        said = {"aliases": sorted(aliases)}
        with self._changing("model.version.delete", f"model:{name}@{version}", data=said):
            self._client.post(
                "/model-versions/delete",
                messages.Version(name, str(version)),
                method="DELETE",
                made=gone,
            )

    def _set_evaluation(self, version: ModelVersion, kept: KeptEvaluation) -> None:
        tags = values.evaluation_tag(kept.metrics, kept.key, kept.compared_with)
        ((key, text),) = checked_length("an evaluation", tags, MAX_REGISTRY_TAG).items()
        with self._changing(
            EVALUATED,
            version.ref,
            inputs=kept.inputs(version),
            outputs=kept.outputs,
            data=kept.said,
        ):
            message = messages.VersionTag(version.name, str(version.version), key=key, value=text)
            self._client.post("/model-versions/set-tag", message)

    def _kept_evaluation(self, version: ModelVersion) -> tuple[str, str | None] | None:
        # The tag stays with its version when a model is renamed, or made anew under its name.
        kept = values.kept_evaluation(self._version_document(version.name, version.version))
        return (kept["object"], kept["compared_with"]) if kept else None

    # -- reading ------------------------------------------------------------------------------

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        if isinstance(version, str) and not (version.isdecimal() and len(version) < 19):
            number = self._aliases(name).get(version)
            if number is None:
                raise self._no_version(name, version)
            version = number
        if version is None:
            found = self._documents(name)
            if not found:
                raise self._no_model(name)
            version = max(int(one["version"]) for one in found)
        return self._version(name, int(version))

    def versions(self, name: str) -> list[ModelVersion]:
        model = self.get_model(name)
        return sorted(self._with_aliases(self._documents(name), [model]), key=lambda v: v.version)

    def _with_aliases(
        self, documents: Sequence[Mapping[str, Any]], models: Sequence[RegisteredModel]
    ) -> list[ModelVersion]:
        """Versions of a list of the server, which has no aliases in it."""
        pointed: dict[tuple[str, int], list[str]] = {}
        for model in models:
            for alias, number in model.aliases.items():
                pointed.setdefault((model.name, number), []).append(alias)
        found = map(values.model_version, documents)
        return [
            replace(one, aliases=tuple(sorted(pointed.get((one.name, one.version), ()))))
            for one in found
        ]

    def search_versions(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 10_000,
        page_token: str | None = None,
    ) -> Page[ModelVersion]:
        search = _Search(filter, order_by, limit, page_token, max_limit=_MAX_PAGE)
        found = self._search_documents(search.pushed)
        return search.page(self._with_aliases(found, self._every()) if found else ())

    def files(self, name: str, version: int | str | None = None) -> list[Artifact]:
        found = self.get(name, version)
        if not found.location:
            return []
        return sorted(self._engine.tree_of(found.location), key=lambda one: one.path)

    def save_file(self, name: str, version: int | str | None, path: str, target: Path) -> None:
        found = self.get(name, version)
        if not found.location:
            raise self._elsewhere(found)
        self._engine.save_of(found.location, path, target)

    def _fetch(self, location: str, folder: Path) -> None:
        self._engine.fetch(location, folder)

    def _run_of(self, run_id: str) -> Run | None:
        try:
            return self._run(run_id)
        except NotFoundError:
            return None
