"""The evaluation's page: what stands out first, then every part with its charts and tables."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from madang.development.experiments.evaluation._measure import primary_of
from madang.development.experiments.evaluation._slices import ALPHA

if TYPE_CHECKING:
    from madang.development.experiments.evaluation._values import Evaluation

_CARDS = {
    "binary": ("auc", "average_precision", "brier", "recall", "precision"),
    "multiclass": ("log_loss", "accuracy", "balanced_accuracy", "auc", "mcc"),
    "regression": ("rmse", "mae", "r2", "bias", "mape"),
}
_SHOWN = 40  # rows of a table; the data holds all


def page(evaluation: Evaluation, title: str) -> str:
    """The whole page as HTML."""
    kind = "binary" if evaluation.threshold is not None else "multiclass"
    kind = "regression" if evaluation.task == "regression" else kind
    charts = dict(evaluation.charts)
    curves = {k: charts.pop(k) for k in list(charts) if k.startswith("Partial dependence: ")}
    ranks = {k: charts.pop(k) for k in list(charts) if k.endswith("importance") or "SHAP" in k}
    return str(
        _template().render(
            title=title,
            e=evaluation,
            cards=[name for name in _CARDS[kind] if name in evaluation.metrics],
            primary=primary_of(kind),
            findings=findings(evaluation),
            charts=charts,
            curves={k.partition(": ")[2]: v for k, v in curves.items()},
            ranks=ranks,
            thresholds=_thresholds(evaluation),
            shown=_SHOWN,
            alpha=ALPHA,
        )
    )


def findings(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What a reader must not miss: (good, bad or note; a sentence)."""
    return [
        *_of_gate(evaluation),
        *_of_comparison(evaluation),
        *_of_calibration(evaluation),
        *_of_slices(evaluation),
        *_of_robustness(evaluation),
    ]


def _of_gate(evaluation: Evaluation) -> list[tuple[str, str]]:
    gate = evaluation.gate
    if gate is None:
        return []
    if gate.passed:
        return [("good", f"The model passes all {gate.checked} conditions of its gate.")]
    failed = f"{len(gate.reasons)} of {gate.checked}"
    return [("bad", f"The gate says no, {failed} conditions fail: {'; '.join(gate.reasons)}.")]


def _of_comparison(evaluation: Evaluation) -> list[tuple[str, str]]:
    comparison = evaluation.comparison
    if comparison is None:
        return []
    one = comparison.differences[comparison.metric]
    kind = {"better": "good", "worse": "bad"}.get(comparison.verdict, "note")
    p_value = "" if one.p_value is None else f" (p {_p(one.p_value)})"
    text = (
        f"Against the champion on the same rows: {comparison.verdict}; {comparison.metric} "
        f"{one.challenger:.4g}, the champion's {one.champion:.4g}{p_value}."
    )
    found = [(kind, text)]
    if comparison.worse_slices:
        where = "; ".join(comparison.worse_slices[:5])
        more = len(comparison.worse_slices) - 5
        rest = f" and {more} more slices" if more > 0 else ""
        found.append(("bad", f"Worse than the champion where {where}{rest}."))
    return found


def _of_calibration(evaluation: Evaluation) -> list[tuple[str, str]]:
    one = evaluation.calibration
    if one is None or one.p_value is None or one.z is None:
        return []
    if one.p_value >= ALPHA:
        return [
            ("good", "The probabilities may be taken at their word: no miscalibration is seen.")
        ]
    how = "too sure of itself" if one.z > 0 else "not as sure as it might be"
    return [("bad", f"The probabilities are off (p {_p(one.p_value)}): the model is {how}.")]


def _of_slices(evaluation: Evaluation) -> list[tuple[str, str]]:
    found = [("bad", f"Does worse where {s.name} ({s.rows:,} rows, effect {s.effect:.2f}).")
             for s in (evaluation.found_slices or ())[:3]]  # fmt: skip
    if evaluation.found_slices == ():
        found = [("good", "A search over one and two columns found no slice that does worse.")]
    return found


def _of_robustness(evaluation: Evaluation) -> list[tuple[str, str]]:
    one = evaluation.robustness
    if one is None:
        return []
    found = []
    worst = next((c for c in one.changes if c.drop is not None and c.drop > 0), None)
    if worst is not None:
        text = (
            f"Most fragile in {worst.feature} ({worst.change}): {one.metric} goes from "
            f"{one.value:.4g} to {worst.value:.4g}."
        )
        found.append(("note", text))
    refused = sorted({c.feature for c in one.changes if c.value is None})
    if refused:
        some = ", ".join(refused[:5]) + (" …" if len(refused) > 5 else "")
        found.append(("note", f"Refuses rows when something is wrong with {some}."))
    return found


def _thresholds(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The table's rows at tenths, and at the best."""
    if evaluation.thresholds is None:
        return []
    best = evaluation.thresholds.best
    tenths = {round(n / 10, 12) for n in range(10)}
    rows = evaluation.thresholds.table.to_pylist()
    return [row for row in rows if row["threshold"] in tenths or row["threshold"] == best]


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) < 1e-12:
        return "0"  # what rounding left of it
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.3g}"


def _ends(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{_number(bounds[0])} – {_number(bounds[1])}"


@cache
def _template() -> Any:
    import jinja2

    text = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(n=_number, ends=_ends, p=_p)
    return environment.from_string(text)
