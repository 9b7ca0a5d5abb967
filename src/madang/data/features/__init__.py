"""Feature views: point-in-time history for training, online values for serving.

The URL names the online store (default LMDB); history is computed where the data is, by the
processing engine and Polars.
"""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.features.catalog import Materialized, ViewInfo
from madang.data.features.contract import (
    Backfilled,
    FeatureView,
    Freshness,
    Materialization,
    OnDemandView,
    OnlineRow,
    OnlineStore,
    ReadTime,
    Streamed,
)
from madang.data.features.statistics import FeatureDrift, ViewDrift, ViewStatistics

ENGINES = {"lmdb": "madang.data.features.lmdb:LMDBOnlineStore"}
DEFAULT = "lmdb"


def connect(url: str | None, context: engines.Context) -> OnlineStore:
    """Opens the online store that `url` names."""
    return cast("OnlineStore", engines.connect("data.features", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Backfilled",
    "FeatureDrift",
    "FeatureView",
    "Freshness",
    "Materialization",
    "Materialized",
    "OnDemandView",
    "OnlineRow",
    "OnlineStore",
    "ReadTime",
    "Streamed",
    "ViewDrift",
    "ViewInfo",
    "ViewStatistics",
    "connect",
]
