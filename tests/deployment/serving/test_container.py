"""A model's container: what its build context holds, and that it serves without this project."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import lightgbm
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.naive_bayes import GaussianNB
from tests.servers import free_port, missing, running

import madang
from madang.cli import cli
from madang.deployment.serving import container, standalone, worker
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnsafeModelError,
)

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(200, 3))
LABELS = np.where(ROWS.sum(axis=1) > 0, "yes", "no")
TOKEN = "a-token-of-thirty-two-characters"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with three models, and the folder it lies in."""
    root = tmp_path_factory.mktemp("project")
    assert CliRunner().invoke(cli, ["init", str(root)]).exit_code == 0
    with madang.open(root) as stack:
        for name, model in (
            ("late", HistGradientBoostingClassifier(max_iter=5)),
            ("bayes", GaussianNB()),
            ("light", lightgbm.LGBMClassifier(n_estimators=3, verbose=-1)),
        ):
            fitted = model.fit(ROWS, LABELS)
            stack.registry.register(name, fitted, example=ROWS[:3], evaluation={"auc": 0.9})
        stack.registry.set_alias("late", "champion", 1)
        yield root, stack


@pytest.fixture(scope="module")
def context(project, tmp_path_factory):
    root, _ = project
    folder = tmp_path_factory.mktemp("out") / "image"
    arguments = ["--project", str(root), "export", "container", "late@champion", str(folder)]
    result = CliRunner().invoke(cli, [*arguments, "--endpoint", "delay"], catch_exceptions=False)
    assert f"model:late@1 is in {folder}; build it: docker build" in result.output
    return folder


