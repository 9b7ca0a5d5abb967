"""Thompson sampling as shares of traffic, and how sure the best arm is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

_POINTS = 401
_REACH = 8.0


def probability_of_best(means: ArrayLike, variances: ArrayLike) -> NDArray[np.float64]:
    """The posterior probability of each arm that its mean is the highest.

    Posteriors are normal with a flat prior, independent of each other; the probability is the
    integral of an arm's density times the others' distribution functions, by the trapezoid rule; of
    two arms it has a closed form.

    Args:
        means: Shape `(…, arms)`.
        variances: Of the means, above 0, the same shape; infinite where an arm is not known.
    """
    centre = np.asarray(means, float)
    spread = np.sqrt(np.asarray(variances, float))
    known = np.isfinite(spread)
    # What is not known could be anything: so wide that it wins every second time.
    reach = np.ptp(np.where(known, centre, 0.0), axis=-1, keepdims=True)
    widest = np.max(np.where(known, spread, 0.0), axis=-1, keepdims=True)
    wide = np.maximum(1000 * (reach + widest), 1e-12)
    spread = np.where(known, np.maximum(spread, 1e-12 * wide), wide)
    centre = np.where(known, centre, 0.0)
    if centre.shape[-1] == 2:
        last = norm.cdf(
            (centre[..., 1] - centre[..., 0]) / np.hypot(spread[..., 0], spread[..., 1])
        )
        return np.stack([1 - last, last], -1)
    units = np.linspace(-_REACH, _REACH, _POINTS)
    arms = centre.shape[-1]
    found = np.empty_like(centre)
    density = norm.pdf(units) * (units[1] - units[0])
    for arm in range(arms):
        at = centre[..., arm, None] + spread[..., arm, None] * units
        chance = np.broadcast_to(density, at.shape).copy()
        for other in range(arms):
            if other != arm:
                chance *= norm.cdf((at - centre[..., other, None]) / spread[..., other, None])
        found[..., arm] = chance.sum(-1)
    found /= found.sum(-1, keepdims=True)
    return found


def thompson_shares(chances: ArrayLike, floor: float) -> NDArray[np.float64]:
    """Shares of traffic by probability matching, each at least `floor`.

    Thompson (1933), "On the likelihood that one unknown probability exceeds another": an arm is
    chosen as often as it is probably the best. The floor keeps the information growing in every
    arm, which the always-valid stopping rule needs (Zhang, Janson & Murphy 2020, "Inference for
    batched bandits").

    Args:
        chances: Of being the best, shape `(…, arms)`.
        floor: At most one part in as many as there are arms.
    """
    found = np.array(chances, float)
    found *= 1 - floor * found.shape[-1]
    found += floor
    return found
