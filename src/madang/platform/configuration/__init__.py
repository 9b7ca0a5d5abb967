"""Live key-value settings with watch: the metadata database."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.platform.configuration.contract import Configuration, Setting

ENGINES = {"local": "madang.platform.configuration.local:LocalConfiguration"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Configuration:
    """Opens the configuration engine that `url` names."""
    return cast("Configuration", engines.connect("platform.configuration", url, context))


__all__ = ["DEFAULT", "ENGINES", "Configuration", "Setting", "connect"]
