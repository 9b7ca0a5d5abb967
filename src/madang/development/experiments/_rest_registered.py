"""Registered models and their aliases on an MLflow server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._filter import Entity
from madang.development.experiments._languages import MODELS, MODELS_TAIL
from madang.development.experiments._memory_search import MemorySearch
from madang.development.experiments._registry_base import (
    GuardedModels,
    check_alias,
    check_model_name,
    is_name,
)
from madang.development.experiments._rest_base import MAX_REGISTRY_TAG, RestPart, checked
from madang.development.experiments.values import (
    AliasMove,
    ModelVersion,
    Page,
    RegisteredModel,
)
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError
from madang.ledger import current_actor

_MODELS_PAGE, _VERSIONS_PAGE = 1000, 10_000
_MAX_VERSION = 2**31 - 1  # what a column of MLflow's database holds


class _Search(MemorySearch[RegisteredModel]):
    language = MODELS
    tail = MODELS_TAIL

    def attribute(self, item: RegisteredModel, key: str) -> str | float | None:
        found: Mapping[str, str | float | None] = {
            "creation_timestamp": item.created_us // 1000,
            "last_updated_timestamp": item.updated_us // 1000,
            "name": item.name,
        }
        return found[key]

    def values(self, item: RegisteredModel, entity: Entity, key: str) -> Sequence[str | float]:
        return values.prompt_or(item.tags, key)


class RestModels(RestPart, GuardedModels):
    """MLflow's own registered models. An alias moves atomically; the guard is asked before, of
    what was true right before.
    """

    def create_model(
        self, name: str, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> RegisteredModel:
        check_model_name(name)
        labels = checked("a tag", tags, MAX_REGISTRY_TAG)
        taken = AlreadyExistsError(f"there is a model {name!r} already")
        if self._model_or_none(name) is not None:
            raise taken
        said = {"description": description, "tags": labels}
        ref = f"model:{name}"
        with self._changing("model.create", ref, outputs=[ref], data=said) as intent:
            try:
                answer = self._create_model(name, description, labels, intent.id)
            except AlreadyExistsError as error:  # somebody was faster
                raise taken from error
        return values.registered_model(answer["registered_model"])

    def _create_model(
        self, name: str, description: str, labels: Mapping[str, str], marker: str
    ) -> Mapping[str, Any]:
        def made() -> Mapping[str, Any] | None:
            found = self._model_or_none(name)
            tags = {} if found is None else values.pairs_of(found.get("tags", ()))
            return {"registered_model": found} if tags.get(values.INTENT) == marker else None

        answer: Mapping[str, Any] = self._client.post(
            "/registered-models/create",
            messages.CreateRegisteredModel(
                name,
                tags=messages.pair_list({**labels, values.INTENT: marker}),
                description=description,
            ),
            made=made,
        )
        return answer

    def _ensure_model(self, name: str) -> None:
        """A first version makes its model."""
        if self._model_or_none(name) is None:
            try:
                self._client.post("/registered-models/create", messages.CreateRegisteredModel(name))
            except AlreadyExistsError:  # by a lost answer, or somebody was faster
                return

    def get_model(self, name: str) -> RegisteredModel:
        return values.registered_model(self._registered(name))

    def search_models(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        page_token: str | None = None,
    ) -> Page[RegisteredModel]:
        search = _Search(filter, order_by, limit, page_token)
        return search.page(self._every())

    def _every(self) -> list[RegisteredModel]:
        found = self._all(
            lambda token: self._client.get(
                "/registered-models/search",
                messages.SearchModels(max_results=_MODELS_PAGE, page_token=token),
            ),
            "registered_models",
        )
        return [values.registered_model(one) for one in found]

    def models(self) -> list[str]:
        """See `Registry.models`."""
        return sorted(one.name for one in self._every())

    def describe_model(self, name: str, description: str) -> RegisteredModel:
        self._registered(name)
        said = {"description": description}
        with self._changing("model.update", f"model:{name}", data=said):
            answer = self._client.post(
                "/registered-models/update",
                messages.UpdateRegisteredModel(name, description),
                method="PATCH",
            )
        return values.registered_model(answer["registered_model"])

    def rename_model(self, name: str, new_name: str) -> RegisteredModel:
        check_model_name(new_name)
        self._refuse_served(name, None, "renamed")
        self._registered(name)
        if new_name == name:
            return self.get_model(name)
        if self._model_or_none(new_name) is not None:
            raise AlreadyExistsError(
                f"the name {new_name!r} is taken, or was by a model whose versions' numbers are "
                "not used again; choose another"
            )
        numbers = sorted(int(one["version"]) for one in self._documents(name))

        def refs(shown: str) -> list[str]:
            return [f"model:{shown}", *(f"model:{shown}@{number}" for number in numbers)]

        with self._changing(
            "model.rename",
            f"model:{name}",
            inputs=refs(name),
            outputs=refs(new_name),
            data={"name": new_name},
        ):
            self._client.post(
                "/registered-models/rename",
                messages.RenameRegisteredModel(name, new_name),
                made=lambda: None if self._model_or_none(new_name) is None else {},
            )
        return self.get_model(new_name)

    def delete_model(self, name: str) -> None:
        self._refuse_served(name, None, "deleted")
        aliases = self.get_model(name).aliases
        self._ask_removed(name, aliases)
        self._refuse_new_aliases(name, aliases, None)
        with self._changing("model.delete", f"model:{name}", data={"aliases": dict(aliases)}):
            self._client.post(
                "/registered-models/delete",
                messages.RegisteredModel(name),
                method="DELETE",
                made=lambda: {} if self._model_or_none(name) is None else None,
            )

    def set_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        labels = checked("a tag", tags, MAX_REGISTRY_TAG)
        self._registered(name)
        with self._changing("model.tag", f"model:{name}", data={"tags": labels}):
            for key, value in labels.items():
                message = messages.ModelTag(name, key, value)
                self._client.post("/registered-models/set-tag", message)

    def delete_model_tag(self, name: str, key: str) -> None:
        if key not in self.get_model(name).tags:
            return
        with self._changing("model.untag", f"model:{name}", data={"tag": key}):
            self._client.post(
                "/registered-models/delete-tag", messages.ModelTag(name, key), method="DELETE"
            )

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
        if version is not None:
            self._version(name, version)
        previous = self._aliases(name).get(alias)
        if previous == version:
            return True
        self._ask(AliasMove(name, alias, version, previous, current_actor()))
        if self._aliases(name).get(alias) != previous:
            return False
        refs = [f"model:{name}@{version}"] if version is not None else []
        said = {"alias": alias, "previous": previous, "version": version}
        with self._changing("model.alias", f"model:{name}", inputs=refs, data=said):
            if version is None:
                self._client.post(
                    "/registered-models/alias", messages.Alias(name, alias), method="DELETE"
                )
            else:
                message = messages.SetAlias(name, alias, str(version))
                self._client.post("/registered-models/alias", message)
        return True

    def _aliases(self, name: str) -> Mapping[str, int]:
        found = self._model_or_none(name)
        return {} if found is None else values.registered_model(found).aliases

    def _refuse_new_aliases(self, name: str, asked: Mapping[str, int], version: int | None) -> None:
        """Raises when an alias that the guard was not asked about would be removed."""
        for alias, points_to in self._aliases(name).items():
            if alias not in asked and version in (None, points_to):
                raise ConflictError(f"the alias {alias!r} of {name!r} moved meanwhile; try again")

    # -- documents ----------------------------------------------------------------------------

    def _model_or_none(self, name: str) -> Mapping[str, Any] | None:
        try:
            answer = self._client.get("/registered-models/get", messages.RegisteredModel(name))
        except NotFoundError:
            return None
        found: Mapping[str, Any] = answer["registered_model"]
        return found

    def _registered(self, name: str) -> Mapping[str, Any]:
        found = self._model_or_none(name) if is_name(name) else None
        if found is None:
            raise self._no_model(name)
        return found

    def _version(self, name: str, number: int) -> ModelVersion:
        return values.model_version(self._version_document(name, number))

    def _version_document(self, name: str, number: int) -> Mapping[str, Any]:
        if is_name(name) and 0 < number <= _MAX_VERSION:
            try:
                answer = self._client.get(
                    "/model-versions/get", messages.Version(name, str(number))
                )
            except NotFoundError:
                pass
            else:
                found: Mapping[str, Any] = answer["model_version"]
                return found
        raise self._no_version(name, number)

    def _documents(self, name: str) -> list[Mapping[str, Any]]:
        """All versions of a model."""
        return self._search_documents(f"name = '{name}'") if is_name(name) else []

    def _search_documents(self, filter: str) -> list[Mapping[str, Any]]:
        def ask(token: str) -> Mapping[str, Any]:
            message = messages.SearchVersions(
                filter=filter, max_results=_VERSIONS_PAGE, page_token=token
            )
            answer: Mapping[str, Any] = self._client.get("/model-versions/search", message)
            return answer

        return list(self._all(ask, "model_versions"))

    def _no_model(self, name: str) -> NotFoundError:
        there = ", ".join(self.models()) or "none"
        return NotFoundError(f"there is no model {name!r}; registered are: {there}")

    def _no_version(self, name: str, version: int | str) -> NotFoundError:
        numbers = sorted(int(one["version"]) for one in self._documents(name))
        if not numbers:
            return self._no_model(name)
        what = "alias" if isinstance(version, str) else "version"
        return NotFoundError(
            f"model {name!r} has no {what} {version!r}; its versions are: "
            f"{', '.join(map(str, numbers))}; its aliases are: "
            f"{', '.join(sorted(self._aliases(name))) or 'none'}"
        )
