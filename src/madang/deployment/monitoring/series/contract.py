"""What a store of time series promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name; the metric's own name is the label `__name__`."""

SAMPLES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""What is appended: one row is one number of one series at one time."""


@dataclass(frozen=True)
class Matcher:
    """A condition on a label: `=`, `!=`, `=~` or `!~`; an absent label is the empty text."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True, eq=False)
class Series:
    """One series' samples.

    Attributes:
        labels: What names it.
        times_ms: Milliseconds since 1970 UTC, ascending, each once; shape (samples,).
        values: Shape (samples,).
    """

    labels: Labels
    times_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class SampleSource(Protocol):
    """Whatever gives numbers over time."""

    name: str
    """What the samples' label `job` says."""

    def samples(self) -> pa.Table:
        """The numbers now, with the columns `SAMPLES`."""
        ...


class SeriesStore(ABC):
    """Numbers over time, by labels.

    Every engine promises: what `append` returned from is there after kill -9 and power loss, and of
    what it did not return from either all is there or nothing; samples may come in any order; of
    several for one series and time the last one appended counts; readers see every append whole or
    not at all, also while another process appends, seals or removes. Times are kept to the
    millisecond. Safe for many threads and processes.
    """

    @abstractmethod
    def append(self, samples: Any) -> int:
        """Takes a table of samples (Arrow PyCapsule interface) with the columns `SAMPLES`.

        Returns:
            How many samples it had.

        Raises:
            InvalidInputError: A label's name is none, or given twice; nothing was appended.
            SchemaMismatchError: A column is missing or of another type.
        """

    @abstractmethod
    def select(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[Series]:
        """The series that match, with their samples of a time (both ends included), by labels.

        Raises:
            InvalidInputError: A pattern is no regular expression (RE2).
        """

    @abstractmethod
    def forget(self, before_ms: int) -> int:
        """Removes sealed files whose samples are all older; returns how many samples they had.

        The newest file stays, so repeating it is safe and may remove more later.
        """
