"""What happened to each version, as the statistics extension says it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
Times are of all workers together, in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from madang.deployment.serving._metrics import Counters, Snapshot

_NONE = {"count": 0, "ns": 0}


def model_statistics(total: Snapshot, versions: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`$stats_model_response` of (endpoint, version label) pairs."""
    return {
        "model_stats": [
            _model(name, label, total.versions.get(f"{name}/{label}", Counters()))
            for name, label in versions
        ]
    }


def _model(name: str, label: str, counters: Counters) -> dict[str, Any]:
    count = counters.requests
    stats = {
        "success": _duration(counters.predictions, counters.seconds),
        "fail": _duration(sum(counters.errors.values()), counters.fail_seconds),
        "queue": _duration(count, counters.queue_seconds),
        "compute_input": _duration(count, counters.input_seconds),
        "compute_infer": _duration(count, counters.infer_seconds),
        "compute_output": _duration(count, counters.output_seconds),
        "cache_hit": _NONE,
        "cache_miss": _NONE,
    }
    batches = [
        {
            "batch_size": rows,
            "compute_input": _NONE,
            "compute_infer": _duration(executions.count, executions.seconds),
            "compute_output": _NONE,
        }
        for rows, executions in sorted(counters.batch_sizes.items())
    ]
    return {
        "name": name,
        "version": label,
        "last_inference": counters.last_us // 1000,
        "inference_count": counters.rows,
        "execution_count": counters.batches,
        "inference_stats": stats,
        "batch_stats": batches,
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
