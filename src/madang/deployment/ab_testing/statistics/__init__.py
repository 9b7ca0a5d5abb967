"""Always-valid statistics of rollouts: pure functions of sufficient statistics that merge.

Nothing here knows of endpoints or outcomes. Every function takes arrays as well as numbers, unless
it says otherwise, so that thousands of simulated rollouts are judged at once.
"""

from madang.deployment.ab_testing.statistics.bandits import probability_of_best, thompson_shares
from madang.deployment.ab_testing.statistics.effects import (
    EVERYTHING,
    Effect,
    Interval,
    contrast,
    difference,
    stratified,
)
from madang.deployment.ab_testing.statistics.moments import Moments, adjusted
from madang.deployment.ab_testing.statistics.quantiles import bounds, bucket_of, edge, ratio
from madang.deployment.ab_testing.statistics.rates import (
    Successes,
    concentration_for,
    log_evidence,
    ratio_interval,
)
from madang.deployment.ab_testing.statistics.ratios import log_mismatch
from madang.deployment.ab_testing.statistics.sequences import asymptotic, fixed, msprt, tuned_rho
from madang.deployment.ab_testing.statistics.spending import obrien_fleming, spent

__all__ = [
    "EVERYTHING",
    "Effect",
    "Interval",
    "Moments",
    "Successes",
    "adjusted",
    "asymptotic",
    "bounds",
    "bucket_of",
    "concentration_for",
    "contrast",
    "difference",
    "edge",
    "fixed",
    "log_evidence",
    "log_mismatch",
    "msprt",
    "obrien_fleming",
    "probability_of_best",
    "ratio",
    "ratio_interval",
    "spent",
    "stratified",
    "thompson_shares",
    "tuned_rho",
]
