"""The storage contract on every engine, bare and recorded."""

from __future__ import annotations

import pytest

from madang.data import storage as component
from madang.data.storage import DeltaTables, LocalFiles
from madang.data.storage.recorded import RecordedStorage
from madang.engines import Context
from madang.testing.storage import StorageContract


@pytest.fixture
def context(tmp_path):
    opened = Context("project", tmp_path)
    yield opened
    opened.close()


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, context):
        return component.connect(None, context)


class TestRecordedStorage(StorageContract):
    @pytest.fixture
    def storage(self, context):
        recorded = RecordedStorage(component.connect(None, context), context.ledger)
        assert isinstance(recorded, LocalFiles)
        assert isinstance(recorded, DeltaTables)
        yield recorded
        recorded.close()
        assert context.ledger.verify().ok


class TestS3Storage(StorageContract):
    @pytest.fixture
    def storage(self, s3_url, context):
        return component.connect(s3_url, context)
