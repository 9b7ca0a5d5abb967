"""Whether the arms get the shares of traffic that they should."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from madang.deployment.ab_testing.statistics.moments import Numbers

CONCENTRATION = 1000.0
"""How near to the wanted shares the expected faults are: a few per cent off."""


def log_mismatch(
    counts: ArrayLike, shares: ArrayLike, *, concentration: float = CONCENTRATION
) -> Numbers:
    """The logarithm of the evidence that traffic is not split by `shares`.

    The Dirichlet-multinomial mixture against the multinomial of the wanted shares (Lindon & Malek
    2022, "Anytime-valid inference for multinomial count data", eq. 5). It is a test martingale: its
    probability of ever reaching `ln(1 / α)` with right shares is at most `α`, at all looks together. The
    evidence of strata, one after the other, adds up.

    Args:
        counts: Assignments of each arm, shape `(…, arms)`.
        shares: The wanted shares, above 0, the same shape or `(arms,)`.
        concentration: Of the prior around the shares.
    """
    found, wanted = np.asarray(counts, float), np.asarray(shares, float)
    wanted = wanted / wanted.sum(-1, keepdims=True)
    prior = concentration * wanted
    total = found.sum(-1)
    mixed = gammaln(concentration) - gammaln(concentration + total)
    mixed = mixed + (gammaln(prior + found) - gammaln(prior)).sum(-1)
    return (mixed - (found * np.log(wanted)).sum(-1))[()]
