"""How good a model is, where it is not, and whether it may go on: one report for every model.

result = evaluate(model, features, labels, slices=["airline"], find_slices=True, champion=other)
result.metrics["auc"], result.intervals["auc"], result.comparison.verdict
Gate(min={"auc": 0.7}, no_worse_than_champion=["auc"]).check(result).require()
registry.register(…, report=result)
"""

from __future__ import annotations

from madang.development.experiments.evaluation._attribution import Attributions
from madang.development.experiments.evaluation._calibration import Bin, Calibration, calibration
from madang.development.experiments.evaluation._comparison import (
    Comparison,
    Difference,
    SliceDifference,
    compare,
)
from madang.development.experiments.evaluation._evaluate import evaluate
from madang.development.experiments.evaluation._fairness import Fairness, Group, fairness
from madang.development.experiments.evaluation._gate import Gate, GateResult
from madang.development.experiments.evaluation._influence import Dependence, Importance
from madang.development.experiments.evaluation._measure import HIGHER_IS_BETTER, LOWER_IS_BETTER
from madang.development.experiments.evaluation._observed import MIN_KNOWN, expected, observed
from madang.development.experiments.evaluation._registered import (
    evaluate_registered,
    keep_evaluation,
)
from madang.development.experiments.evaluation._regression import quantile_loss
from madang.development.experiments.evaluation._robustness import Change, Robustness
from madang.development.experiments.evaluation._slices import Slice, find_slices
from madang.development.experiments.evaluation._thresholds import Costs, Thresholds, thresholds
from madang.development.experiments.evaluation._values import Evaluation

__all__ = [
    "HIGHER_IS_BETTER",
    "LOWER_IS_BETTER",
    "MIN_KNOWN",
    "Attributions",
    "Bin",
    "Calibration",
    "Change",
    "Comparison",
    "Costs",
    "Dependence",
    "Difference",
    "Evaluation",
    "Fairness",
    "Gate",
    "GateResult",
    "Group",
    "Importance",
    "Robustness",
    "Slice",
    "SliceDifference",
    "Thresholds",
    "calibration",
    "compare",
    "evaluate",
    "evaluate_registered",
    "expected",
    "fairness",
    "find_slices",
    "keep_evaluation",
    "observed",
    "quantile_loss",
    "thresholds",
]
