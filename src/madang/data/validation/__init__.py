"""Data contracts: schemas, checks, statistics; bad rows to quarantine with the reason. Polars."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.validation.comparison import diff, diff_versions
from madang.data.validation.contract import (
    Accumulator,
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
from madang.data.validation.datasets import (
    ValidatedVersion,
    last_validation,
    validate_dataset,
)
from madang.data.validation.diff import Change, Difference, diff_contracts
from madang.data.validation.importing import Imported, import_contract
from madang.data.validation.report import to_dict, to_html, to_text

ENGINES = {"polars": "madang.data.validation.polars:PolarsValidation"}
DEFAULT = "polars"


def connect(url: str | None, context: engines.Context) -> Validation:
    """Opens the validation engine that `url` names."""
    return cast("Validation", engines.connect("data.validation", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Accumulator",
    "Change",
    "Check",
    "CheckResult",
    "Column",
    "DataContract",
    "Difference",
    "Imported",
    "Outcome",
    "Report",
    "ValidatedVersion",
    "Validation",
    "connect",
    "contract_path",
    "diff",
    "diff_contracts",
    "diff_versions",
    "format_contract",
    "import_contract",
    "last_validation",
    "parse_contract",
    "read_contract",
    "to_dict",
    "to_html",
    "to_text",
    "validate_dataset",
    "write_contract",
]
