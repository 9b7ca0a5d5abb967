"""What every model registry promises, as tests.

class TestMyRegistry(RegistryContract):
    @pytest.fixture
    def stack(self, tmp_path):
        ...  # an open Stack whose `registry` is the engine's
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from madang.development.experiments import ModelVersion, Registry, TensorSpec, formats
from madang.errors import IntegrityError, InvalidInputError, NotFoundError, UnsafeModelError
from madang.stack import Stack
from madang.testing._experiments_stored import StoredModels, done, file_of
from madang.testing._registry_changes import RegistryChangesContract

_RANDOM = np.random.default_rng(0)
ROWS = _RANDOM.normal(size=(60, 3))
LABELS = (ROWS.sum(axis=1) > 0).astype(int)

# Dies by SIGKILL before its n-th file reaches the place where the engine keeps files.
_KILLED = """
import operator, os, signal, sys, madang
from madang.testing.registry import fitted, ROWS
with madang.open(sys.argv[1]) as stack:
    place, _, method = sys.argv[3].rpartition(".")
    owner, calls = operator.attrgetter(place)(stack), 0
    put = getattr(owner, method)
    def dying(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return put(*arguments, **options)
    setattr(owner, method, dying)
    stack.registry.register("m", fitted(), example=ROWS[:3])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def fitted() -> Any:
    """A small model."""
    return LogisticRegression().fit(ROWS, LABELS)


class SmallReport:
    """What a registry needs of an evaluation."""

    def __init__(self, auc: float = 0.75) -> None:
        self.metrics = {"auc": auc}

    def to_html(self) -> str:
        return f"<p>{self.metrics['auc']}"

    def to_json(self) -> bytes:
        return json.dumps(self.metrics).encode()


class RegistryContract(RegistryChangesContract):
    stores_by = "storage.put"
    """The attribute of a stack that stores one file of a version; another engine's may differ."""

    @pytest.fixture
    def stored(self, stack: Stack) -> StoredModels:
        return StoredModels(stack)

    def put_object(self, stack: Stack, key: str, data: bytes) -> None:
        """Changes an object behind the registry's back; another engine's may lie elsewhere."""
        stack.storage.put(key, data)

    @pytest.fixture
    def registry(self, stack: Stack) -> Registry:
        found = stack.registry
        found.alias_guard = None  # the project's policy is another component
        return found

    def test_an_evaluation_is_kept_with_its_version(self, stack, registry):
        self.add(registry)
        assert registry.evaluation("m", 1) == (None, None)
        found = registry.set_evaluation("m", 1, SmallReport(), compared_with="model:m@7")
        assert dict(found.evaluation) == {"auc": 0.75}
        assert registry.evaluation("m", 1) == ({"auc": 0.75}, "model:m@7")
        assert registry.load("m", 1).predict is not None  # the version's files are what they were
        line = stack.ledger.lines(kind="model.version.evaluate")[0]
        assert (line.subject, line.data["compared_with"]) == ("model:m@1", "model:m@7")
        key = line.outputs[0].removeprefix("object:")
        self.put_object(stack, key, b'{"auc": 1.0}')
        with pytest.raises(IntegrityError, match="not the evaluation that was kept"):
            registry.evaluation("m", 1)

    def test_the_newest_evaluation_counts_and_stays_when_the_model_is_renamed(self, registry):
        self.add(registry, report=SmallReport())
        registry.set_evaluation("m", 1, SmallReport(auc=0.25), compared_with="model:m@7")
        registry.rename_model("m", "n")
        assert registry.evaluation("n", 1) == ({"auc": 0.25}, "model:m@7")
        registry.set_evaluation("n", 1, SmallReport(auc=0.5))
        registry.rename_model("n", "o")
        assert registry.evaluation("o", 1) == ({"auc": 0.5}, None)
        assert dict(registry.get("o", 1).evaluation) == {"auc": 0.5}
        assert registry.get("o", 1).tags == {}
        with pytest.raises(InvalidInputError, match="not a finite number"):
            registry.set_evaluation("o", 1, SmallReport(auc=float("nan")))
        assert registry.evaluation("o", 1) == ({"auc": 0.5}, None)

    def test_an_evaluation_given_at_the_registration_is_found(self, registry):
        self.add(registry, report=SmallReport())
        assert registry.evaluation("m", 1) == ({"auc": 0.75}, None)
        with pytest.raises(NotFoundError):
            registry.set_evaluation("m", 2, SmallReport())
        with pytest.raises(NotFoundError):
            registry.evaluation("m", 2)

    @staticmethod
    def add(registry: Registry, name: str = "m", **options: Any) -> ModelVersion:
        return registry.register(name, fitted(), example=ROWS[:3], **options)

    def test_register_get_load(self, stack: Stack, registry: Registry) -> None:
        run = stack.experiments.start_run("e")
        version = self.add(
            registry,
            run_id=run.id,
            inputs=["dataset:d@4"],
            evaluation={"auc": 0.9},
            report=b"<html>",
            tags={"team": "a"},
            description="the first",
        )
        assert version == registry.get("m") == registry.get("m", 1) == registry.get("m", "1")
        assert (version.name, version.version, version.ref) == ("m", 1, "model:m@1")
        assert version.signature.inputs == (TensorSpec("input", "FP64", (-1, 3)),)
        assert version.signature.outputs == (
            TensorSpec("predict", "INT64", (-1,)),
            TensorSpec("predict_proba", "FP64", (-1, 2)),
        )
        assert version.run_id == run.id
        assert version.inputs[:2] == (f"run:{run.id}", "dataset:d@4")
        assert (version.evaluation, version.tags) == ({"auc": 0.9}, {"team": "a"})
        assert version.description == "the first"
        assert file_of(registry, "m", 1, "report.html") == b"<html>"
        model = registry.load("m")
        outputs = model.predict({"input": ROWS})
        np.testing.assert_array_equal(outputs["predict"], fitted().predict(ROWS))
        np.testing.assert_allclose(
            outputs["predict_proba"], fitted().predict_proba(ROWS), atol=1e-9
        )
        assert isinstance(model.native, LogisticRegression)

    def test_versions_count_up(self, registry: Registry) -> None:
        assert [self.add(registry).version for _ in range(3)] == [1, 2, 3]
        assert self.add(registry, "other").version == 1
        assert [v.version for v in registry.versions("m")] == [1, 2, 3]
        assert registry.models() == ["m", "other"]
        assert registry.get("m").version == 3

    def test_aliases_move(self, registry: Registry) -> None:
        self.add(registry)
        self.add(registry)
        registry.set_alias("m", "champion", 1)
        registry.set_alias("m", "challenger", 2)
        assert registry.get("m", "champion").version == 1
        registry.set_alias("m", "champion", 2)
        assert registry.get("m", "champion").aliases == ("challenger", "champion")
        assert [v.aliases for v in registry.versions("m")] == [(), ("challenger", "champion")]
        registry.delete_alias("m", "champion")
        registry.delete_alias("m", "champion")
        assert registry.get("m").aliases == ("challenger",)

    def test_what_is_missing_says_what_there_is(self, registry: Registry) -> None:
        with pytest.raises(NotFoundError, match="there is no model 'm'; registered are: none"):
            registry.get("m")
        self.add(registry)
        registry.set_alias("m", "champion", 1)
        with pytest.raises(NotFoundError, match="no model 'n'; registered are: m"):
            registry.versions("n")
        with pytest.raises(NotFoundError, match=r"no version 2; its versions are: 1; its aliases"):
            registry.get("m", 2)
        with pytest.raises(NotFoundError, match=r"no alias 'x'; .* its aliases are: champion"):
            registry.load("m", "x")
        with pytest.raises(NotFoundError, match="no version 9"):
            registry.set_alias("m", "champion", 9)
        assert registry.get("m", "champion").version == 1

    @pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 201, "a\n"])
    def test_bad_names(self, registry: Registry, name: str) -> None:
        with pytest.raises(InvalidInputError, match="a model's name has letters"):
            self.add(registry, name)
        assert registry.models() == []

    @pytest.mark.parametrize("alias", ["", "1", "a/b", "a b", "a\n"])
    def test_bad_aliases(self, registry: Registry, alias: str) -> None:
        self.add(registry)
        with pytest.raises(InvalidInputError, match="an alias begins with a letter"):
            registry.set_alias("m", alias, 1)

    def test_refused_models_leave_nothing(
        self, stack: Stack, registry: Registry, stored: StoredModels
    ) -> None:
        with pytest.raises(UnsafeModelError, match="a pickle"):
            registry.register("m", b"\x80\x04K\x01.", example=ROWS)
        with pytest.raises(InvalidInputError, match=r"can't be stored; the formats are: catboost"):
            registry.register("m", object(), example=ROWS)
        with pytest.raises(InvalidInputError, match="auc is not a finite number"):
            self.add(registry, evaluation={"auc": math.nan})
        with pytest.raises(NotFoundError, match="has no run 'nope'"):
            self.add(registry, run_id="nope")
        assert registry.models() == []
        assert stored.keys() == []
        assert done(stack.ledger.lines(kind="model.*")) == []

    def test_a_pickle_that_a_client_uploads_is_kept_and_never_loaded(
        self, stack: Stack, registry: Registry, tmp_path: Path
    ) -> None:
        folder = tmp_path / "uploaded"
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "model.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
        version = registry.register("m", folder, example=None, tags={"by": "client"})
        assert (version.format, version.version) == ("object", 1)
        reason = "data/model.pkl is a pickle, and loading a pickle runs whatever code it holds"
        with pytest.raises(
            UnsafeModelError, match=f"kept as an object and is never loaded: {reason}"
        ):
            registry.load("m")
        (line,) = done(stack.ledger.lines(kind="model.register"))
        assert line.data["reason"] == reason
        files, back = tmp_path / "files", tmp_path / "back"
        files.mkdir()
        back.mkdir()
        registry.download("m", 1, files)
        formats.unpack(files, back, digest=version.digest)
        assert (back / "data" / "model.pkl").read_bytes() == b"\x80\x04cos\nsystem\n."

    @pytest.mark.parametrize("file", ["model.json", "model.skops", "compiled.npz", "example.npz"])
    def test_changed_files_are_not_loaded(
        self, registry: Registry, stored: StoredModels, file: str
    ) -> None:
        self.add(registry)
        data = bytearray(stored.get("m", 1, file))
        data[len(data) // 2] ^= 1
        stored.put("m", 1, file, bytes(data))
        with pytest.raises(IntegrityError, match=file):
            registry.load("m")

    def test_a_report_is_kept_as_page_and_as_data(self, registry: Registry) -> None:
        version = self.add(registry, report=SmallReport())
        assert version.evaluation == {"auc": 0.75}
        assert file_of(registry, "m", 1, "report.html") == b"<p>0.75"
        assert file_of(registry, "m", 1, "evaluation.json") == b'{"auc": 0.75}'
        assert registry.load("m").manifest.digest == version.digest
        given = self.add(registry, report=SmallReport(), evaluation={"auc": 0.5})
        assert given.evaluation == {"auc": 0.5}

    def test_a_lost_file_is_found(self, registry: Registry, stored: StoredModels) -> None:
        self.add(registry)
        stored.delete("m", 1, "model.skops")
        with pytest.raises(IntegrityError, match=r"the model's file model\.skops is missing"):
            registry.load("m")

    def test_download(self, registry: Registry, tmp_path: Path) -> None:
        self.add(registry, report=SmallReport())
        folder = tmp_path / "files"
        folder.mkdir()
        found = registry.download("m", None, folder)
        assert {p.name for p in folder.iterdir()} == {
            "compiled.npz", "example.npz", "model.json", "model.skops",
        }  # fmt: skip
        model = formats.load(folder, digest=found.digest)
        assert model.manifest.digest == found.digest
        np.testing.assert_array_equal(formats.example_inputs(folder)["input"], ROWS[:3])

    def test_the_files_of_a_version(self, registry: Registry, tmp_path: Path) -> None:
        self.add(registry, report=SmallReport())
        found = registry.files("m", 1)
        assert [file.path for file in found] == [
            "compiled.npz", "evaluation.json", "example.npz", "model.json", "model.skops",
            "report.html",
        ]  # fmt: skip
        assert [file.size_bytes for file in found] == [
            len(file_of(registry, "m", 1, file.path)) for file in found
        ]
        with pytest.raises(NotFoundError):
            registry.save_file("m", 1, "nothing", tmp_path / "target")
        assert not (tmp_path / "target").exists()
        registry.add_version("elsewhere", "s3://other/model")
        assert registry.files("elsewhere") == []
        with pytest.raises(NotFoundError, match="are not in the project's storage; its source is"):
            registry.save_file("elsewhere", 1, "model.json", tmp_path / "target")

    def test_threads_get_versions_of_their_own(self, registry: Registry) -> None:
        start = threading.Barrier(4)

        def register(_: int) -> int:
            start.wait()
            return self.add(registry).version

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(register, range(4))) == [1, 2, 3, 4]

    def test_a_killed_registration_leaves_no_version(
        self, stack: Stack, registry: Registry
    ) -> None:
        killed = subprocess.run(
            [sys.executable, "-c", _KILLED, str(stack.root), "3", self.stores_by], check=False
        )
        assert killed.returncode == -9
        assert registry.models() == []
        assert self.add(registry).version == 1
        registry.load("m")

    def test_an_acknowledged_version_survives_kill(self, stack: Stack, registry: Registry) -> None:
        killed = subprocess.run(
            [sys.executable, "-c", _KILLED, str(stack.root), "1000", self.stores_by], check=False
        )
        assert killed.returncode == -9
        assert registry.load("m", 1).predict({"input": ROWS})["predict"].shape == (60,)

    def test_registration_and_moves_stand_in_the_ledger(
        self, stack: Stack, registry: Registry
    ) -> None:
        run = stack.experiments.start_run("e", inputs=["dataset:d@1"])
        version = self.add(registry, run_id=run.id, inputs=["code:abc", "view:v@1"])
        registry.set_alias("m", "champion", 1)
        registry.set_alias("m", "champion", 1)  # no move, no line
        registry.delete_alias("m", "champion")
        lines = done(stack.ledger.lines(kind="model.*", newest_first=False))
        assert [line.kind for line in lines] == ["model.register", "model.alias", "model.alias"]
        assert lines[0].inputs == (f"run:{run.id}", "code:abc", "view:v@1")
        assert lines[0].outputs == ("model:m@1",)
        assert lines[0].data["digest"] == version.digest
        assert lines[0].data["trusted"] == []
        assert lines[1].data == {"alias": "champion", "previous": None, "version": 1}
        assert lines[2].data == {"alias": "champion", "previous": 1, "version": None}
        assert [line.kind for line in stack.ledger.origin(version.ref)] == [
            "model.register",
            "run.start",
        ]
        assert stack.ledger.verify().ok
