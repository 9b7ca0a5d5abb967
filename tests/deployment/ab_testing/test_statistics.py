"""The formulas: against other libraries, against each other, and by what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from madang.deployment.ab_testing import statistics as st
from madang.deployment.ab_testing.statistics import simulated
from madang.deployment.ab_testing.statistics.simulation import BASE_RATE, Plan, compare

REFERENCES = json.loads((Path(__file__).parent / "references.json").read_text())
GBSTATS, TEA = REFERENCES["gbstats 0.8.0"], REFERENCES["tea-tasting 1.14.0"]
ARM = np.array(REFERENCES["arm"])


def arms(name, covariate=None):
    values = np.array(REFERENCES[name], float)
    x = None if covariate is None else np.array(REFERENCES[covariate], float)
    return [
        st.Moments.of(values[arm == ARM], None if x is None else x[arm == ARM]) for arm in (0, 1)
    ]


METRICS = {
    "mean": arms("y"),
    "covariate": st.adjusted(*arms("y", "x")),
    "rate": arms("won"),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", GBSTATS)
def test_the_asymptotic_sequence_is_that_of_gbstats(case, metric):
    tuned_for, alpha = map(float, case.split(","))
    assert st.tuned_rho(tuned_for, alpha) == pytest.approx(GBSTATS[case]["rho"], rel=1e-12)
    found = st.asymptotic(st.difference(*METRICS[metric]), alpha, tuned_for=tuned_for)
    assert [found.low, found.high] == pytest.approx(GBSTATS[case][metric], rel=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_means_and_fixed_intervals_are_those_of_tea_tasting(metric):
    expected = TEA[metric]
    control, treatment = METRICS[metric]
    assert [control.mean, treatment.mean] == pytest.approx(
        [expected["control"], expected["treatment"]], rel=1e-9
    )
    found = st.fixed(st.difference(control, treatment), norm.isf(0.025))
    assert [found.low, found.high] == pytest.approx(
        [expected["effect_size_ci_lower"], expected["effect_size_ci_upper"]], rel=1e-9
    )


def test_moments_merge_in_any_order():
    rng = np.random.default_rng(0)
    y, x = rng.normal(1e6, 1, 90), rng.normal(size=90)
    whole = st.Moments.of(y, x)
    parts = [st.Moments.of(y[i:j], x[i:j]) for i, j in ((0, 1), (1, 1), (1, 40), (40, 90))]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = sum((parts[i] for i in order), st.Moments())
        for name in ("count", "mean", "squares", "x_mean", "x_squares", "products"):
            assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert whole.variance == pytest.approx(y.var(ddof=1))
    assert np.isnan(st.Moments.of([1.0]).variance)


def test_moments_of_a_rate_are_those_of_its_zeros_and_ones():
    assert st.Moments.of_rate(3, 10) == st.Moments.of([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])


def test_a_constant_covariate_changes_nothing():
    rows = [st.Moments.of([1.0, 2, 3], [5.0, 5, 5]), st.Moments.of([2.0, 3, 5], [5.0, 5, 5])]
    plain = [st.Moments.of([1.0, 2, 3]), st.Moments.of([2.0, 3, 5])]
    assert list(st.adjusted(*rows)) == plain


def test_an_msprt_whose_tau_is_that_of_the_sequence_is_the_same():
    effect = st.difference(*METRICS["mean"])
    tau = np.sqrt(effect.variance * effect.count) * st.tuned_rho(5000, 0.05)
    same = st.asymptotic(effect, 0.05, tuned_for=5000)
    found = st.msprt(effect, 0.05, tau=tau)
    assert [found.low, found.high] == pytest.approx([same.low, same.high])


def test_the_mixture_rejects_what_its_integral_rejects():
    """Λ(θ) by numerical integration is 1 / α at the interval's ends."""
    effect, tau, alpha = st.Effect(0.3, 0.01, 100, 100), 0.2, 0.05
    found = st.msprt(effect, alpha, tau=tau)
    for truth in (found.low, found.high):
        likelihood = lambda theta: norm.pdf(effect.estimate, theta, effect.variance**0.5)  # noqa: E731
        mixed, _ = quad(lambda d: likelihood(truth + d) * norm.pdf(d, 0, tau), -3, 3, points=[0])
        assert mixed / likelihood(truth) == pytest.approx(1 / alpha, rel=1e-6)


