"""The contract suite on every engine."""

from __future__ import annotations

import pytest

from madang import engines
from madang.data.validation.polars import PolarsValidation
from madang.errors import ConfigurationError
from madang.testing.validation import NOW_US, TRIPS, ValidationContract, contract


class TestPolars(ValidationContract):
    @pytest.fixture
    def validation(self):
        return PolarsValidation(now_us=lambda: NOW_US)


def test_is_the_default(stack):
    assert isinstance(stack.validation, PolarsValidation)
    assert stack.validation.validate(TRIPS, contract()).report.valid == 6


def test_unknown_option_is_refused(stack):
    with pytest.raises(ConfigurationError, match="polars:// has no option threads"):
        engines.connect("data.validation", "polars://?threads=2", stack.context)
