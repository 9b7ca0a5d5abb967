from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from click.testing import CliRunner
from jupyter_client import BlockingKernelClient

from madang.cli import cli
from madang.development.modeling import notebook_step
from madang.development.modeling.git import clear_file
from madang.errors import InvalidInputError, NotFoundError, StepFailedError, UnavailableError
from madang.testing.modeling import ModelingContract, write_notebook
from madang.workflow.pipelines import pipeline, step


class TestJupyter(ModelingContract):
    pass


def gone(pid, seconds=15):
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(seconds)
    return not psutil.pid_exists(pid)


@pytest.fixture
def lab(stack):
    started = stack.modeling.start(port=0)
    yield started
    stack.modeling.stop()


def start_kernel(lab, stack):
    """A kernel of the lab, and its process."""
    request = urllib.request.Request(
        f"{lab.url}/api/kernels",
        data=b"{}",
        headers={"Authorization": f"token {lab.token}", "Content-Type": "application/json"},
    )
    found = json.load(urllib.request.urlopen(request))
    file = stack.home / "lab" / "runtime" / f"kernel-{found['id']}.json"
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels(hb=False)  # a kernel that starts on a busy machine misses beats
    client.wait_for_ready(300)
    return client


def run_cell(client, code):
    """What a cell displays: texts by media type, or the error."""
    shown = []

    def output(message):
        content = message["content"]
        if message["msg_type"] in ("display_data", "execute_result"):
            shown.append(content["data"])
        elif message["msg_type"] == "error":
            shown.append({"error": f"{content['ename']}: {content['evalue']}"})
        elif message["msg_type"] == "stream":
            shown.append({"stream": content["text"]})

    client.execute_interactive(code, timeout=300, output_hook=output)
    return shown


def test_a_kernel_of_the_lab_knows_the_project_and_its_magics(stack, lab):
    stack.storage.write("flights", __import__("pyarrow").table({"<b>": [1, 2, 3]}))
    client = start_kernel(lab, stack)
    try:
        (shown,) = run_cell(client, "%madang datasets")
        assert "<td>flights</td>" in shown["text/html"]
        (shown,) = run_cell(client, "%madang chart flights <b>")
        assert shown["application/vnd.vegalite.v5+json"]["title"] == "flights: <b>"
        (shown,) = run_cell(client, "import os; os.getpid()")
        pid = int(shown["text/plain"])
        (shown,) = run_cell(client, "import sys; sys.executable")
        assert shown["text/plain"] == repr(sys.executable)
    finally:
        client.stop_channels()
    stack.modeling.stop()
    assert gone(pid)


def test_a_killed_lab_leaves_no_kernel(stack, lab):
    client = start_kernel(lab, stack)
    (shown,) = run_cell(client, "import os; os.getpid()")
    client.stop_channels()
    os.kill(stack.modeling._process.pid, signal.SIGKILL)
    assert gone(int(shown["text/plain"]))


def test_a_taken_port(stack):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match="choose another port"):
            stack.modeling.start(port=taken.getsockname()[1])


def test_the_token_is_for_its_owner_only(stack, lab):
    file = stack.home / "lab" / "token"
    assert file.read_text() == lab.token
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0  # and whatever else Jupyter writes there
    command = psutil.Process(stack.modeling._process.pid).cmdline()
    assert not any(lab.token in part for part in command)


