"""How often rollouts decide wrongly, and how soon rightly: simulated, with a look after every 100.

    python benchmarks/ab_testing.py [--rollouts 10000] [--rounds 5] [--json]

A/A rollouts: both arms are the same, so every decision is a false one, be it for the treatment (a
false promotion) or against it; a method keeps its promise if at most `alpha` = 5 % of the rollouts ever
decide, at any of their looks. Rollouts with a true lift of
10 % at a base rate of 20 % show the power, and the observations until the decision (the horizon's
40,000 where there is none). `naive` repeats a test that was made for one look. All is seeded;
a rate of 5 % of 10,000 has a standard error of 0.2 %.

What a rollout costs the endpoint (with wrk, 32 connections, the model and the worker of `serving.py`):
requests per second with the same two arms, chosen by chance, by a rollout's hash, and with a shadow
beside one arm, each in turn in every round; the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import serving

import madang
from madang.deployment.ab_testing.statistics import simulated
from madang.deployment.ab_testing.statistics.simulation import Decisions, Plan, compare
from madang.deployment.serving import Arm, Split
from madang.deployment.serving._state import Files

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


CHANCE = ([Arm("cancer", 1, 0.5), Arm("cancer", 2, 0.5)], None)
HASHED = (CHANCE[0], Split("rollout", "salt"))
ALONE = ([Arm("cancer", 1, 1.0), Arm("cancer", 2, 0.0)], None)
SHADOWED = (ALONE[0], Split("rollout", "salt", shadows=(2,)))


def costs(rounds: int, seconds: float) -> dict[str, float]:
    """Requests per second in a rollout as a share of those without it."""
    with tempfile.TemporaryDirectory(prefix="madang-bench-") as name:
        folder, port = Path(name), serving.free_port()
        serving.write_bodies(folder)
        (folder / "post.lua").write_text(serving.SCRIPT)
        home = serving.project(folder / "project", compiled=True)
        command = [sys.executable, "-m", "madang.deployment.serving.worker", "--home", str(home)]
        log, token = folder / "worker.log", Files(home).own_token()
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        with (
            madang.open(home.parent) as stack,
            serving.running([*command, "--port", str(port)], log) as process,
        ):
            body = (folder / "body.json").read_bytes()
            serving.until_ready(process, url, body, token, log)

            def rate(arms: list[Arm], split: Split | None) -> float:
                stack.serving.deploy("cancer", arms, split=split)
                serving.closed(url, folder, token, 32, 1)
                serving.until_logged(port, token)
                return serving.closed(url, folder, token, 32, seconds)["rps"]

            found = [
                [rate(*way) for way in (CHANCE, HASHED, ALONE, SHADOWED)] for _ in range(rounds)
            ]
    return {
        "rps_by_chance": statistics.median(one[0] for one in found),
        "hashed_to_chance": statistics.median(one[1] / one[0] for one in found),
        "rps_one_arm": statistics.median(one[2] for one in found),
        "shadowed_to_one_arm": statistics.median(one[3] / one[2] for one in found),
        "hashed_to_one_arm": statistics.median(one[1] / one[2] for one in found),
    }


def lines(found: dict[str, dict[str, Decisions]]) -> None:
    for what, methods in found.items():
        for method, one in methods.items():
            shares = f"{one.promoted:9.2%} {one.rejected:9.2%} {one.mean_sample:11,.0f}"
            print(f"{what:34}{method:16}{shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="error rates and power of rollouts")
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="of the costs; 0: none")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    cost = costs(chosen.rounds, 3) if chosen.rounds and shutil.which("wrk") else {}
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
        print(json.dumps({"summary": summary, "rollouts": rows, "cost": cost}))
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
    if cost:
        print(
            f"cost: {cost['hashed_to_chance']:.3f} of the requests per second of two arms by chance "
            f"({cost['rps_by_chance']:,.0f}); with a shadow {cost['shadowed_to_one_arm']:.3f} of those "
            f"of one arm ({cost['rps_one_arm']:,.0f}); two hashed arms have "
            f"{cost['hashed_to_one_arm']:.3f} of one arm's"
        )


if __name__ == "__main__":
    main()
