"""What monitors are told, and what they found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from madang.errors import InvalidInputError


@dataclass(frozen=True)
class Sensitivity:
    """When a change is an alarm.

    Attributes:
        false_alarms: The chance that a window without any change raises an alarm at all, whatever
            the number of columns: 0.05 is at most one false alarm in 20 windows in the long run.
        lifetime: Whether `false_alarms` is the chance of any false alarm in all windows together:
            window number t gets the share 6 / (pi t)^2 of it.
        min_psi: A distribution's change of a smaller stability index is none.
        min_missing: A share of missing values that moves by less has not changed.
        min_new: A smaller share of new categories is none.
        min_rows: Windows of fewer rows are not judged.
    """

    false_alarms: float = 0.05
    lifetime: bool = False
    min_psi: float = 0.02
    min_missing: float = 0.01
    min_new: float = 0.001
    min_rows: int = 500

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if not 0 < self.false_alarms < 1:
            raise InvalidInputError(
                f"false_alarms is a chance between 0 and 1; found {self.false_alarms!r}"
            )
        for name in ("min_psi", "min_missing", "min_new", "min_rows"):
            if not getattr(self, name) >= 0:
                raise InvalidInputError(f"{name} is 0 or more; found {getattr(self, name)!r}")

    def level(self, number: int) -> float:
        """The chance of a false alarm that the window of this number (from 1 on) may have."""
        if not self.lifetime:
            return self.false_alarms
        return self.false_alarms * 6 / (math.pi * number) ** 2


@dataclass(frozen=True)
class ColumnTest:
    """One thing that may have changed in a column.

    Attributes:
        kind: `distribution`, `missing` or `new_categories`.
        p_value: The chance of so large a change without any cause.
        adjusted: The same after the correction for all tests of the window (Holm, "A simple
            sequentially rejective multiple test procedure", 1979), which holds however they depend
            on each other.
        effect: How large the change is: the stability index, or by how much the share has moved.
        alarm: Whether it is both unlikely and large enough.
    """

    kind: str
    p_value: float
    adjusted: float
    effect: float
    alarm: bool


@dataclass(frozen=True)
class ColumnDrift:
    """How far a column lies from its reference.

    Attributes:
        column: Its name.
        kind: `number` or `category`.
        values: How many values the reference and the window have, without the missing ones.
        missing: Which share of each is missing.
        psi: The stability index over at most 20 groups of the reference's bins, less what two
            samples of one distribution have on average; `None` without values, as the next two.
        js: The Jensen-Shannon divergence over these groups, in bits.
        ks: The Kolmogorov-Smirnov distance over all bins; numbers only.
        new_share: The share of values that are of a category which the reference did not have;
            `None` for numbers, and where the reference had more than 10,000 categories.
        new_examples: The first of those categories.
        mean: Of the finite numbers of the reference and of the window.
        tests: What was tested; empty when the window has too few rows.
    """

    column: str
    kind: str
    values: tuple[int, int]
    missing: tuple[float, float]
    psi: float | None = None
    js: float | None = None
    ks: float | None = None
    new_share: float | None = None
    new_examples: tuple[str, ...] = ()
    mean: tuple[float, float] | None = None
    tests: tuple[ColumnTest, ...] = ()

    @property
    def alarms(self) -> tuple[ColumnTest, ...]:
        """The changes that are alarms."""
        return tuple(test for test in self.tests if test.alarm)


@dataclass(frozen=True)
class Baseline:
    """What an endpoint's inputs and predictions are compared with; one of the three.

    Attributes:
        model: `NAME@VERSION` or `NAME@ALIAS`: the dataset versions that it was made from.
        dataset: `NAME@VERSION`, or `NAME` for the newest version: rows with the model's inputs.
        start: The endpoint's own log from this time on (included, time-zone aware) …
        end: … until this one (excluded).
        timestamp: A time column of the dataset: its rows are then taken as windows of the monitor's
            length, so that what varies between windows anyhow is known. The log always is.
    """

    model: str | None = None
    dataset: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    timestamp: str | None = None


@dataclass(frozen=True)
class Monitor:
    """What is watched of an endpoint, and when it is worth an alarm.

    Attributes:
        name: `[A-Za-z0-9._-]{1,100}`.
        endpoint: Its predictions are read from the topic `predictions.{endpoint}`.
        baseline: By default that of the model version with the largest weight at the endpoint.
        window_seconds: How long a window is; windows begin at multiples of it since 1970 UTC.
        grace_seconds: How long after its end a window is waited for before it is judged.
        columns: The inputs that are watched; by default those that the model takes.
        outcomes: A topic of outcomes: JSON objects with `id`, `value`, and if wanted `time`
            (ISO 8601; by default the event's) and `row`.
        sensitivity: When a change of a distribution is an alarm.
        quality: Metric to the worst value that is no alarm, as `{"auc": 0.7, "log_loss": 0.4}`: an
            alarm is raised when the 95 % interval lies beyond it as a whole.
        max_skew: The share of served feature values that may differ from the offline ones.
        threshold: Of two classes: yes is said above it.
    """

    name: str
    endpoint: str
    baseline: Baseline | None = None
    window_seconds: int = 86_400
    grace_seconds: int = 3_600
    columns: tuple[str, ...] = ()
    outcomes: str = ""
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    quality: Mapping[str, float] = field(default_factory=dict)
    max_skew: float = 0.01
    threshold: float = 0.5


@dataclass(frozen=True)
class Recorded:
    """What became of outcomes.

    Attributes:
        new: Outcomes that were not known.
        corrected: Outcomes that replaced an earlier one of the same prediction.
        repeated: Outcomes that were known already, or that a later one has replaced.
    """

    new: int = 0
    corrected: int = 0
    repeated: int = 0


@dataclass(frozen=True)
class KnownOutcome:
    """What became of one row of a prediction.

    Attributes:
        monitor: The monitor that was told.
        row: The row in its request, from 0.
        value: A class or a number; `None` when it was withdrawn.
        time: When it was so (UTC).
    """

    monitor: str
    row: int
    value: bool | int | float | str | None
    time: datetime


@dataclass(frozen=True)
class Finding:
    """Something that a window shows and that is worth an alarm.

    Attributes:
        monitor: The monitor's name.
        start: When the window begins (UTC).
        end: When it ends.
        kind: `distribution`, `missing` or `new_categories` of a column, `quality` of a metric, or
            `skew` of a feature.
        subject: The column, the metric or the feature.
        value: What was found: the effect, the metric's value, the share that differs.
        limit: Beyond which it is worth an alarm.
        p_value: Corrected for all tests of the window; `None` where nothing was tested.
        message: In words.
        found: When it was found (UTC).
    """

    monitor: str
    start: datetime
    end: datetime
    kind: str
    subject: str
    value: float
    limit: float
    p_value: float | None
    message: str
    found: datetime


@dataclass(frozen=True)
class Quality:
    """How good predictions were.

    Attributes:
        estimated: Whether this is an estimate from the predictions alone, and no measurement.
        rows: How many predictions it is about.
        metrics: As `Evaluation.metrics` of the experiments component.
        intervals: Metric to its 95 % interval.
        basis: What it rests on, in words.
    """

    estimated: bool
    rows: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    basis: str


@dataclass(frozen=True)
class Skew:
    """How served values of a feature differ from the offline ones of the same entity and time.

    Attributes:
        feature: The feature.
        rows: How many predictions were compared; at most 200 of a window are.
        differing: The share in which the values differ by more than rounding.
        examples: Some of the differing pairs: served, offline.
    """

    feature: str
    rows: int
    differing: float
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class MonitorReport:
    """What is known of a stretch of time.

    Attributes:
        monitor: The monitor's name.
        start: From when on (UTC).
        end: Until when.
        rows: How many predicted rows were logged.
        basis: What the tests assume, in words.
        columns: How far each column lies from the baseline.
        predictions: How many predicted rows can be joined with an outcome.
        outcomes: How many of them have one.
        unusable: Outcomes that are no class of the model, or no number.
        quality: Of the predictions with an outcome; `None` without any.
        estimate: Of all predictions while outcomes are missing; `None` when none are, and where the
            model gives no probabilities.
        by_model: `MODEL@VERSION` to the quality of its predictions.
        skew: By feature that the server joined; of the windows that were judged.
        notes: What could not be measured, and why.
    """

    monitor: str
    start: datetime
    end: datetime
    rows: int
    basis: str
    columns: tuple[ColumnDrift, ...]
    predictions: int = 0
    outcomes: int = 0
    unusable: int = 0
    quality: Quality | None = None
    estimate: Quality | None = None
    by_model: Mapping[str, Quality] = field(default_factory=dict)
    skew: tuple[Skew, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """The share of predictions whose outcome is known."""
        return self.outcomes / self.predictions if self.predictions else 0.0


@dataclass(frozen=True)
class MonitorRun:
    """What one run did.

    Attributes:
        events: Predictions that were read from the log.
        repeated: Events that the log held twice.
        unreadable: Events that are no predictions of the log.
        lost: Events that were removed from the topics before they were read.
        outcomes: What became of the outcomes' topic.
        judged: The starts of the windows that were judged.
        findings: What they showed that was not known.
    """

    events: int
    repeated: int
    unreadable: int
    lost: int
    outcomes: Recorded
    judged: tuple[datetime, ...]
    findings: tuple[Finding, ...]