def test_nothing_known_is_every_effect():
    effect = st.difference(st.Moments(), st.Moments.of([1.0]))
    for found in (
        st.asymptotic(effect, 0.05, tuned_for=100),
        st.msprt(effect, 0.05, tau=1),
        st.fixed(effect, 2.0),
        st.fixed(st.difference(*METRICS["mean"]), np.inf),
    ):
        assert (found.low, found.high) == (-np.inf, np.inf)


def test_few_equal_outcomes_of_a_small_arm_prove_nothing():
    control, treatment = st.Moments.of_rate(200, 1000), st.Moments.of_rate(0, 5)
    found = st.asymptotic(st.difference(control, treatment), 0.05, tuned_for=1000)
    assert found.low < 0 < found.high


# -- group sequential ------------------------------------------------------------------------------


def test_obrien_fleming_bounds_are_those_of_the_books():
    """Lan-DeMets bounds for 5 equal looks at 0.05 two-sided (Jennison & Turnbull 2000; R's gsDesign)."""
    found = st.obrien_fleming([0.2, 0.4, 0.6, 0.8, 1.0], 0.05)
    assert found == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    assert st.obrien_fleming([1.0], 0.05)[0] == pytest.approx(norm.isf(0.025))
    assert st.spent(1.0, 0.05) == pytest.approx(0.05)


def test_a_look_too_early_has_no_bound():
    assert st.obrien_fleming([0.001, 1.0], 0.05) == pytest.approx([np.inf, norm.isf(0.025)])


# -- rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_the_interval_of_rates_is_what_the_test_does_not_reject(share):
    """The numerical mixture over the ratio has the closed form of the beta-binomial."""
    wins = st.Successes(control=400 * (1 - share) * 2, treatment=500 * share * 2, share=share)
    found = st.ratio_interval([wins], 0.05, lift=0.1)
    assert found.low < 500 / 400 < found.high
    prior = st.concentration_for(0.1, share)
    against_one = st.log_evidence(wins, concentration=prior)

    def likelihood(ratio):
        coin = share * ratio / (share * ratio + 1 - share)
        return wins.treatment * np.log(coin) + wins.control * np.log1p(-coin)

    for end in (found.low, found.high):
        evidence = against_one + likelihood(1.0) - likelihood(end)
        assert evidence == pytest.approx(-np.log(0.05), abs=1e-3)


def test_strata_of_one_share_are_as_good_as_one():
    halves = [st.Successes(200, 250, 0.5), st.Successes(210, 240, 0.5)]
    found = st.ratio_interval(halves, 0.05, lift=0.1)
    whole = st.ratio_interval([st.Successes(410, 490, 0.5)], 0.05, lift=0.1)
    assert [found.low, found.high] == pytest.approx([whole.low, whole.high], rel=1e-6)


def test_rates_without_successes_bound_one_side_or_none():
    assert st.ratio_interval([st.Successes(0, 0, 0.5)], 0.05, lift=0.1) == st.Interval(0, np.inf)
    found = st.ratio_interval([st.Successes(0, 40, 0.5)], 0.05, lift=0.5)
    assert found.low > 1 and found.high == np.inf
    found = st.ratio_interval([st.Successes(40, 0, 0.5)], 0.05, lift=0.5)
    assert found.low == 0 and found.high < 1


# -- quantiles -------------------------------------------------------------------------------------


def test_buckets_hold_what_is_up_to_their_edge():
    values = np.array([1e-9, 1e-6, 0.0123, 1.0, 70.0])
    buckets = st.bucket_of(values)
    assert (values <= st.edge(buckets) * (1 + 1e-9)).all()
    assert (values[2:] > st.edge(buckets[2:] - 1)).all()
    assert (st.bucket_of(st.edge(buckets)) == buckets).all()


def test_bounds_of_a_quantile_hold_it_and_narrow():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=200_000)
    edges = st.edge(np.arange(1500))
    before = (0.0, np.inf)
    for size in (100, 2000, 200_000):
        counts = np.bincount(st.bucket_of(values[:size]), minlength=1500)
        found = st.bounds(counts, edges, 0.95, 0.05, tuned_for=2000)
        assert before[0] <= found.low < np.exp(norm.ppf(0.95)) < found.high <= before[1]
        before = (found.low, found.high)
    assert before[1] / before[0] < 1.1


