"""AutoML: the best model of a table within a time budget, with everything that was tried on record.

result = automl(stack, "flights", label="late", seconds=300)
print(result)                               # the leaderboard
versions = result.register("late")          # the ensemble's members, or the best single model
"""

from __future__ import annotations

from typing import Any

from madang.development.tuning.automl.contract import AutoML, Candidate, ColumnUse, Member


def __getattr__(name: str) -> Any:
    if name == "automl":
        from madang.development.tuning.automl.run import automl

        return automl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["AutoML", "Candidate", "ColumnUse", "Member", "automl"]
