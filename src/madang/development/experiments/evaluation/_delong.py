"""DeLong's test of two areas under the ROC curve on the same rows.

DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44: 837-845; placements by ranks after Sun and
Xu (2014), IEEE Signal Processing Letters 21: 1389-1393.
"""

from __future__ import annotations

import numpy as np

from madang.development.experiments.evaluation._bootstrap import Array


def placements(scores: Array, truth: Array) -> tuple[float, Array]:
    """The area, and for each row the share of the other outcome's rows that it beats.

    For a positive row: of negatives below it; for a negative one: of positives above it. Equal
    scores count half. Both kinds have the area as their mean.
    """
    from scipy.stats import rankdata

    positive = int(truth.sum())
    negative = len(truth) - positive
    overall = rankdata(scores)
    own = np.empty(len(scores))
    own[truth], own[~truth] = rankdata(scores[truth]), rankdata(scores[~truth])
    other = overall - own  # rows of the other outcome below, equal ones half
    each = np.where(truth, other / negative, 1 - other / positive)
    return float(each[truth].mean()), each


def delong(first: Array, second: Array, truth: Array) -> tuple[float, float, float, float]:
    """Both areas, the standard error of their difference, and its two-sided p-value."""
    from scipy.stats import norm

    area, placed = placements(first, truth)
    other, others = placements(second, truth)
    difference = placed - others
    variance = sum(
        difference[rows].var(ddof=1) / rows.sum() for rows in (truth, ~truth) if rows.sum() > 1
    )
    error = float(np.sqrt(variance))
    if error == 0.0:
        return area, other, 0.0, 1.0 if area == other else 0.0
    return area, other, error, float(2 * norm.sf(abs(area - other) / error))
