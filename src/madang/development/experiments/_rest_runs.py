"""Runs of an MLflow server: their search and their histories."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._filter import Clause, Entity
from madang.development.experiments._languages import RUNS, RUNS_TAIL
from madang.development.experiments._memory_search import MemorySearch
from madang.development.experiments._rest_base import RestPart
from madang.development.experiments._rest_named import VIEWS, RestNamed
from madang.development.experiments._search import bad_token, decoded_token, encoded_token
from madang.development.experiments.contract import MetricHistories
from madang.development.experiments.values import Metric, Page, Run, View
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_PAGE = 200_000
_HISTORY_PAGE = 25_000
_RUNS_PAGE, _MOST_RUNS = 1_000, 50_000
_MOST_PUSHED = 20
_PLAIN = re.compile(r"[\w .:/-]{1,250}", re.ASCII)
"""Texts and names that MLflow's filter language reads as we mean them."""


class RunSearch(MemorySearch[Run]):
    """A search of runs, of which the server has looked at what it understands alike."""

    language = RUNS
    tail = RUNS_TAIL
    largest = sys.float_info.max

    def attribute(self, item: Run, key: str) -> str | float | None:
        found: Mapping[str, str | float | None] = {
            "artifact_uri": item.artifact_uri,
            "end_time": None if item.end_us is None else item.end_us // 1000,
            "run_id": item.id,
            "run_name": item.name,
            "start_time": item.start_us // 1000,
            "started": item.start_us,
            "status": item.status.value,
            "user_id": item.user,
        }
        return found[key]

    def values(self, item: Run, entity: Entity, key: str) -> Sequence[str | float]:
        if entity == "dataset":
            found = [
                {"name": d.name, "digest": d.digest, "context": d.tags.get("mlflow.data.context")}
                for d in item.datasets
            ]
            return [value for one in found if (value := one[key]) is not None]
        if entity == "tag" and key == values.RUN_NAME:
            return [item.name]
        kept: Mapping[str, Mapping[str, Any]] = {
            "metric": item.metrics, "param": item.params, "tag": item.tags,
        }  # fmt: skip
        return [kept[entity][key]] if key in kept[entity] else []

    @property
    def pushed(self) -> list[str]:
        """Comparisons that the server makes too: all that match are among what it finds."""
        return [text for clause in self.clauses if (text := _pushed(clause))][:_MOST_PUSHED]


def _pushed(clause: Clause) -> str | None:
    if clause.operator not in ("=", "<", "<=", ">", ">=") or not _PLAIN.fullmatch(clause.key):
        return None
    value = clause.value
    if clause.entity == "metric" and isinstance(value, float) and abs(value) < 1e300:
        return f"metrics.`{clause.key}` {clause.operator} {value!r}"
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        return None
    if clause.entity == "param" or (clause.entity == "tag" and clause.key != values.RUN_NAME):
        return f"{clause.entity}s.`{clause.key}` = '{value}'"
    if clause.entity == "attribute" and clause.key in ("run_id", "status"):
        return f"attributes.{clause.key} = '{value}'"
    return None


