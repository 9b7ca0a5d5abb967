"""A project's context on each metadata database."""

from __future__ import annotations

import pytest

from madang.engines import Context


@pytest.fixture(params=["sqlite", "postgresql"])
def context(request, tmp_path):
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None
    opened = Context("test", tmp_path, metadata_url=url)
    yield opened
    opened.close()
