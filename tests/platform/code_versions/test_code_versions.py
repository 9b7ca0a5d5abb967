from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from madang.engines import Context
from madang.errors import ConfigurationError, NotFoundError
from madang.platform.code_versions import CodeVersion, connect
from madang.testing.code_versions import CodeVersionsContract

NOTHING = CodeVersion(None, None, dirty=False, diff="", tree=None)


@pytest.fixture(autouse=True)
def _settings(tmp_path, monkeypatch):
    """git as it is on a fresh machine, whatever the tester's own settings are."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "gitconfig").write_text(
        "[user]\nname = T\nemail = t@example.org\n[init]\ndefaultBranch = main\n"
    )


def git(folder, *arguments, **options):
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, **options
    )
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "project"
    made.mkdir()
    git(made, "init")
    return made


@pytest.fixture
def commit(folder):
    def make():
        git(folder, "add", "-A")
        git(folder, "commit", "--allow-empty", "-m", "x")
        return git(folder, "rev-parse", "HEAD")

    return make


@pytest.fixture
def code_versions(folder):
    return connect(None, Context("test", folder))


class TestGitCodeVersions(CodeVersionsContract):
    pass


def state(folder):
    """Every file of the repository and the working tree, with its bytes and time.

    git touches the time of an object that it would write and finds.
    """
    return {
        path: ("objects" in path.parts or path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def applied(tmp_path, folder, found):
    """The tree that comes out of a fresh clone with the diff applied."""
    clone = tmp_path / f"clone-{found.tree}"
    git(tmp_path, "clone", "--no-checkout", str(folder), str(clone))
    git(clone, "checkout", "--detach", found.commit)
    subprocess.run(["git", "apply", "--index"], cwd=clone, input=found.diff.encode(), check=True)
    return git(clone, "write-tree")


def test_branch_and_detached_head(code_versions, folder, commit):
    (folder / "a.py").write_text("1")
    id = commit()
    assert code_versions.current().branch == "main"
    git(folder, "checkout", "-b", "한/x")
    assert code_versions.current().branch == "한/x"
    git(folder, "checkout", "--detach")
    found = code_versions.current()
    assert (found.branch, found.commit) == (None, id)


def test_before_the_first_commit(code_versions, folder, commit):
    empty = code_versions.current()
    assert (empty.commit, empty.branch, empty.dirty, empty.diff) == (None, "main", False, "")
    (folder / "a.py").write_text("a = 1\n")
    found = code_versions.current()
    assert (found.commit, found.dirty) == (None, True)
    assert "+a = 1\n" in found.diff
    assert found.ref == f"code:{found.tree}"
    commit()
    assert code_versions.current().tree == found.tree


def test_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "bare").mkdir()
    versions = connect(None, Context("test", tmp_path / "bare"))
    assert versions.current() == NOTHING
    assert versions.current().ref == "code:none"
    assert not versions.exists("HEAD")
    with pytest.raises(NotFoundError):
        versions.read("HEAD", "a.py")
    health = versions.health()
    assert health.ok  # a project may live without
    assert "git init" in health.advice


def test_without_git(code_versions, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_versions.current() == NOTHING
    health = code_versions.health()
    assert not health.ok
    assert "not installed" in health.detail
    assert "install git" in health.advice


def test_a_vanished_folder_is_not_taken_for_a_missing_git(tmp_path):
    versions = connect(None, Context("test", tmp_path / "never"))
    with pytest.raises(FileNotFoundError, match="never"):
        versions.current()
    assert not versions.health().ok


def test_a_repository_that_git_refuses_is_told(code_versions, folder, commit):
    (folder / "a.py").write_text("1")
    commit()
    (folder / ".git" / "config").write_text("[core\n")
    with pytest.raises(ConfigurationError, match="bad config"):
        code_versions.current()
    health = code_versions.health()
    assert not health.ok
    assert "bad config" in health.detail


def everything(folder):
    """One change of each kind; the working tree is clean before."""
    (folder / "modified.py").write_text("new\n")
    (folder / "deleted.py").unlink()
    (folder / "staged.py").write_text("staged\n")
    git(folder, "add", "staged.py")
    (folder / "staged then changed.py").write_text("one\n")
    git(folder, "add", "staged then changed.py")
    (folder / "staged then changed.py").write_text("two\n")
    (folder / "staged then gone.py").write_text("x\n")
    git(folder, "add", "staged then gone.py")
    (folder / "staged then gone.py").unlink()
    git(folder, "mv", "old name.py", "new name.py")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / 'odd "name"\n한 -.py').write_text("x\n")
    (folder / "-dash.py").write_text("no newline at the end")
    (folder / "binary").write_bytes(bytes(range(256)) * 20)
    (folder / "run.sh").chmod(0o755)
    (folder / "link").unlink()
    (folder / "link").symlink_to("elsewhere")
    (folder / "becomes folder").unlink()
    (folder / "becomes folder").mkdir()
    (folder / "becomes folder" / "a.py").write_text("x\n")
    (folder / "was" / "folder.py").unlink()
    (folder / "was").rmdir()
    (folder / "was").write_text("a file\n")
    (folder / "becomes empty folder").unlink()
    (folder / "becomes empty folder").mkdir()
    git(folder, "rm", "--cached", "forgotten by the index.py")
    (folder / "latin1.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (folder / "crlf.txt").write_bytes(b"a\r\nb\r\n")


def base(folder):
    for name in ("modified.py", "deleted.py", "old name.py", "run.sh", "becomes folder"):
        (folder / name).write_text("old\n")
    for name in ("becomes empty folder", "forgotten by the index.py", "same.py"):
        (folder / name).write_text("old\n")
    (folder / "was").mkdir()
    (folder / "was" / "folder.py").write_text("old\n")
    (folder / "link").symlink_to("modified.py")
    (folder / ".gitignore").write_text("*.log\ndata/\n")


def test_every_kind_of_change_is_in_the_tree_and_in_the_diff(
    code_versions, folder, commit, tmp_path
):
    base(folder)
    commit()
    everything(folder)
    (folder / "ignored.log").write_text("x")
    (folder / "data").mkdir()
    (folder / "data" / "big.csv").write_text("x")
    before = state(folder)
    found = code_versions.current()
    assert state(folder) == before
    assert found.dirty
    assert "ignored.log" not in found.diff
    assert "big.csv" not in found.diff
    assert applied(tmp_path, folder, found) == found.tree
    commit()
    assert code_versions.current().tree == found.tree == git(folder, "rev-parse", "HEAD^{tree}")


def test_nothing_is_written_by_reading(code_versions, folder, commit):
    (folder / "a.py").write_text("a\n")
    commit()
    (folder / "a.py").write_text("b\n")
    (folder / "a.py").write_text("a\n")  # git's index now has an old time for it
    (folder / "b.py").write_text("b\n")
    before = state(folder)
    code_versions.current()
    code_versions.health()
    assert state(folder) == before


def test_changes_that_cancel_out_are_none(code_versions, folder, commit):
    (folder / "a.py").write_text("a\n")
    commit()
    clean = code_versions.current()
    (folder / "a.py").write_text("b\n")
    git(folder, "add", "a.py")
    (folder / "a.py").write_text("a\n")
    assert code_versions.current() == clean


def test_the_whole_repository_counts_from_a_folder_inside(folder, commit):
    (folder / "projects" / "one").mkdir(parents=True)
    (folder / "projects" / "one" / "a.py").write_text("a\n")
    (folder / "shared.py").write_text("a\n")
    id = commit()
    versions = connect(None, Context("test", folder / "projects" / "one"))
    assert not versions.current().dirty
    assert versions.read(id, "a.py") == b"a\n"
    (folder / "shared.py").write_text("b\n")
    (folder / "projects" / "new.py").write_text("c\n")
    found = versions.current()
    assert "b/shared.py" in found.diff
    assert "b/projects/new.py" in found.diff
    assert found.tree == connect(None, Context("test", folder)).current().tree


def test_large_files_count_but_their_content_is_not_in_the_diff(code_versions, folder, commit):
    (folder / "a.py").write_text("a\n")
    (folder / "tracked.csv").write_text("old\n" * 400_000)
    (folder / "shrinks.csv").write_text("s\n")
    commit()
    raw = os.urandom(1 << 20) + b"x"
    (folder / "new.bin").write_bytes(raw)
    (folder / "tracked.csv").write_text("new\n" * 400_000)
    (folder / "a.py").write_text("b\n")
    objects = state(folder / ".git" / "objects")
    found = code_versions.current()
    assert state(folder / ".git" / "objects") == objects
    blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
    assert found.diff.startswith("# Files above 1048576 bytes, by git blob id:\n")
    assert f"# {blob} {len(raw)} bytes new.bin\n" in found.diff
    assert "bytes tracked.csv\n" in found.diff
    assert len(found.diff) < 1000
    assert "+b\n" in found.diff
    commit()
    assert code_versions.current().tree == found.tree


def test_a_huge_diff_is_only_listed(code_versions, folder, commit, monkeypatch):
    from madang.platform.code_versions import git as engine

    monkeypatch.setattr(engine, "_MAX_DIFF_BYTES", 1000)
    (folder / "a.py").write_text("a\n" * 1000)
    commit()
    (folder / "a.py").unlink()
    (folder / "b.py").write_text("b\n" * 1000)
    found = code_versions.current()
    head, *lines = found.diff.splitlines()
    assert head == "# The diff is too large, or not UTF-8; what changed:"
    assert [line[-6:] for line in lines] == ["D\ta.py", "A\tb.py"]
    commit()
    assert code_versions.current().tree == found.tree


def test_settings_of_the_user_change_nothing(code_versions, folder, commit, tmp_path):
    (folder / "a.py").write_text("a\n")
    (folder / "한.py").write_text("a\n")
    commit()
    (folder / "a.py").write_text("b\n")
    (folder / "한.py").rename(folder / "글.py")
    expected = code_versions.current()
    (tmp_path / "gitconfig").write_text(
        "[color]\nui = always\n[diff]\nnoprefix = true\nmnemonicPrefix = true\nexternal = false\n"
        "renames = copies\ncontext = 0\n[core]\npager = false\nquotePath = false\n"
        "safecrlf = true\nfsmonitor = true\n[status]\nshowUntrackedFiles = no\nrenames = true\n"
        "relativePaths = true\nshort = true\n[advice]\nstatusHints = true\n"
    )
    found = code_versions.current()
    assert (found.tree, found.branch, found.commit) == (
        expected.tree,
        expected.branch,
        expected.commit,
    )
    assert applied(tmp_path, folder, found) == found.tree
    (folder / "crlf.txt").write_bytes(b"a\r\nb\n")
    git(folder, "config", "core.autocrlf", "input")
    assert code_versions.current().dirty


def test_variables_of_the_user_change_nothing(code_versions, folder, commit, monkeypatch, tmp_path):
    (folder / "a.py").write_text("a\n")
    commit()
    (folder / "a.py").write_text("b\n")
    expected = code_versions.current()
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init")
    for name, value in {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / "index"),
        "GIT_OBJECT_DIRECTORY": str(other / "objects"),
        "GIT_NAMESPACE": "x",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_DIFF_OPTS": "-u0",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.worktree",
        "GIT_CONFIG_VALUE_0": str(other),
        "LANGUAGE": "de",
        "LC_ALL": "de_DE.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    assert code_versions.current() == expected


def test_a_merge_conflict_has_a_state(code_versions, folder, commit):
    (folder / "a.py").write_text("a\n")
    commit()
    git(folder, "checkout", "-b", "other")
    (folder / "a.py").write_text("b\n")
    commit()
    git(folder, "checkout", "main")
    (folder / "a.py").write_text("c\n")
    commit()
    with pytest.raises(subprocess.CalledProcessError):
        git(folder, "merge", "other")
    found = code_versions.current()
    assert found.dirty
    assert "+<<<<<<< HEAD\n" in found.diff


def test_worktrees_and_repositories_inside(code_versions, folder, commit, tmp_path):
    (folder / "a.py").write_text("a\n")
    commit()
    clean = code_versions.current()
    git(folder, "worktree", "add", str(tmp_path / "tree"), "-b", "tree")
    inside = folder / "inside"
    inside.mkdir()
    git(inside, "init")
    (inside / "b.py").write_text("b\n")
    assert code_versions.current() == clean
    (tmp_path / "tree" / "b.py").write_text("b\n")
    found = connect(None, Context("test", tmp_path / "tree")).current()
    assert (found.branch, found.dirty) == ("tree", True)
    assert "+b\n" in found.diff


def test_the_folder_may_be_named_in_the_url(folder, commit, tmp_path):
    (folder / "a.py").write_text("a\n")
    id = commit()
    assert connect("git:///project", Context("test", tmp_path)).current().commit == id
    with pytest.raises(ConfigurationError, match="git:// has no option x"):
        connect("git://?x=1", Context("test", tmp_path))
