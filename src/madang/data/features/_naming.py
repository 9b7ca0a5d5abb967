"""What a feature is called in a training set and in an online read: the same in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from madang.errors import InvalidInputError, NotFoundError


def outputs(
    features: Mapping[str, Iterable[str]], columns: Sequence[str] | None = None
) -> dict[str, dict[str, str]]:
    """For each view, its features and what they are called in the result.

    A feature is called by its own name, or `view__feature` if several of the views have one of that
    name. Only the views that are asked for decide it, so training and serving agree.

    Args:
        features: View name to feature names.
        columns: Only these result columns.

    Raises:
        NotFoundError: One of `columns` is not there; lists those that are.
        InvalidInputError: Two features would have one name.
    """
    own = [name for names in features.values() for name in names]
    shared = {name for name in own if own.count(name) > 1}
    named = {
        view: {name: f"{view}__{name}" if name in shared else name for name in names}
        for view, names in features.items()
    }
    given = [column for view in named.values() for column in view.values()]
    doubled = sorted({column for column in given if given.count(column) > 1})
    if doubled:
        raise InvalidInputError(f"several features would be called {', '.join(doubled)}")
    if columns is None:
        return named
    unknown = [column for column in columns if column not in given]
    if unknown:
        raise NotFoundError(
            f"no feature is called {', '.join(unknown)}; the views give: {', '.join(given)}"
        )
    wanted = set(columns)
    return {
        view: {name: column for name, column in names.items() if column in wanted}
        for view, names in named.items()
    }
