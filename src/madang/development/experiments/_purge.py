"""What was deleted is removed for good: rows, metric points, artifacts, model files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from madang.development.experiments._base import LocalPart
from madang.development.experiments._versions import location_of
from madang.development.experiments.contract import CanPurge
from madang.development.experiments.values import DEFAULT_EXPERIMENT_ID, Purged
from madang.errors import InvalidInputError
from madang.ledger import now_us
from madang.metadata import Transaction

_OF_RUN = ("run_param", "run_tag", "run_metric", "run_metric_last", "run_dataset", "run_model")
_OF_LOGGED = ("logged_model_param", "logged_model_tag", "logged_model_metric", "run_model")
# A study is the trials' parent run, and nothing without it.
_OF_STUDY = (("trial_report", "study_id"), ("trial", "study_id"), ("study", "id"))
_CHUNK = 500  # SQLite takes 999 parameters in its older builds


@dataclass
class _Found:
    """What may go, and which places of the storage that frees."""

    experiments: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    versions: list[tuple[str, int]] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    prefixes: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)  # once the version that needs them is gone

    def purged(self) -> Purged:
        return Purged(
            experiments=tuple(self.experiments),
            runs=tuple(self.runs),
            logged_models=tuple(self.logged),
            versions=tuple(f"model:{name}@{number}" for name, number in self.versions),
            kept=self.kept,
        )


class LocalPurge(LocalPart, CanPurge):
    """Rows first, with the list of what is left to remove; then the objects; then the list."""

    def purge(self, *, older_than: timedelta = timedelta(days=30), dry_run: bool = False) -> Purged:
        if older_than < timedelta(0):
            raise InvalidInputError(f"older_than is 0 or more, found {older_than}")
        before = now_us() - round(older_than.total_seconds() * 1_000_000)
        # Asked before the transaction, because the answer needs one of its own.
        served = {
            (arm.model, arm.version): endpoint.name
            for endpoint in self._context.component("serving").endpoints()
            for arm in endpoint.arms
        }
        with self._database.transaction(write=not dry_run) as tx:
            found = self._found(tx, before, served)
            result = found.purged()
            if not dry_run and result != Purged(kept=found.kept):
                self._delete_rows(tx, found)
                self._ledger.append(
                    tx,
                    "experiment.purge",
                    f"project:{self._project}",
                    data={
                        "experiments": found.experiments,
                        "runs": found.runs,
                        "logged_models": found.logged,
                        "versions": list(result.versions),
                    },
                )
        if dry_run:
            sizes = [o.size_bytes for prefix in found.prefixes for o in self._storage.list(prefix)]
        else:
            sizes = self._remove()
            self._database.give_back()
        return replace(result, objects=len(sizes), bytes=sum(sizes))

    # -- what may go --------------------------------------------------------------------------

    def _found(self, tx: Transaction, before: int, served: dict[tuple[str, int], str]) -> _Found:
        found = _Found()
        experiments = self._ids(
            tx,
            "SELECT id FROM experiment WHERE project = ? AND deleted <= ?",
            (self._project, before),
        )
        found.experiments = [one for one in experiments if one != DEFAULT_EXPERIMENT_ID]
        found.runs = self._owners(tx, "run", before, found.experiments)
        found.logged = self._owners(tx, "logged_model", before, found.experiments)
        self._find_versions(tx, before, served, found)
        self._find_places(tx, found)
        return found

    def _owners(
        self, tx: Transaction, table: str, before: int, experiments: Sequence[str]
    ) -> list[str]:
        """What was deleted by itself, and what belongs to experiments that go."""
        sql = f"SELECT id FROM {table} WHERE project = ? AND "  # noqa: S608 - tables of ours
        found = self._ids(tx, sql + "deleted <= ?", (self._project, before))
        for marks, chunk in _chunks(experiments):
            values = (self._project, *chunk)
            found += self._ids(tx, f"{sql}experiment_id IN ({marks})", values)
        return list(dict.fromkeys(found))

    def _find_versions(
        self, tx: Transaction, before: int, served: dict[tuple[str, int], str], found: _Found
    ) -> None:
        rows = tx.execute(
            "SELECT v.name, v.version, (SELECT min(a.name) FROM model_alias a WHERE "
            "a.project = v.project AND a.model = v.name AND a.version = v.version) "
            "FROM model_version v WHERE v.project = ? AND v.deleted <= ? ORDER BY 1, 2",
            (self._project, before),
        )
        for name, number, alias in rows:
            one = (str(name), int(number))
            if one in served:
                found.kept[f"model:{name}@{number}"] = f"the endpoint {served[one]!r} serves it"
            elif alias is not None:
                found.kept[f"model:{name}@{number}"] = f"it has the alias {alias!r}"
            else:
                found.versions.append(one)

    def _find_places(self, tx: Transaction, found: _Found) -> None:
        """The prefixes that nothing needs but what goes."""
        going = set(found.versions)
        rows = tx.execute(
            "SELECT name, version, location FROM model_version WHERE project = ?", (self._project,)
        )
        # A version's own files are below models/; what lies below runs/ belongs to its run.
        places = [
            f"{place}/"
            for name, version, place in rows
            if (str(name), int(version)) in going and str(place).startswith("models/")
        ]
        places += [f"runs/{owner}/" for owner in (*found.runs, *found.logged)]
        needed = self._needed(tx, going)
        for prefix in dict.fromkeys(places):
            if not _is_needed(prefix, needed):
                found.prefixes.append(prefix)
            elif prefix.startswith("runs/"):
                found.kept[prefix.removesuffix("/")] = "a registered version is made of its files"
                found.later.append(prefix)

    def _needed(self, tx: Transaction, going: Collection[tuple[str, int]] = ()) -> list[str]:
        """The prefixes that the versions which stay have their files in, or were made of."""
        rows = tx.execute(
            "SELECT name, version, location, source FROM model_version WHERE project = ?",
            (self._project,),
        )
        needed: list[str] = []
        for name, version, place, source in rows:
            if (str(name), int(version)) not in going:
                needed += [f"{one}/" for one in (str(place), _key(str(source))) if one]
        return needed

    def _ids(self, tx: Transaction, sql: str, values: Sequence[Any]) -> list[str]:
        return [str(row[0]) for row in tx.execute(sql + " ORDER BY 1", values)]

    # -- removing -----------------------------------------------------------------------------

    def _delete_rows(self, tx: Transaction, found: _Found) -> None:
        for table in _OF_RUN:
            self._delete(tx, table, "run_id", found.runs)
        for table, column in _OF_STUDY:
            self._delete(tx, table, column, found.runs)
        self._delete(tx, "run", "id", found.runs)
        for table in _OF_LOGGED:
            self._delete(tx, table, "model_id", found.logged)
        self._delete(tx, "logged_model", "id", found.logged)
        self._delete(tx, "experiment_tag", "experiment_id", found.experiments)
        self._delete(tx, "experiment", "id", found.experiments)
        for table, name in (("model_tag", "model"), ("model_version", "name")):
            tx.executemany(
                f"DELETE FROM {table} WHERE project = ? AND {name} = ? AND version = ?",  # noqa: S608 - names above
                [(self._project, *one) for one in found.versions],
            )
        tx.executemany(
            "INSERT INTO purge_pending VALUES (?, ?) ON CONFLICT DO NOTHING",
            [(self._project, prefix) for prefix in (*found.prefixes, *found.later)],
        )

    def _delete(self, tx: Transaction, table: str, column: str, ids: Sequence[str]) -> None:
        for marks, chunk in _chunks(ids):
            tx.execute(
                f"DELETE FROM {table} WHERE project = ? AND {column} IN ({marks})",  # noqa: S608 - names of ours
                (self._project, *chunk),
            )

    def _pending(self) -> list[str]:
        with self._database.transaction(write=False) as tx:
            needed = self._needed(tx)
            rows = tx.execute(
                "SELECT prefix FROM purge_pending WHERE project = ? ORDER BY prefix",
                (self._project,),
            )
        return [str(row[0]) for row in rows if not _is_needed(str(row[0]), needed)]

    def _remove(self) -> list[int]:
        """Deletes what is pending, of this purge and of killed ones, and returns the sizes."""
        sizes: list[int] = []
        for prefix in self._pending():
            freed = []
            for item in list(self._storage.list(prefix)):
                self._storage.delete(item.key)
                freed.append(item.size_bytes)
            with self._database.transaction() as tx:
                tx.execute(
                    "DELETE FROM purge_pending WHERE project = ? AND prefix = ?",
                    (self._project, prefix),
                )
                self._ledger.append(
                    tx,
                    "experiment.purge.files",
                    f"project:{self._project}",
                    data={"prefix": prefix, "objects": len(freed), "bytes": sum(freed)},
                )
            sizes += freed
        return sizes


def _is_needed(prefix: str, needed: Sequence[str]) -> bool:
    return any(place.startswith(prefix) or prefix.startswith(place) for place in needed)


def _key(source: str) -> str:
    """The storage's key of a version's source, or nothing if it is elsewhere."""
    # `models:/NAME/VERSION` gives a key that does not exist, and so holds nothing back.
    try:
        return location_of(source)
    except InvalidInputError:
        return ""


def _chunks(ids: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        yield ", ".join("?" * len(chunk)), chunk
