"""How many workers there should be: a decision about what was measured, and the measuring.

The measure is how long requests waited before their computation began. It rises when a worker has
more to do than it can, whatever the reason, and stays low while a worker is merely busy.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madang.deployment.serving._metrics import read_snapshot

_TICKS = os.sysconf("SC_CLK_TCK")
_NOTHING = (0, 0.0, 0.0)


@dataclass(frozen=True)
class Scaling:
    """Between which numbers of workers, and when to change.

    Attributes:
        least: So many workers there are at any time.
        most: So many there are at most.
        target_seconds: Requests that wait for longer, on average, ask for another worker.
        hot_seconds: The time over which that average is taken, and within which nothing changes
            again, so that the last change can show its effect.
        calm_seconds: A worker is removed when, for so long, one fewer would have kept requests from
            waiting for more than half of the target.
        busy: The share of their cores that the workers that stay may need then.
    """

    least: int
    most: int
    target_seconds: float = 0.005
    hot_seconds: float = 3.0
    calm_seconds: float = 30.0
    busy: float = 0.7

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to decide."""
        return self.least == self.most


@dataclass(frozen=True)
class Sample:
    """What all workers did since the sample before.

    Attributes:
        moment: When it was taken, in seconds of a clock that never goes back.
        seconds: How long it is since the sample before.
        requests: Those whose computation began.
        waited_seconds: Their waiting, summed.
        busy_seconds: The processor time that the workers took.
    """

    moment: float
    seconds: float
    requests: int
    waited_seconds: float
    busy_seconds: float


def mean_wait(samples: Iterable[Sample]) -> float:
    """How long requests waited on average, in seconds; 0 without any."""
    taken = list(samples)
    requests = sum(sample.requests for sample in taken)
    return sum(sample.waited_seconds for sample in taken) / requests if requests else 0.0


def decide(scaling: Scaling, count: int, samples: Sequence[Sample], changed: float) -> int:
    """By how many workers to change: 1, 0 or -1.

    Args:
        scaling: The bounds and times.
        count: How many workers there are.
        samples: In order of time, the newest last.
        changed: When the number was last changed, by the samples' clock.
    """
    if not samples or not scaling.least <= count <= scaling.most:
        return 0
    now, hot, calm = samples[-1].moment, scaling.hot_seconds, scaling.calm_seconds
    # A sample counts from its beginning, which must not lie before the change.
    after = [sample for sample in samples if sample.moment - sample.seconds >= changed]
    covered = now - (after[0].moment - after[0].seconds) if after else 0.0
    if covered < hot:
        return 0
    if mean_wait(_last(after, hot)) > scaling.target_seconds:
        return 1 if count < scaling.most else 0
    if count == scaling.least or covered < calm:
        return 0
    last = _last(after, calm)
    # Parts, so that a load that moves within the time is not taken for its average.
    parts = [last[: len(last) // 2], last[len(last) // 2 :]]
    return -1 if all(_fits(scaling, part, count) for part in parts if part) else 0


def _fits(scaling: Scaling, samples: Sequence[Sample], count: int) -> bool:
    """Whether one worker fewer would do: neither too busy, nor with requests that wait too long.

    Where a share r of the workers' time is taken, waiting grows as r / (1 - r) (Pollaczek-Khinchine
    formula of the M/G/1 queue), so that what it is now tells what it would be.
    """
    cores = sum(s.busy_seconds for s in samples) / sum(s.seconds for s in samples)
    now, then = cores / count, cores / (count - 1)
    if then > scaling.busy or now >= 1:
        return False
    longer = (then / (1 - then)) / (now / (1 - now)) if now > 0 else 1.0
    return mean_wait(samples) * longer < scaling.target_seconds / 2


def _last(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    return [sample for sample in samples if sample.moment > samples[-1].moment - seconds]


class Meter:
    """Measures the workers of a home, and keeps the samples that `decide` needs.

    Args:
        folder: Where each worker writes its counts, as `PID.json`.
        keep_seconds: How old samples may be.
    """

    def __init__(self, folder: Path, keep_seconds: float) -> None:
        self._folder = folder
        self._keep_seconds = keep_seconds
        self._before: dict[int, tuple[int, float, float]] = {}
        self._moment: float | None = None
        self.samples: deque[Sample] = deque()

    def measure(self, pids: Iterable[int], moment: float) -> None:
        """Takes a sample of these workers; the first one is only what later ones are compared with."""
        found = {pid: self._read(pid) for pid in pids}
        if self._moment is not None and moment > self._moment:
            sums = np.zeros(3)
            for pid, counts in found.items():
                sums += np.subtract(counts, self._before.get(pid, _NOTHING))
            requests, waited, busy = sums.tolist()
            sample = Sample(moment, moment - self._moment, int(requests), waited, busy)
            self.samples.append(sample)
        self._before, self._moment = found, moment
        while self.samples and self.samples[0].moment < moment - self._keep_seconds - 5:
            self.samples.popleft()

    def _read(self, pid: int) -> tuple[int, float, float]:
        try:
            snapshot = read_snapshot(self._folder / f"{pid}.json")
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # not there yet, or no more
            return self._before.get(pid, _NOTHING)
        busy = (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime: proc(5), 14 and 15
        counters = snapshot.versions.values()
        return (
            sum(each.requests for each in counters),
            sum(each.waited_seconds for each in counters),
            busy,
        )


def processors() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