def instructions(folder):
    """The Dockerfile's instructions as (name, arguments), continued lines joined."""
    text = (folder / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


class TestContext:
    def test_what_it_holds(self, context):
        names = sorted(p.relative_to(context).as_posix() for p in context.rglob("*") if p.is_file())
        version = importlib.metadata.version("madang")
        assert names == [
            ".dockerignore", "Dockerfile", "README.md", "model/compiled.npz", "model/compiled.onnx",
            "model/example.npz", "model/model.json", "model/model.skops", "requirements.txt",
            f"wheels/madang-{version}-py3-none-any.whl",
        ]  # fmt: skip

    def test_the_dockerfile(self, context, project):
        found = instructions(context)
        names = [name for name, _ in found]
        assert set(names) <= {
            "FROM", "ENV", "RUN", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT",
        }  # fmt: skip
        assert found[0] == ("FROM", f"python:3.{sys.version_info.minor}-slim")
        assert dict(found)["USER"] == "10001:10001"
        assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
        check = dict(found)["HEALTHCHECK"].partition("CMD ")[2]
        assert "/v2/health/ready" in json.loads(check)[-1]
        entry = json.loads(dict(found)["ENTRYPOINT"])
        digest = project[1].registry.get("late").digest
        assert entry[:3] == ["python", "-m", "madang.deployment.serving.standalone"]
        assert entry[entry.index("--digest") + 1] == digest
        assert entry[entry.index("--endpoint") + 1] == "delay"
        for name, arguments in found:
            if name == "COPY":
                assert (context / shlex.split(arguments)[0]).exists()

    def test_a_compiled_model_needs_its_runtime_alone(self, context):
        locked = dict(
            line.split("==") for line in (context / "requirements.txt").read_text().split()
        )
        assert {"numpy", "onnxruntime", "msgspec", "uvloop", "httptools"} <= set(locked)
        assert not {"scikit-learn", "skops", "polars", "pyarrow", "onnx"} & set(locked)
        for name, version in locked.items():
            assert importlib.metadata.version(name) == version

    def test_others_need_their_library_and_what_it_needs(self, project, tmp_path):
        for name, package in (("bayes", "scikit-learn"), ("light", "lightgbm")):
            container.write_context(project[1].registry, name, None, tmp_path / name)
            locked = (tmp_path / name / "requirements.txt").read_text()
            assert f"{package}==" in locked
            assert "scipy==" in locked
        assert "libgomp1" in (tmp_path / "light" / "Dockerfile").read_text()
        assert "apt-get" not in (tmp_path / "bayes" / "Dockerfile").read_text()

    def test_a_name_that_is_an_option(self, project, tmp_path):
        """A model may have it, an endpoint not."""
        registry = project[1].registry
        registry.register("-m", GaussianNB().fit(ROWS, LABELS), example=ROWS[:3])
        with pytest.raises(InvalidInputError, match="the first one a letter or digit: '-m'; give"):
            container.write_context(registry, "-m", None, tmp_path / "a")
        assert list(tmp_path.iterdir()) == []
        container.write_context(registry, "-m", None, tmp_path / "b", endpoint="m")
        entry = json.loads(dict(instructions(tmp_path / "b"))["ENTRYPOINT"])
        assert "--name=-m" in entry

    def test_it_holds_no_secret(self, context, project):
        home = project[0] / ".madang"
        secrets = [
            p.read_bytes().strip() for p in home.rglob("*") if "token" in p.name and p.is_file()
        ]
        secrets += [p.read_bytes().strip() for p in home.rglob("*secret*") if p.is_file()]
        for file in context.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                assert not any(secret and secret in data for secret in secrets)
                assert str(project[0]).encode() not in data

    def test_equal_models_give_equal_contexts(self, context, project, tmp_path):
        container.write_context(project[1].registry, "late", 1, tmp_path / "b", endpoint="delay")
        for file in context.rglob("*"):
            if file.is_file():
                assert (
                    tmp_path / "b" / file.relative_to(context)
                ).read_bytes() == file.read_bytes()

    def test_the_wheel_is_whole(self, context):
        (wheel,) = (context / "wheels").iterdir()
        with zipfile.ZipFile(wheel) as archive:
            assert archive.testzip() is None
            names = set(archive.namelist())
            record = next(name for name in names if name.endswith("/RECORD"))
            listed = {line.split(",")[0] for line in archive.read(record).decode().split()}
        assert listed == names
        assert "madang/deployment/serving/worker.py" in names
        assert not any("__pycache__" in name for name in names)

    def test_a_version_that_was_registered_goes_before_the_installed_one(self):
        found = container.locked(["scikit-learn"], {"scikit-learn": "1.6.1"})
        assert found["scikit-learn"] == "1.6.1"
        assert found["scipy"] == importlib.metadata.version("scipy")
        with pytest.raises(NotFoundError, match="needs the package no-such-package, which is not"):
            container.locked(["no.such_package"], {})


class TestRefusals:
    def test_folders_that_are_in_use(self, project, tmp_path):
        (tmp_path / "file").write_text("x")
        for folder in (tmp_path, tmp_path / "file"):
            with pytest.raises(AlreadyExistsError, match="is not an empty folder"):
                container.write_context(project[1].registry, "late", None, folder)
        (tmp_path / "empty").mkdir()
        container.write_context(project[1].registry, "late", None, tmp_path / "empty")

    @pytest.mark.parametrize("name", ['a"]\nRUN evil', "", "a b", "$(x)", "-a"])
    def test_names_that_are_none(self, project, tmp_path, name):
        with pytest.raises(InvalidInputError, match="an endpoint's name has"):
            container.write_context(
                project[1].registry, "late", None, tmp_path / "c", endpoint=name
            )
        assert not list(tmp_path.iterdir())

    def test_objects_and_models_without_a_signature(self, project, tmp_path):
        registry = project[1].registry
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "model.pkl").write_bytes(b"\x80\x04.")
        registry.register("kept", tmp_path / "m", example=None)
        with pytest.raises(UnsafeModelError, match=r"kept as an object .*model\.pkl is a pickle"):
            container.write_context(registry, "kept", None, tmp_path / "c")
        registry.register("bare", GaussianNB().fit(ROWS, LABELS), example=None)
        with pytest.raises(
            InvalidInputError, match="has no signature; register it with an example"
        ):
            container.write_context(registry, "bare", None, tmp_path / "c")
        with pytest.raises(NotFoundError, match="there is no model 'nope'"):
            container.write_context(registry, "nope", None, tmp_path / "c")
        assert [p.name for p in tmp_path.iterdir()] == ["m"]  # nothing is left half-done


