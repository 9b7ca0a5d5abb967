"""Models of Python source: stored as text, and run only where exactly this code was allowed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from importlib._bootstrap_external import _code_to_hash_pyc
from importlib.util import source_hash

import numpy as np
import pytest
from safetensors.numpy import save_file

from madang.development.experiments import TensorSpec, formats
from madang.errors import IntegrityError, InvalidInputError, NotFoundError, UnsafeModelError

ROWS = np.random.default_rng(0).normal(size=(20, 3))
WEIGHTS = np.array([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])

NETWORK = '''
"""An architecture in source, its weights in safetensors."""
from pathlib import Path

from safetensors.numpy import load_file

from .layers import dense


class Network:
    @classmethod
    def load(cls, folder: Path):
        model = cls()
        model.weights = load_file(folder / "data" / "weights.safetensors")
        return model

    def predict(self, inputs):
        score = dense(inputs["input"], self.weights["w"], self.weights["b"])
        return {"predict": score.argmax(axis=1), "score": score}
'''
LAYERS = "import numpy as np\n\n\ndef dense(rows, w, b):\n    return np.maximum(rows @ w + b, 0)\n"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "network.py").write_text(NETWORK)
    (folder / "layers.py").write_text(LAYERS)
    save_file({"w": WEIGHTS, "b": np.zeros(2)}, folder / "data" / "weights.safetensors")
    return formats.PythonSource(folder, "network:Network", ("safetensors",))


def expected(rows=ROWS):
    return np.maximum(rows @ WEIGHTS, 0)


def saved(source, target, **options):
    target.mkdir()
    options.setdefault("trusted", [source.trust])
    return formats.save(source, target, example=ROWS[:3], **options)


class TestLoading:
    def test_a_network_by_source_and_safetensors(self, tmp_path, source):
        manifest = saved(source, tmp_path / "s")
        assert manifest.format == "python"
        assert manifest.trusted == (source.trust,)
        assert "safetensors" in manifest.requirements
        assert manifest.signature.inputs == (TensorSpec("input", "FP64", (-1, 3)),)
        outputs = manifest.signature.outputs
        assert [(o.name, o.datatype) for o in outputs] == [("predict", "INT64"), ("score", "FP64")]
        loaded = formats.load(tmp_path / "s", digest=manifest.digest)
        found = loaded.predict({"input": ROWS})
        np.testing.assert_array_equal(found["score"], expected())
        np.testing.assert_array_equal(found["predict"], expected().argmax(axis=1))

    def test_a_process_of_its_own(self, tmp_path, source):
        """Nothing of where it was registered is needed."""
        manifest = saved(source, tmp_path / "s")
        (tmp_path / "source").rename(tmp_path / "moved")
        code = (
            "import pathlib, sys\n"
            "from madang.development.experiments import formats\n"
            "model = formats.load(pathlib.Path(sys.argv[1]), digest=sys.argv[2])\n"
            "print(model.predict({'input': [[1.0, 2.0, 3.0]]})['score'].tolist())\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "s"), manifest.digest]
        run = subprocess.run(command, check=True, capture_output=True, text=True,
                             env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
        assert json.loads(run.stdout) == expected(np.array([[1.0, 2.0, 3.0]])).tolist()
        assert not list(tmp_path.glob("madang-source-*"))  # its copy is gone

    def test_versions_do_not_mix(self, tmp_path, source):
        first = saved(source, tmp_path / "a")
        folder = tmp_path / "source"
        (folder / "layers.py").write_text(LAYERS.replace("rows @ w + b", "-(rows @ w + b)"))
        second = saved(source, tmp_path / "b")
        assert first.trusted != second.trusted
        old = formats.load(tmp_path / "a", digest=first.digest)
        new = formats.load(tmp_path / "b", digest=second.digest)
        np.testing.assert_array_equal(old.predict({"input": ROWS})["score"], expected())
        np.testing.assert_array_equal(new.predict({"input": ROWS})["score"], expected(-ROWS))

    def test_what_is_dropped_leaves_nothing(self, tmp_path, source, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        manifest = saved(source, tmp_path / "s")
        gc.collect()
        before = {name for name in sys.modules if name.startswith("madang_model_")}
        loaded = formats.load(tmp_path / "s", digest=manifest.digest)
        assert list(tmp_path.glob("madang-source-*"))
        del loaded
        gc.collect()
        assert not list(tmp_path.glob("madang-source-*"))
        assert {name for name in sys.modules if name.startswith("madang_model_")} == before

    def test_equal_sources_have_equal_digests(self, tmp_path, source):
        assert saved(source, tmp_path / "a").digest == saved(source, tmp_path / "b").digest

    def test_tables_and_texts(self, tmp_path):
        folder = tmp_path / "source"
        folder.mkdir()
        (folder / "model.py").write_text(
            "import numpy as np\n"
            "class Model:\n"
            "    @classmethod\n"
            "    def load(cls, folder): return cls()\n"
            "    def predict(self, inputs):\n"
            "        return {'predict': np.char.add(inputs['a'], inputs['n'].astype(str))}\n"
        )
        source = formats.PythonSource(folder)
        (tmp_path / "s").mkdir()
        example = {"a": ["x", "y"], "n": [1, 2]}
        manifest = formats.save(source, tmp_path / "s", example=example, trusted=[source.trust])
        loaded = formats.load(tmp_path / "s", digest=manifest.digest)
        assert loaded.predict(loaded.inputs(example))["predict"].tolist() == ["x1", "y2"]


class TestTrust:
    def test_it_needs_an_explicit_choice_of_this_code(self, tmp_path, source):
        (tmp_path / "source" / "network.py").write_text(
            "import os\nos.mkdir('exploded')\n" + NETWORK
        )
        for trusted in ([], ["python"], ["python:" + "0" * 64], [source.trust[:-1]]):
            (tmp_path / "s").mkdir(exist_ok=True)
            with pytest.raises(UnsafeModelError, match=rf"trusted=\['{source.trust}'\]"):
                formats.save(source, tmp_path / "s", example=ROWS, trusted=trusted)
        assert not (tmp_path / "s" / "model.json").exists()
        assert not os.path.exists("exploded")

    def test_a_folder_does_not_vouch_for_itself(self, tmp_path, source):
        saved(source, tmp_path / "s")
        with pytest.raises(UnsafeModelError, match="runs its code when it is loaded"):
            formats.load(tmp_path / "s")
        formats.load(tmp_path / "s", trusted=[source.trust])

    def test_changed_code_is_not_run(self, tmp_path, source):
        """Not even when the attacker writes the manifest anew, and its digest is accepted."""
        manifest = saved(source, tmp_path / "s")
        name = next(k for k, v in manifest.facts["paths"].items() if v == "layers.py")
        (tmp_path / "s" / name).write_text("import os\nos.mkdir('exploded')\n")
        with pytest.raises(IntegrityError, match=f"the model's file {name} has SHA-256"):
            formats.load(tmp_path / "s", digest=manifest.digest)
        manifest.written(tmp_path / "s")
        with pytest.raises(IntegrityError, match="the model's source has SHA-256"):
            formats.load(tmp_path / "s", trusted=manifest.trusted)
        assert not os.path.exists("exploded")

    def test_what_python_cached_is_not_run_in_place_of_the_source(self, tmp_path, source):
        """An unchecked `.pyc` (PEP 552) would run whatever the `.py` beside it says."""
        evil = compile("import os\nos.mkdir('exploded')\n" + NETWORK, "network.py", "exec")
        text = (tmp_path / "source" / "network.py").read_bytes()
        cached = _code_to_hash_pyc(evil, source_hash(text), False)
        clean = saved(source, tmp_path / "clean")
        (tmp_path / "source" / "__pycache__").mkdir()
        place = tmp_path / "source" / "__pycache__" / f"network.{sys.implementation.cache_tag}.pyc"
        place.write_bytes(cached)
        manifest = saved(source, tmp_path / "s")
        assert manifest.digest == clean.digest
        formats.load(tmp_path / "s", digest=manifest.digest).predict({"input": ROWS})
        assert not os.path.exists("exploded")

    @pytest.mark.parametrize("name", ["layers.pyc", "network.abi3.so", "data/deep.SO"])
    def test_compiled_code_is_refused(self, tmp_path, source, name):
        (tmp_path / "source" / name).write_bytes(b"whatever")
        with pytest.raises(InvalidInputError, match=f"{name} is compiled code, which nobody can"):
            _ = source.trust

    def test_a_stored_cache_is_refused(self, tmp_path, source):
        manifest = saved(source, tmp_path / "s")
        name = next(k for k, v in manifest.facts["paths"].items() if v.startswith("data/"))
        manifest.facts["paths"][name] = "__pycache__/layers.pyc"
        manifest.written(tmp_path / "s")
        with pytest.raises(IntegrityError, match="hold code that Python cached"):
            formats.load(tmp_path / "s", trusted=manifest.trusted)

    def test_links_are_refused(self, tmp_path, source):
        (tmp_path / "source" / "more.py").symlink_to("/etc/passwd")
        with pytest.raises(InvalidInputError, match=r"more\.py is neither a file nor a folder"):
            _ = source.trust


class TestRefusals:
    @pytest.mark.parametrize(
        ("entry", "content", "message"),
        [
            ("no:Model", "", r"has no no\.py, which 'no:Model' names"),
            ("../model:Model", "", "entry is MODULE:CLASS"),
            ("os:system:x", "", "entry is MODULE:CLASS"),
            ("model:Nothing", "", "is no class with load"),
            ("model:Model", "class Model: pass", "is no class with load"),
            ("model:Model", "class Model:\n    load = staticmethod(lambda f: 3)", "has no predict"),
        ],
    )  # fmt: skip
    def test_sources_that_hold_no_model(self, tmp_path, entry, content, message):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "model.py").write_text(content)
        source = formats.PythonSource(tmp_path / "source", entry)
        with pytest.raises(InvalidInputError, match=message):
            saved(source, tmp_path / "s")

    def test_outputs_that_are_none(self, tmp_path):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "model.py").write_text(
            "class Model:\n"
            "    load = classmethod(lambda cls, folder: cls())\n"
            "    def predict(self, inputs): return [1]\n"
        )
        with pytest.raises(InvalidInputError, match="gives output name to array; found: list"):
            saved(formats.PythonSource(tmp_path / "source"), tmp_path / "s")

    def test_code_that_exits_is_an_error_and_not_the_end(self, tmp_path):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "model.py").write_text(
            "import sys\n"
            "class Model:\n"
            "    load = classmethod(lambda cls, folder: cls())\n"
            "    def predict(self, inputs): sys.exit(3)\n"
        )
        with pytest.raises(RuntimeError, match=r"wanted to end the process: SystemExit\(3\)"):
            saved(formats.PythonSource(tmp_path / "source"), tmp_path / "s")

    def test_requirements_that_are_not_there(self, tmp_path, source):
        asked = formats.PythonSource(source.folder, source.entry, ("no-such-package",))
        with pytest.raises(NotFoundError, match="requires no-such-package, which is not installed"):
            saved(asked, tmp_path / "s")