def test_no_observations_bound_no_quantile():
    edges = st.edge(np.arange(5))
    assert st.bounds(np.zeros(5), edges, 0.9, 0.05, tuned_for=100) == st.Interval(0.0, np.inf)
    found = st.ratio(np.zeros(5), np.zeros(5), edges, 0.9, 0.05, tuned_for=100)
    assert found == st.Interval(0.0, np.inf)


# -- bandits ---------------------------------------------------------------------------------------


def test_the_probability_of_being_best_is_that_of_drawing():
    means, variances = np.array([0.2, 0.25, 0.22]), np.array([0.001, 0.0005, 0.002])
    draws = np.random.default_rng(0).normal(means, np.sqrt(variances), (400_000, 3))
    drawn = np.bincount(draws.argmax(1), minlength=3) / 400_000
    assert st.probability_of_best(means, variances) == pytest.approx(drawn, abs=3e-3)
    two = st.probability_of_best(means[:2], variances[:2])
    assert two == pytest.approx([norm.cdf(-0.05 / 0.0015**0.5), norm.cdf(0.05 / 0.0015**0.5)])


def test_an_unknown_arm_may_be_the_best():
    found = st.probability_of_best([0.9, 0.0, 0.1], [0.01, np.inf, 0.01])
    assert found[1] == pytest.approx(0.5, abs=0.02)


def test_shares_keep_their_floor():
    assert st.thompson_shares([1.0, 0.0, 0.0], 0.1) == pytest.approx([0.8, 0.1, 0.1])


# -- what is promised, by simulation ---------------------------------------------------------------

SMALL = Plan(rollouts=2000, horizon=8000)
METHODS = ("asymptotic", "msprt", "obrien_fleming", "naive")
SLACK = 3 * (0.05 * 0.95 / SMALL.rollouts) ** 0.5
"""Three standard errors of a simulated rate of 5 %."""


@pytest.mark.parametrize("kind", ["rate", "mean", "heavy", "covariate"])
def test_false_decisions_are_as_rare_as_promised_at_all_looks(kind):
    methods = (*METHODS, "beta_binomial") if kind == "rate" else METHODS
    found = compare(kind, methods, SMALL)
    for method, one in found.items():
        wrong = one.promoted + one.rejected
        if method == "naive":
            assert wrong > 0.2  # so the simulation would see it
        elif method == "obrien_fleming":
            assert wrong <= SMALL.alpha + SLACK
        else:
            assert wrong <= SMALL.alpha


def test_a_real_lift_is_found_as_soon_as_by_the_best_known_method():
    found = compare("rate", ("asymptotic", "msprt", "beta_binomial"), Plan(rollouts=500, lift=0.1))
    for method in ("asymptotic", "msprt"):
        assert found[method].promoted >= 0.982 * 0.9
        assert found[method].mean_sample <= 14_800 * 1.1
    assert found["beta_binomial"].promoted >= 0.982 * 0.9
    assert found["beta_binomial"].mean_sample <= 14_800 / (1 - BASE_RATE) * 1.1


def test_a_covariate_that_explains_half_halves_the_sample():
    plan = Plan(rollouts=300, lift=0.1)
    plain = compare("mean", ("asymptotic",), plan)["asymptotic"].mean_sample
    assert compare("covariate", ("asymptotic",), plan)["asymptotic"].mean_sample < 0.6 * plain


def test_a_quiet_latency_stops_nothing_and_a_bad_one_does():
    plan = Plan(rollouts=300, horizon=4000, step=200)
    assert simulated.latencies(plan).rejected <= plan.alpha
    assert simulated.latencies(plan, slower=2.0).rejected > 0.95


def test_right_shares_raise_no_alarm_and_wrong_ones_do():
    plan = Plan(rollouts=1000, horizon=20_000, alpha=0.01)
    assert simulated.mismatches(plan).rejected <= 0.01
    assert simulated.mismatches(plan, wanted=0.05, real=0.05).rejected <= 0.01
    assert simulated.mismatches(plan, real=0.47).rejected > 0.95


def test_a_bandit_keeps_its_promise_and_finds_the_better_arm():
    assert (one := simulated.bandits(SMALL)).promoted + one.rejected <= SMALL.alpha
    assert simulated.bandits(Plan(rollouts=300, lift=0.3)).promoted > 0.95


def test_a_growing_canary_is_not_fooled_by_a_drifting_base_rate():
    found = simulated.canaries(Plan(rollouts=1000, horizon=12_000), drift=0.1)
    assert found["strata"].promoted + found["strata"].rejected <= 0.05
    assert found["pooled"].promoted > 0.3  # so the simulation would see it
