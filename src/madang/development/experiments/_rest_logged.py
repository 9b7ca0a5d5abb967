"""Logged models of an MLflow server, and what its runs used and made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._base import check_names
from madang.development.experiments._filter import Entity, Order
from madang.development.experiments._languages import LOGGED_MODELS, LOGGED_MODELS_TAIL
from madang.development.experiments._memory_search import MemorySearch
from madang.development.experiments._names import order_text
from madang.development.experiments._rest_base import RestPart, checked, pair_list, parts
from madang.development.experiments._rest_named import RestNamed
from madang.development.experiments.contract import LoggedModels, RunLinks
from madang.development.experiments.mlflow_names import MAX_PARAM, MAX_PARAMS, MAX_TAG
from madang.development.experiments.values import (
    DatasetFilter,
    DatasetInput,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    ModelMetric,
    ModelOrder,
    ModelOutput,
    Page,
)
from madang.errors import ConflictError, InvalidInputError, NotFoundError
