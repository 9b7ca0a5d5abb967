"""Quantiles such as the 95th percentile of latency, of histograms that merge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from madang.deployment.ab_testing.statistics.effects import Interval

Array = np.ndarray[Any, Any]

GROWTH = 1.02
"""A histogram's edges are powers of it, so that a value is known to 2 % (as in DDSketch: Masson, Rim
& Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees")."""

SMALLEST = 1e-6
"""What is less counts as this."""


def bucket_of(values: ArrayLike) -> Array:
    """The number of each value's bucket; bucket `i` holds `(edge(i - 1), edge(i)]`."""
    found = np.log(np.maximum(np.asarray(values, float), SMALLEST) / SMALLEST)
    buckets: Array = np.ceil(found / math.log(GROWTH) - 1e-9).astype(np.int64)
    return buckets


def edge(bucket: ArrayLike) -> Array:
    """The upper edge of a bucket."""
    edges: Array = SMALLEST * np.power(GROWTH, np.asarray(bucket, float))
    return edges


def bounds(
    counts: ArrayLike, edges: ArrayLike, quantile: float, alpha: float, *, tuned_for: float
) -> Interval:
    """Always-valid bounds of a quantile.

    At the true quantile, the count of smaller observations is that of coin tosses with a known
    coin, so a beta mixture over other coins tests it at all times; and what speaks against a value
    speaks even more against values beyond it, so that one test covers all values (Howard & Ramdas 2022,
    "Sequential estimation of quantiles with applications to A/B testing and best-arm
    identification", sections 3 and 7; the mixture is Robbins' beta-binomial). It is exact at
    every sample size.

    Args:
        counts: Observations in each bucket, shape `(…, buckets)`.
        edges: The buckets' upper edges, growing.
        quantile: Such as 0.95.
        alpha: The probability of ever missing it.
        tuned_for: At so many observations the bounds are narrowest.
    """
    found = np.asarray(counts, float)
    known = np.concatenate([[0.0], np.asarray(edges, float), [np.inf]])
    below = np.cumsum(found, -1)
    total = below[..., -1:]
    log = -2 * math.log(alpha)
    prior = tuned_for / (log + math.log(log + 1))
    a, b = prior * quantile, prior * (1 - quantile)
    evidence = betaln(a + below, b + total - below) - betaln(a, b)
    evidence -= below * math.log(quantile) + (total - below) * math.log1p(-quantile)
    sure = evidence >= -math.log(alpha)
    under = (sure & (below < quantile * total)).sum(-1)  # a prefix of the buckets
    over = (sure & (below > quantile * total)).sum(-1)  # a suffix
    return Interval(known[under], known[found.shape[-1] + 1 - over])


def ratio(
    control: ArrayLike,
    treatment: ArrayLike,
    edges: ArrayLike,
    quantile: float,
    alpha: float,
    *,
    tuned_for: float,
) -> Interval:
    """Always-valid bounds of treatment's quantile to control's.

    Each arm's bounds hold but for `alpha / 2`; `tuned_for` counts the observations of both arms.
    """
    first = bounds(control, edges, quantile, alpha / 2, tuned_for=tuned_for / 2)
    second = bounds(treatment, edges, quantile, alpha / 2, tuned_for=tuned_for / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(np.isinf(first.high), 0.0, second.low / first.high)
        high = np.where(first.low == 0, np.inf, second.high / first.low)
    return Interval(low[()], high[()])