class TestStart:
    @pytest.mark.parametrize("value", [None, "", "short", " " * 40])
    def test_a_token_is_needed(self, monkeypatch, value):
        monkeypatch.delenv("MADANG_TOKEN_FILE", raising=False)
        monkeypatch.delenv("MADANG_TOKEN", raising=False)
        if value is not None:
            monkeypatch.setenv("MADANG_TOKEN", value)
        with pytest.raises(
            ConfigurationError, match="a token of at least 16 characters: set MADANG"
        ):
            standalone.token()

    def test_a_mounted_token_goes_first(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MADANG_TOKEN", "x" * 20)
        monkeypatch.setenv("MADANG_TOKEN_FILE", str(tmp_path / "token"))
        with pytest.raises(ConfigurationError, match="MADANG_TOKEN_FILE can't be read"):
            standalone.token()
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        assert standalone.token() == TOKEN

    @pytest.mark.parametrize("flaw", ["digest", "file", "folder"])
    def test_a_model_that_is_not_the_registered_one(
        self, context, tmp_path, capsys, monkeypatch, flaw
    ):
        monkeypatch.setenv("MADANG_TOKEN", TOKEN)
        digest = re.search(r'"--digest", "(\w+)"', (context / "Dockerfile").read_text())[1]
        model = tmp_path / "model"
        model.mkdir()
        for file in (context / "model").iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        if flaw == "digest":
            digest = digest[::-1]
        elif flaw == "file":
            (model / "compiled.onnx").write_bytes(b"other")
        else:
            (model / "model.json").unlink()
        found = standalone.main(["--model", str(model), "--digest", digest, "--endpoint", "e"])
        assert found == 1
        assert capsys.readouterr().err.startswith("madang: ")
        with pytest.raises((IntegrityError, NotFoundError)):
            standalone.prepare(tmp_path / "home", model, digest, None)

    @pytest.mark.parametrize("other", [True, False], ids=["a worker", "a stranger"])
    def test_a_port_is_not_shared(self, context, monkeypatch, capsys, other):
        monkeypatch.setenv("MADANG_TOKEN", TOKEN)
        digest = re.search(r'"--digest", "(\w+)"', (context / "Dockerfile").read_text())[1]
        with worker.listen("127.0.0.1", 0, shared=other) as taken:
            command = ["--model", str(context / "model"), "--digest", digest, "--endpoint", "e"]
            port = taken.getsockname()[1]
            assert standalone.main([*command, "--port", str(port)]) == 1
        assert re.search(rf"serve at 127.0.0.1:{port}: .* in use", capsys.readouterr().err)


@pytest.fixture(scope="module")
def image(context, tmp_path_factory):
    """What the Dockerfile's RUN lines make, in a fresh virtual environment: its Python."""
    home = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    python = home / "venv" / "bin" / "python"
    for name, arguments in instructions(context):
        if name == "RUN":
            command = arguments.partition(" && ")[0].replace("/build/", f"{context}/")
            done = subprocess.run(
                [python, "-m", *shlex.split(command)], check=False, capture_output=True, text=True
            )
            if done.returncode and re.search(
                "connection|resolve|timed out", done.stderr, re.IGNORECASE
            ):
                missing(f"the package index can't be reached: {done.stderr[-300:]}")
            assert done.returncode == 0, done.stderr
    return python


@pytest.mark.timeout(300)  # installs from the package index
@pytest.mark.server("pypi")
def test_it_serves_the_model_in_a_fresh_environment(image, context, project, tmp_path):
    """Only the locked requirements and the wheel: what the image has."""
    entry = json.loads(dict(instructions(context))["ENTRYPOINT"])
    port = free_port()
    moved = {"python": str(image), "/srv/model": str(context / "model"), "8500": str(port),
             "0.0.0.0": "127.0.0.1"}  # fmt: skip
    command = [moved.get(word, word) for word in entry]
    clean = {"PATH": os.environ["PATH"], "MADANG_TOKEN": TOKEN, "TMPDIR": str(tmp_path)}
    url = f"http://127.0.0.1:{port}/v2"

    def ask(path, body=None, token=TOKEN):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{url}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    def ready():
        try:
            ask("health/ready", token="")
        except OSError:
            return False
        return True

    with running(["env", "-i", *(f"{k}={v}" for k, v in clean.items()), *command], ready,
                 tmp_path / "log", cwd=tmp_path) as process:  # fmt: skip
        rows = {
            "name": "input",
            "shape": [5, 3],
            "datatype": "FP64",
            "data": ROWS[:5].ravel().tolist(),
        }
        answer = ask("models/delay/infer", {"inputs": [rows]})
        outputs = {
            one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer["outputs"]
        }
        expected = project[1].registry.load("late").predict({"input": ROWS[:5]})
        np.testing.assert_array_equal(outputs["predict"], expected["predict"])
        np.testing.assert_array_equal(outputs["predict_proba"], expected["predict_proba"])
        assert answer["model_version"] == "1"
        for token in ("", "wrong"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask("models/delay", token=token)
        process.terminate()
        assert process.wait(20) == 0  # drained
    assert [p.name for p in tmp_path.iterdir()] == ["log"]  # its state is gone
