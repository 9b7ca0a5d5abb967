"""Numbers over time: a store on one machine, and a subset of PromQL to ask it."""

from madang.deployment.monitoring.series.contract import (
    SAMPLES,
    Labels,
    Matcher,
    SampleSource,
    Series,
    SeriesStore,
)

__all__ = ["SAMPLES", "Labels", "Matcher", "SampleSource", "Series", "SeriesStore"]