def test_the_command_runs_until_it_is_interrupted(stack):
    command = [
        sys.executable,
        "-m",
        "madang.cli",
        "--project",
        str(stack.root),
        "lab",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    assert process.stdout.readline() == "ready; Ctrl-C stops it\n"
    base, _, token = url.partition("/lab?token=")
    request = urllib.request.Request(
        f"{base}/api/status", headers={"Authorization": f"token {token}"}
    )
    assert urllib.request.urlopen(request).status == 200
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert all(gone(child.pid) for child in children)
    process.stdout.close()


# -- notebooks as steps ------------------------------------------------------------------------


def counted(root, name="work"):
    """A notebook that leaves a line in a file whenever it runs."""
    return write_notebook(
        root,
        "from madang.development.modeling import output",
        "with open('ran.txt', 'a') as file:\n    file.write('x')",
        "output('double', 2 * depth)\noutput('note', 'fine')",
        parameters="depth: int = 3",
        name=name,
    )


def test_a_notebook_is_a_step(stack):
    work = notebook_step(counted(stack.root), ("double", "note"))

    @step
    def add(x: int) -> int:
        return x + 1

    @pipeline
    def flow(depth: int = 3):
        double, _ = work(depth=depth)
        return add(double)

    run = flow.run(stack, depth=5)
    assert stack.pipelines.load(run.results["result"]) == 11
    (made,) = run.steps[0].made
    digest = made.removeprefix("artifact:")
    executed = json.loads(stack.storage.get(f"artifacts/{digest[:2]}/{digest}"))
    assert any("injected-parameters" in c["metadata"].get("tags", []) for c in executed["cells"])
    assert flow.run(stack, depth=5).steps[0].status == "CACHED"
    assert (stack.root / "ran.txt").read_text() == "x"
    assert flow.run(stack, depth=6).steps[0].status == "SUCCEEDED"


def test_only_the_code_of_a_notebook_counts_for_the_cache(stack):
    path = stack.root / counted(stack.root)
    work = notebook_step("notebooks/work.ipynb")

    @pipeline
    def flow():
        return work()

    assert stack.pipelines.load(flow.run(stack).results["result"]) == {"double": 6, "note": "fine"}
    content = json.loads(path.read_text())
    content["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "old"}]
    content["metadata"]["author"] = "somebody"
    path.write_text(json.dumps(content))
    assert flow.run(stack).steps[0].status == "CACHED"
    content["cells"][-1]["source"] = "output('double', 7)"
    path.write_text(json.dumps(content))
    assert flow.run(stack).steps[0].status == "SUCCEEDED"


@pytest.mark.parametrize(
    "cell",
    ["!true\nimport scale", "%%time\ndef later():\n    from inner.deep import FACTOR"],
)
def test_a_module_of_the_project_counts_for_the_cache(stack, cell):
    (stack.root / "scale.py").write_text("from inner.deep import FACTOR")
    (stack.root / "inner").mkdir()
    (stack.root / "inner" / "__init__.py").touch()
    deep = stack.root / "inner" / "deep.py"
    deep.write_text("FACTOR = 2")
    notebook = write_notebook(
        stack.root,
        cell,
        "from madang.development.modeling import output",
        "output('n', __import__('inner.deep').deep.FACTOR)",
    )
    work = notebook_step(notebook, ("n",))

    @pipeline
    def flow():
        return work()

    for number in (2, 3):
        deep.write_text(f"FACTOR = {number}  # noted")
        run = flow.run(stack)
        assert run.steps[0].status == "SUCCEEDED"
        assert stack.pipelines.load(run.results["result"]) == number
    deep.write_text("FACTOR = 3")
    assert flow.run(stack).steps[0].status == "CACHED"


def test_a_notebook_that_hands_on_too_little(stack):
    work = notebook_step(counted(stack.root), ("double", "auc"))

    @pipeline
    def flow():
        return work()[0]

    with pytest.raises(StepFailedError, match="did not hand on auc; it handed on: double, note"):
        flow.run(stack)


def test_a_killed_runner_leaves_no_kernel(stack):
    write_notebook(
        stack.root,
        "import os, time\nfrom pathlib import Path\n"
        "Path('part').write_text(str(os.getpid())); Path('part').rename('kernel.pid')\n"
        "time.sleep(600)",
    )
    (stack.root / "pipelines").mkdir(exist_ok=True)
    (stack.root / "pipelines" / "slow.py").write_text(
        "from madang import pipeline\n"
        "from madang.development.modeling import notebook_step\n"
        "work = notebook_step('notebooks/work.ipynb')\n"
        "@pipeline\ndef slow():\n    return work()\n"
    )
    command = [sys.executable, "-m", "madang.cli", "--project", str(stack.root), "run", "slow"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = stack.root / "kernel.pid"
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert gone(int(file.read_text()))


# -- git ---------------------------------------------------------------------------------------


def git(root, *arguments):
    done = subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def repository(stack):
    git(stack.root, "init", "-q")
    git(stack.root, "config", "user.email", "a@example.org")
    git(stack.root, "config", "user.name", "A")
    return stack.root


def madang(root, *arguments):
    found = CliRunner().invoke(cli, ["--project", str(root), *arguments], catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def run_by_hand(path, text):
    """What an editor saves after the first cell ran."""
    content = json.loads(path.read_text())
    content["cells"][0] |= {
        "execution_count": 7,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": text}],
    }
    path.write_text(json.dumps(content))


def test_what_cells_show_never_gets_into_git(repository):
    assert "commit this file" in madang(repository, "lab", "setup-git")
    assert "commit this file" not in madang(repository, "lab", "setup-git")
    path = repository / write_notebook(repository, "print('secret')")
    run_by_hand(path, "secret output")
    git(repository, "add", ".gitattributes", "notebooks")
    git(repository, "commit", "-qm", "work")
    assert "secret output" not in git(repository, "show", "HEAD:notebooks/work.ipynb")
    run_by_hand(path, "another output")
    assert git(repository, "diff") == ""
    assert "another output" in path.read_text()
    content = json.loads(path.read_text())
    content["cells"][0]["source"] = "print('changed')"
    path.write_text(json.dumps(content))
    shown = git(repository, "diff")
    assert "print('changed')" in shown
    assert "another output" not in shown


def test_clearing_a_file(repository):
    path = repository / write_notebook(repository, "print(1)")
    run_by_hand(path, "shown")
    assert "cleared" in madang(repository, "lab", "clear", str(path))
    assert "shown" not in path.read_text()
    assert "was clear" in madang(repository, "lab", "clear", str(path))


def test_a_cleared_file_keeps_its_mode_and_its_link(repository):
    path = repository / write_notebook(repository, "print(1)")
    run_by_hand(path, "shown")
    path.chmod(0o600)
    link = repository / "link.ipynb"
    link.symlink_to(path)
    assert clear_file(link)
    assert link.is_symlink()
    assert "shown" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, NotFoundError, "there is no file .*odd.ipynb"),
        (b"", InvalidInputError, "odd.ipynb is no Jupyter notebook"),
        (b"\xff\xfe{", InvalidInputError, "odd.ipynb is no Jupyter notebook"),
    ],
)
def test_what_can_not_be_cleared(tmp_path, content, error, message):
    path = tmp_path / "odd.ipynb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        clear_file(path)
    assert list(tmp_path.iterdir()) == ([] if content is None else [path])
