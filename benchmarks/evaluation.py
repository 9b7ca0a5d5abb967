"""Metrics with intervals, beside a loop of scikit-learn; and the other parts of a report.

python benchmarks/evaluation.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl
from sklearn import metrics as sk

from madang.development.experiments.evaluation import calibration, compare, fairness, find_slices
from madang.development.experiments.evaluation._binary import binary_metrics

RESAMPLES, LOOPS = 200, 3


class Column:
    """A model that reads its probability from a column."""

    classes_ = np.array([0, 1])

    def __init__(self, number):
        self.number = number

    def predict_proba(self, rows):
        return np.column_stack([1 - rows[:, self.number], rows[:, self.number]])


def timed(call, *arguments, **options):
    start = time.perf_counter()
    found = call(*arguments, **options)
    return time.perf_counter() - start, found


def loop(scores, truth):
    """One bootstrap sample of the same metrics by scikit-learn."""
    chosen = np.random.default_rng().integers(0, len(truth), len(truth))
    s, t = scores[chosen], truth[chosen]
    guess = s > 0.5
    sk.roc_auc_score(t, s), sk.average_precision_score(t, s), sk.log_loss(t, s)
    sk.brier_score_loss(t, s), sk.accuracy_score(t, guess), sk.balanced_accuracy_score(t, guess)
    sk.f1_score(t, guess), sk.matthews_corrcoef(t, guess)
    sk.precision_score(t, guess), sk.recall_score(t, guess)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    random = np.random.default_rng(0)
    scores = random.beta(2, 5, rows)
    truth = random.random(rows) < scores
    ours, (values, _) = timed(binary_metrics, scores, truth, 0.5, RESAMPLES, random)
    theirs = sum(timed(loop, scores, truth)[0] for _ in range(LOOPS)) / LOOPS * RESAMPLES
    print(f"two classes, {rows:,} rows, {RESAMPLES} samples of {len(values)} metrics")
    print(f"  Madang                                   {ours:8.2f} s")
    print(f"  scikit-learn, 10 of them ({LOOPS} samples x {RESAMPLES // LOOPS}) {theirs:8.2f} s")
    print(f"  ratio                                    {theirs / ours:8.0f}")
    other = np.clip(scores + random.normal(0, 0.05, rows), 0, 1)
    seconds, _ = timed(compare, Column(0), Column(1), np.column_stack([scores, other]), truth)
    print(f"comparison of two models, {rows:,} rows      {seconds:8.2f} s")
    frame = pl.DataFrame({f"n{i}": random.normal(size=rows // 10) for i in range(20)})
    losses = (scores - truth)[: rows // 10] ** 2
    seconds, _ = timed(find_slices, frame, losses)
    print(f"search over 20 columns, {rows // 10:,} rows      {seconds:8.2f} s")
    group = pl.Series("g", random.choice(list("abcd"), rows // 10))
    part = slice(0, rows // 10)
    seconds, _ = timed(fairness, group, scores[part], truth[part])
    print(f"fairness, 4 groups, {rows // 10:,} rows, {RESAMPLES} samples {seconds:6.2f} s")
    seconds, _ = timed(calibration, scores, truth)
    print(f"calibration, {rows:,} rows                   {seconds:8.2f} s")


if __name__ == "__main__":
    main()
