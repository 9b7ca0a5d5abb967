"""Data contracts: schemas, checks, statistics; bad rows to quarantine with the reason. Polars."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.validation.contract import (
    Check,
    CheckResult,
    Column,
    DataContract,
    Outcome,
    Report,
    Validation,
)
from madang.data.validation.contract_file import (
    contract_path,
    format_contract,
    parse_contract,
    read_contract,
    write_contract,
)
from madang.data.validation.report import to_dict, to_html, to_text

ENGINES = {"polars": "madang.data.validation.polars:PolarsValidation"}
DEFAULT = "polars"


def connect(url: str | None, context: engines.Context) -> Validation:
    """Opens the validation engine that `url` names."""
    return cast("Validation", engines.connect("data.validation", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Check",
    "CheckResult",
    "Column",
    "DataContract",
    "Outcome",
    "Report",
    "Validation",
    "connect",
    "contract_path",
    "format_contract",
    "parse_contract",
    "read_contract",
    "to_dict",
    "to_html",
    "to_text",
    "write_contract",
]
