"""Registers the contract suites with pytest, so that their failing assertions show values."""

import pytest

pytest.register_assert_rewrite("madang.testing")
