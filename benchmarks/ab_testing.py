"""How often rollouts decide wrongly, and how soon rightly: simulated, with a look after every 100.

    python benchmarks/ab_testing.py [--rollouts 10000] [--json]

A/A rollouts: both arms are the same, so every decision is a false one, be it for the treatment (a
false promotion) or against it; a method keeps its promise if at most `alpha` = 5 % of the rollouts ever
decide, at any of their looks. Rollouts with a true lift of
10 % at a base rate of 20 % show the power, and the observations until the decision (the horizon's
40,000 where there is none). `naive` repeats a test that was made for one look. All is seeded;
a rate of 5 % of 10,000 has a standard error of 0.2 %.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

from madang.deployment.ab_testing.statistics import simulated
from madang.deployment.ab_testing.statistics.simulation import Decisions, Plan, compare

METHODS = ("asymptotic", "msprt", "obrien_fleming")
BEST_POWER, BEST_SAMPLE = 0.982, 14_800
"""Of the best always-valid method that was measured before (an asymptotic confidence sequence)."""


def judged(kind: str, plan: Plan) -> dict[str, Decisions]:
    methods = (*METHODS, "beta_binomial") if kind == "rate" else METHODS
    return compare(kind, (*methods, "naive"), plan)


def false_decisions(plan: Plan) -> dict[str, dict[str, Decisions]]:
    short = replace(plan, horizon=10_000)
    return {
        "rate": judged("rate", plan),
        "mean": judged("mean", short),
        "heavy-tailed mean": judged("heavy", short),
        "mean, CUPED": judged("covariate", short),
        "rate, bandit": {"thompson": simulated.bandits(plan)},
        "rate, canary 5-20-50 %, drifting": {
            "asymptotic": (canary := simulated.canaries(short, drift=0.1))["strata"],
            "naive": canary["pooled"],
        },
        "latency, p95": {"beta_binomial": simulated.latencies(replace(short, horizon=5000))},
        "sample ratio": {"dirichlet": simulated.mismatches(plan)},
    }


def powers(plan: Plan) -> dict[str, dict[str, Decisions]]:
    fewer = replace(plan, rollouts=max(1, plan.rollouts // 5), lift=0.1)
    slow = replace(fewer, rollouts=max(1, plan.rollouts // 20))
    return {
        "rate, lift 10 %": judged("rate", fewer),
        "mean, lift 10 %": judged("mean", slow),
        "mean, lift 10 %, CUPED": judged("covariate", slow),
        "rate, lift 10 %, bandit": {"thompson": simulated.bandits(fewer)},
        "latency, p95 50 % slower": {
            "beta_binomial": simulated.latencies(replace(slow, horizon=10_000), slower=1.5)
        },
        "sample ratio, 48 % for 50 %": {"dirichlet": simulated.mismatches(fewer, real=0.48)},
    }


def lines(found: dict[str, dict[str, Decisions]]) -> None:
    for what, methods in found.items():
        for method, one in methods.items():
            shares = f"{one.promoted:9.2%} {one.rejected:9.2%} {one.mean_sample:11,.0f}"
            print(f"{what:34}{method:16}{shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="error rates and power of rollouts")
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    plan = Plan(rollouts=chosen.rollouts)
    start = time.perf_counter()
    false, true = false_decisions(plan), powers(plan)
    seconds = time.perf_counter() - start
    ours = [one for some in false.values() for method, one in some.items() if method != "naive"]
    promoted = max(one.promoted for one in ours)
    decided = max(one.promoted + one.rejected for one in ours)
    best = true["rate, lift 10 %"]["asymptotic"]
    summary = {
        "worst_false_promotions": promoted,
        "worst_false_decisions": decided,
        "alpha": plan.alpha,
        "power_to_best_known": best.promoted / BEST_POWER,
        "sample_to_best_known": best.mean_sample / BEST_SAMPLE,
        "seconds": seconds,
    }
    if chosen.json:
        rows = {
            what: {method: vars(one) for method, one in methods.items()}
            for what, methods in (false | true).items()
        }
        print(json.dumps({"summary": summary, "rollouts": rows}))
        return
    print(f"{'':50}{'for':>9} {'against':>9} {'mean sample':>11}")
    print(f"no effect, {plan.rollouts:,} rollouts: false decisions")
    lines(false)
    print("a true effect")
    lines(true)
    print(
        f"worst rate of false promotions {promoted:.2%}, of false decisions either way {decided:.2%} "
        f"(promised: {plan.alpha:.0%}); power "
        f"{summary['power_to_best_known']:.3f} × and sample {summary['sample_to_best_known']:.3f} × "
        f"of the best known; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