class RestSearches(RestNamed):
    """Searches of runs."""

    def runs(
        self, experiment: str | None = None, *, parent_id: str | None = None, limit: int = 100
    ) -> list[Run]:
        ids = None
        if experiment is not None:
            found = self.find_experiment(experiment)
            if found is None:
                return []
            ids = [found.id]
        # A run's id needs no quotes inside of quotes; what is no id is no run's parent.
        parent = None if parent_id is None else parent_id.replace("'", "''")
        filter = "" if parent is None else f"tags.`{values.PARENT}` = '{parent}'"
        return list(self.search_runs(ids, filter, limit=limit).items)

    def search_runs(
        self,
        experiment_ids: Sequence[str] | None = None,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[Run]:
        scope = [view, *(["all"] if experiment_ids is None else experiment_ids)]
        search = RunSearch(filter, order_by, limit, page_token, scope=scope)
        names = {one.id: one.name for one in self._experiments(View.ALL)}
        wanted = names if experiment_ids is None else set(experiment_ids) & set(names)
        if not wanted:
            return Page(())
        found = self._found(search, sorted(wanted), view, newest_first=not order_by)
        runs = (values.run(one, names[one["info"]["experiment_id"]]) for one in found)
        if order_by:
            return search.page(runs)
        return search.cut(self._first(search, runs))

    def _first(self, search: RunSearch, runs: Iterator[Run]) -> list[Run]:
        """Of runs that come in order, no more than a page needs."""
        found: list[Run] = []
        for run in runs:
            if search.matches(run) and search.is_after(search.place(run)):
                found.append(run)
            if len(found) > search.limit:
                break
        return found

    def _found(
        self, search: RunSearch, ids: Sequence[str], view: View, *, newest_first: bool
    ) -> Iterator[Mapping[str, Any]]:
        """What the server finds, newest first, each run once.

        Its pages are places in a list that moves while runs come and go, so the next page is asked
        for by the time where the last one ended.
        """
        seen: set[str] = set()
        until = None
        if newest_first and search.after is not None:
            until = int(search.after[0][1]) // 1000
        size = min(max(search.limit + 1, 100), _RUNS_PAGE) if newest_first else _RUNS_PAGE
        while True:
            filter = search.pushed
            if until is not None:
                filter.append(f"attributes.start_time <= {until}")
            answer = self._client.post(
                "/runs/search",
                messages.SearchRuns(
                    experiment_ids=list(ids),
                    filter=" AND ".join(filter),
                    run_view_type=VIEWS[View(view)],
                    max_results=size,
                ),
            )
            page = answer.get("runs", ())
            fresh = [one for one in page if one["info"]["run_id"] not in seen]
            seen.update(one["info"]["run_id"] for one in fresh)
            yield from fresh
            if not answer.get("next_page_token"):
                return
            last = int(page[-1]["info"]["start_time"])
            if last == until:  # more runs of one millisecond than a page holds
                size = self._larger(size)
            until = last

    def _larger(self, size: int) -> int:
        if size >= _MOST_RUNS:
            raise InvalidInputError(
                f"more than {_MOST_RUNS} runs started in one millisecond; search by a filter that "
                "finds fewer"
            )
        return min(size * 10, _MOST_RUNS)

    def _deleted_runs(self, experiment_id: str) -> list[str]:
        every = RunSearch("", (), 1, None)
        found = self._found(every, [experiment_id], View.DELETED, newest_first=False)
        return [one["info"]["run_id"] for one in found]


class RestHistories(RestPart, MetricHistories):
    """Histories, in the order of step, time and value: the server keeps no order of logging."""

    def metric_history(self, run_id: str, key: str) -> list[Metric]:
        found = [values.metric(one) for one in self._points(run_id, key)]
        return sorted(found, key=_place)

    def _points(self, run_id: str, key: str) -> list[Mapping[str, Any]]:
        def ask(token: str) -> Mapping[str, Any]:
            # The parameter's own default is another: all at once, which times out.
            message = messages.History(
                run_id=run_id, metric_key=key, page_token=token, max_results=_HISTORY_PAGE
            )
            answer: Mapping[str, Any] = self._client.get("/metrics/get-history", message)
            return answer

        self._run_document(run_id)
        return list(self._all(ask, "metrics"))

    def metric_page(
        self, run_id: str, key: str, *, limit: int = 1000, page_token: str | None = None
    ) -> Page[Metric]:
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidInputError(f"a page has 1 to {_MAX_PAGE} points, asked for {limit}")
        mark = f"{run_id}/{key}"
        place = _told(decoded_token(page_token, mark)) if page_token else None
        points = self.metric_history(run_id, key)
        if place is not None:
            points = [point for point in points if _place(point) > place]
        kept = points[:limit]
        if len(points) <= limit:
            return Page(tuple(kept))
        step, time, is_nan, value = _place(kept[-1])
        return Page(tuple(kept), encoded_token(mark, [step, time, int(is_nan), value.hex()]))

    def metric_table(self, run_id: str, key: str) -> pa.Table:
        import numpy as np

        from madang.development.experiments._points import points_table

        points = self._points(run_id, key)
        # In the order of value among equal steps and times.
        value = np.array([float(one.get("value", 0.0)) for one in points], "f8")
        step = np.array([int(one.get("step", 0)) for one in points], "i8")
        time = np.array([values.us(one.get("timestamp")) for one in points], "i8")
        order = np.lexsort((value, time, step))
        return points_table(step[order], time[order], value[order])

    def metric_sample(
        self,
        run_id: str,
        key: str,
        *,
        points: int = 1000,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> pa.Table:
        from madang.development.experiments._points import sampled

        return sampled(self.metric_table(run_id, key), points, first_step, last_step)


def _place(point: Metric) -> tuple[int, int, bool, float]:
    is_nan = point.value != point.value
    return point.step, point.timestamp_us, is_nan, 0.0 if is_nan else point.value


def _told(place: Sequence[Any]) -> tuple[int, int, bool, float]:
    try:
        step, time, is_nan, value = msgspec.convert(place, tuple[int, int, int, str])
        return step, time, bool(is_nan), float.fromhex(value)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise bad_token() from error
