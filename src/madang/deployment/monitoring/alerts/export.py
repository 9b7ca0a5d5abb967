"""The same rules and targets for a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from madang.deployment.monitoring.alerts.rules import Rule, document
from madang.deployment.monitoring.series.scraping import SCRAPE_SECONDS
from madang.errors import AlreadyExistsError, InvalidInputError


def write_prometheus(
    folder: Path, rules: Iterable[Rule], *, control_url: str, inference_url: str | None,
    alertmanager_url: str | None = None,
) -> list[Path]:  # fmt: skip
    """Writes `prometheus.yml` and `madang.rules.yml` into a folder that has neither.

    Both processes ask for a token: put one that may `metrics:read` and `endpoint:read` (a
    viewer's) into the file `token` beside them.

    Args:
        folder: It is made where it is missing.
        rules: As `read_rules` gives them.
        control_url: Where the HTTP API answers.
        inference_url: Where the inference workers answer; `None` when another system serves.
        alertmanager_url: Where a Prometheus of its own sends alerts.

    Returns:
        The files.

    Raises:
        AlreadyExistsError: One of them is there; nothing was written.
    """
    targets = {"control": (control_url, "/api/v1/metrics")}
    if inference_url is not None:
        targets["inference"] = (inference_url, "/metrics")
    configuration: dict[str, object] = {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS:g}s",
            "evaluation_interval": f"{SCRAPE_SECONDS:g}s",
        },
        "rule_files": ["madang.rules.yml"],
        "scrape_configs": [_job(name, *target) for name, target in targets.items()],
    }
    if alertmanager_url is not None:
        scheme, host = _parts(alertmanager_url)
        configuration["alerting"] = {
            "alertmanagers": [{"scheme": scheme, "static_configs": [{"targets": [host]}]}]
        }
    texts = {
        folder / "prometheus.yml": yaml.safe_dump(configuration, sort_keys=False),
        folder / "madang.rules.yml": document(rules),
    }
    if there := [str(path) for path in texts if path.exists()]:
        raise AlreadyExistsError(f"{', '.join(there)} is there already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    return list(texts)


def _job(name: str, url: str, path: str) -> dict[str, object]:
    scheme, host = _parts(url)
    return {
        "job_name": name,
        "scheme": scheme,
        "metrics_path": path,
        "authorization": {"credentials_file": "token"},
        "static_configs": [{"targets": [host]}],
    }


def _parts(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise InvalidInputError(f"{url!r} does not begin with http:// or https:// and a host")
    return parts.scheme, parts.netloc
