"""Tracked and durable trials beside Optuna's own storages, in one run, as ratios.

    python benchmarks/tuning.py [--trials 200] [--repeat 3] [--json]

The objective costs nothing, so what is measured is the search: asking the sampler, and a record of
the trial that is on disk (synced) before the next one starts. Madang's trials are runs with a line
in the ledger each; Optuna's are rows of its database or lines of its journal. Optuna in memory
keeps nothing: it is what the sampler itself costs. The figure is the median of the repeats, which
take turns, because the disk's mood changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import madang
from madang.development.tuning import Float
from madang.stack import Stack

SPACE = {"x": Float(0, 1), "y": Float(0, 1), "z": Float(1e-3, 1, log=True)}
SAMPLERS: dict[str, Callable[[int], Any]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
}


def loss(params: dict[str, float]) -> float:
    return (params["x"] - 0.3) ** 2 + params["y"] * params["z"]


def objective(trial: optuna.Trial) -> float:
    return loss(
        {
            "x": trial.suggest_float("x", 0, 1),
            "y": trial.suggest_float("y", 0, 1),
            "z": trial.suggest_float("z", 1e-3, 1, log=True),
        }
    )


def ours(stack: Stack, sampler: str, trials: int, seed: int) -> None:
    study = stack.tuning.tune(loss, SPACE, name="bench", trials=trials, seed=seed, sampler=sampler)
    assert len(study.trials) == trials


def theirs(storage: Any, sampler: str, trials: int, seed: int) -> None:
    study = optuna.create_study(storage=storage, sampler=SAMPLERS[sampler](seed))
    study.optimize(objective, n_trials=trials)
    assert len(study.trials) == trials


def timed(work: Callable[[], None], trials: int) -> float:
    """Milliseconds a trial."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / trials * 1e3


def measure(folder: Path, trials: int, repeat: int) -> dict[str, dict[str, float]]:
    madang.init(folder / "project", name="bench")
    found: dict[str, dict[str, list[float]]] = {
        sampler: {who: [] for who in ("madang", "memory", "journal", "sqlite")}
        for sampler in SAMPLERS
    }
    with madang.open(folder / "project") as stack:
        for sampler in SAMPLERS:
            ours(stack, sampler, 3, 0)
            for turn in range(repeat):
                journal = JournalStorage(JournalFileBackend(str(folder / f"{sampler}{turn}.log")))
                works = {
                    "madang": lambda s=sampler, t=turn: ours(stack, s, trials, t),
                    "memory": lambda s=sampler, t=turn: theirs(None, s, trials, t),
                    "journal": lambda s=sampler, t=turn, j=journal: theirs(j, s, trials, t),
                }
                if turn == 0:  # slow, and the same each time
                    works["sqlite"] = lambda s=sampler: theirs(
                        f"sqlite:///{folder}/{s}.db", s, trials, 0
                    )
                for who, work in works.items():
                    found[sampler][who].append(timed(work, trials))
    return {
        sampler: {who: statistics.median(times) for who, times in of.items()}
        for sampler, of in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="durable trials beside Optuna's storages")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="madang-bench-") as name:
        found = measure(Path(name), chosen.trials, chosen.repeat)
    if chosen.json:
        print(json.dumps(found))
        return
    print(f"ms a trial, {chosen.trials} trials")
    print(
        f"{'':10}{'madang':>10}{'memory':>10}{'journal':>10}{'sqlite':>10}  journal / sqlite to ours"
    )
    for sampler, of in found.items():
        cells = "".join(f"{of[who]:10.2f}" for who in ("madang", "memory", "journal", "sqlite"))
        ratios = f"{of['journal'] / of['madang']:.1f} × / {of['sqlite'] / of['madang']:.1f} ×"
        print(f"{sampler:10}{cells}  {ratios}")


if __name__ == "__main__":
    main()
