"""A weighted mean of models, chosen greedily.

Caruana, Niculescu-Mizil, Crew and Ksikes, Ensemble Selection from Libraries of Models (ICML 2004):
models are added one by one, with replacement, each time the one that improves the metric of the
mean most; a model's share is how often it was added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from madang.development.tuning.automl import scoring
from madang.development.tuning.automl.trial import outputs

if TYPE_CHECKING:
    from madang.development.tuning.automl.contract import Member

Array = np.ndarray[Any, Any]
_ROUNDS = 25


def select(
    metric: str,
    direction: Literal["minimize", "maximize"],
    truth: Array,
    predicted: Mapping[int, Array],
    *,
    most: int = 8,
) -> tuple[dict[int, float], float]:
    """Which of some models to take, with which share, and the metric of their mean.

    Args:
        metric: As in `scoring`.
        direction: What is better.
        truth: Labels, shape (rows,).
        predicted: Number of a model to its predictions on the same rows.
        most: At most so many different models.

    Returns:
        Number to share, heaviest first; shares sum to 1. And the mean's metric.
    """
    sign = 1.0 if direction == "minimize" else -1.0
    added: Counter[int] = Counter()
    total: Array = np.zeros_like(next(iter(predicted.values())))
    best_score, best_added = np.inf, Counter[int]()
    for size in range(1, _ROUNDS + 1):
        usable = predicted if len(added) < most else {n: predicted[n] for n in added}
        scores = {
            number: sign * scoring.score(metric, truth, (total + array) / size)
            for number, array in usable.items()
        }
        number = min(scores, key=lambda n: (scores[n], n))
        added[number] += 1
        total = total + predicted[number]
        if not best_added or scores[number] < best_score:  # every score may be infinite
            best_score, best_added = scores[number], Counter(added)
    count = sum(best_added.values())
    return {n: times / count for n, times in best_added.most_common()}, sign * best_score


class Blend:
    """The weighted mean of fitted regressions, as one estimator."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    def predict(self, features: Any) -> Array:
        """The mean prediction, shape (rows,)."""
        return np.asarray(sum(m.weight * m.model.predict(features) for m in self._members))


class BlendClassifier(Blend):
    """The weighted mean of fitted classifiers' probabilities, as one estimator.

    Attributes:
        classes_: The labels, in the order of the probabilities.
    """

    def __init__(self, members: Sequence[Member], classes: Sequence[Any]) -> None:
        super().__init__(members)
        self.classes_ = np.asarray(classes)

    def predict_proba(self, features: Any) -> Array:
        """The mean probabilities, shape (rows, classes)."""
        return np.asarray(
            sum(
                m.weight * outputs(m.model, features, tuple(self.classes_.tolist()))
                for m in self._members
            )
        )

    def predict(self, features: Any) -> Array:
        """The label of the largest mean probability, shape (rows,)."""
        return np.asarray(self.classes_[self.predict_proba(features).argmax(axis=1)])


def blend(members: Sequence[Member], classes: Sequence[Any]) -> Blend:
    """The members as one estimator: a classifier if there are classes."""
    return BlendClassifier(members, classes) if len(classes) else Blend(members)
