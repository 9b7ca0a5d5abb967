"""What a model must reach before it may go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from madang.development.experiments.evaluation._measure import HIGHER_IS_BETTER, LOWER_IS_BETTER
from madang.errors import ConfigurationError, GateFailedError, InvalidInputError

if TYPE_CHECKING:
    from madang.development.experiments.evaluation._values import Evaluation


@dataclass(frozen=True)
class GateResult:
    """Whether a model passed.

    Attributes:
        passed: Every condition holds.
        reasons: The conditions that don't hold, one sentence each; empty when it passed.
        checked: How many conditions there were.
    """

    passed: bool
    reasons: tuple[str, ...]
    checked: int

    def require(self) -> None:
        """Raises `GateFailedError` with the reasons unless the model passed."""
        if not self.passed:
            raise GateFailedError(
                f"the model fails {len(self.reasons)} of {self.checked} conditions of its gate: "
                + "; ".join(self.reasons)
            )


@dataclass(frozen=True)
class Gate:
    """Conditions on an evaluation.

    A figure that the evaluation lacks fails its condition: what was not measured is not passed.

    Attributes:
        min: Metric to the least value allowed.
        max: Metric to the largest value allowed.
        judge: `value`: the figures themselves. `interval`: the worse end of their 95 % intervals,
            so that too few rows fail instead of luck passing.
        no_worse_than_champion: Metrics in which the comparison with the champion must not come out
            worse; on all rows, and on each slice that was compared.
        margin: By how much it may be worse, in the metric's unit. 0: it must not be significantly
            worse. Above 0: on all rows it must be proven to be worse by less than that. Slices must
            not be significantly worse, whatever the margin.
        slices: Metric to the bound that each given slice's figure must keep: a least value where
            more is better (`auc`), a largest one where less is (`brier`).
        fairness: Difference to its largest value allowed; of `demographic_parity_ratio` the least.
            It holds for each grouping.
        found_slices: How many slices the search may have found in which the model is worse.
    """

    min: Mapping[str, float] = field(default_factory=dict)
    max: Mapping[str, float] = field(default_factory=dict)
    judge: Literal["value", "interval"] = "value"
    no_worse_than_champion: Sequence[str] = ()
    margin: float = 0.0
    slices: Mapping[str, float] = field(default_factory=dict)
    fairness: Mapping[str, float] = field(default_factory=dict)
    found_slices: int | None = None

    def __post_init__(self) -> None:
        if self.judge not in ("value", "interval"):
            raise ConfigurationError(f"judge is `value` or `interval`; found {self.judge!r}")
        if not self.margin >= 0:
            raise ConfigurationError(f"a gate's margin is 0 or more; found {self.margin}")
        for metric in self.slices:
            if metric not in HIGHER_IS_BETTER | LOWER_IS_BETTER:
                raise ConfigurationError(
                    f"a gate can't bound {metric!r} on slices; it can: "
                    f"{', '.join(sorted(HIGHER_IS_BETTER | LOWER_IS_BETTER))}"
                )

    @classmethod
    def from_mapping(cls, content: Any, where: str = "the gate") -> Gate:
        """A gate of plain values, such as YAML's.

        Raises:
            ConfigurationError: A name is none of a gate's attributes, or a value of another type.
        """
        known = [one.name for one in fields(cls)]
        if not isinstance(content, Mapping):
            raise ConfigurationError(f"{where} is no mapping; its keys are: {', '.join(known)}")
        unknown = [str(key) for key in content if key not in known]
        if unknown:
            raise ConfigurationError(
                f"{where} has the unknown key {', '.join(unknown)}; the keys are: {', '.join(known)}"
            )
        for key in ("min", "max", "slices", "fairness"):
            values = content.get(key, {})
            if not isinstance(values, Mapping) or not all(map(_is_number, values.values())):
                raise ConfigurationError(f"{where}: {key} maps names to numbers; found {values!r}")
        metrics = content.get("no_worse_than_champion", [])
        if isinstance(metrics, str) or not isinstance(metrics, Sequence):
            raise ConfigurationError(
                f"{where}: no_worse_than_champion is a list of metrics; found {metrics!r}"
            )
        if not _is_number(content.get("margin", 0.0)) or not _is_number(
            content.get("found_slices", 0)
        ):
            raise ConfigurationError(f"{where}: margin and found_slices are numbers")
        return cls(**content)

    @classmethod
    def from_file(cls, path: Path) -> Gate:
        """A gate in a YAML file, whose keys are a gate's attributes.

        Raises:
            ConfigurationError: It can't be read as a gate.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"the gate {path} can't be read: {error}") from error
        return cls.from_mapping(content, f"the gate {path}")

    def check(self, evaluation: Evaluation) -> GateResult:
        """Judges an evaluation.

        Raises:
            InvalidInputError: The gate has no condition, so that everything would pass.
        """
        found = [
            *self._bounds(evaluation),
            *self._champion(evaluation),
            *self._slices(evaluation),
            *self._fairness(evaluation),
            *self._search(evaluation),
        ]
        if not found:
            raise InvalidInputError("the gate has no condition; set min, max or another of them")
        reasons = tuple(reason for reason in found if reason)
        return GateResult(not reasons, reasons, len(found))

    def _bounds(self, evaluation: Evaluation) -> list[str]:
        found = []
        for least, bounds in ((True, self.min), (False, self.max)):
            for metric, bound in bounds.items():
                value: float | None = evaluation.metrics.get(metric)
                what = metric
                if self.judge == "interval":
                    ends = evaluation.intervals.get(metric)
                    value = None if ends is None else ends[0 if least else 1]
                    what = f"the {'lower' if least else 'upper'} end of {metric}'s interval"
                found.append(_bounded(what, value, bound, least=least))
        return found

    def _champion(self, evaluation: Evaluation) -> list[str]:
        found = []
        comparison = evaluation.comparison
        for metric in self.no_worse_than_champion:
            if comparison is None or metric not in comparison.differences:
                found.append(f"{metric} was not compared with the champion's")
                continue
            one = comparison.differences[metric]
            good = one.not_worse(self.margin)
            wanted = f"proven within {self.margin:g} of" if self.margin else "no worse than"
            found.append(
                ""
                if good
                else f"{metric} is {one.challenger:.4g} and must be {wanted} the champion's "
                f"{one.champion:.4g} ({_shown(one.interval)})"
            )
            for part in comparison.slices:
                inner = part.differences.get(metric)
                if inner is not None:
                    found.append(
                        f"{metric} where {part.name} is {inner.challenger:.4g}, worse than the "
                        f"champion's {inner.champion:.4g}"
                        if inner.verdict == "worse"
                        else ""
                    )
        return found

    def _slices(self, evaluation: Evaluation) -> list[str]:
        if self.slices and not evaluation.slices:
            return [f"{metric} was measured on no slice" for metric in self.slices]
        return [
            _bounded(
                f"{metric} where {part.name}", part.metrics.get(metric), bound,
                least=metric in HIGHER_IS_BETTER,
            )
            for metric, bound in self.slices.items()
            for part in evaluation.slices
        ]  # fmt: skip

    def _fairness(self, evaluation: Evaluation) -> list[str]:
        if self.fairness and not evaluation.fairness:
            return [f"{key} was measured between no groups" for key in self.fairness]
        return [
            _bounded(
                f"{key} by {part.column}", part.differences.get(key), bound,
                least=key.endswith("_ratio"),
            )
            for key, bound in self.fairness.items()
            for part in evaluation.fairness
        ]  # fmt: skip

    def _search(self, evaluation: Evaluation) -> list[str]:
        if self.found_slices is None:
            return []
        if evaluation.found_slices is None:
            return ["no slices were searched for"]
        found = len(evaluation.found_slices)
        if found <= self.found_slices:
            return [""]
        names = ", ".join(part.name for part in evaluation.found_slices[:3])
        return [
            f"the model is worse in {found} found slices, allowed are {self.found_slices}: {names}"
        ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "too few rows"
    return f"difference between {ends[0]:+.4g} and {ends[1]:+.4g}"


def _bounded(what: str, value: float | None, bound: float, *, least: bool) -> str:
    """The reason against it, or an empty text."""
    if value is None:
        return f"{what} was not measured"
    if value >= bound if least else value <= bound:
        return ""
    return f"{what} is {value:.4g}, {'below' if least else 'above'} the {bound:g} allowed"
