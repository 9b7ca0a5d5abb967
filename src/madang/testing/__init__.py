"""The contract suites: run them on any engine, ours or yours.

from madang.testing.storage import StorageContract

class TestMyStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return MyStorage(tmp_path)
"""
