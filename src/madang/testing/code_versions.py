"""What every code-versions engine must do."""

from __future__ import annotations

import dataclasses

import pytest

from madang.errors import NotFoundError


class CodeVersionsContract:
    """Needs the fixtures `code_versions` (an engine of a folder without history), `folder` (that
    folder, a `Path`) and `commit` (a function that commits everything and returns the id)."""

    def test_a_clean_commit(self, code_versions, folder, commit):
        (folder / "a.py").write_text("a = 1\n")
        id = commit()
        found = code_versions.current()
        assert (found.commit, found.dirty, found.diff) == (id, False, "")
        assert found.tree
        assert found.ref == f"code:{id}"

    def test_a_dirty_tree_has_an_id_and_a_diff(self, code_versions, folder, commit):
        (folder / "a.py").write_text("a = 1\n")
        id = commit()
        clean = code_versions.current()
        (folder / "a.py").write_text("a = 2\n")
        (folder / "new.py").write_text("b = 3\n")
        found = code_versions.current()
        assert (found.commit, found.dirty) == (id, True)
        assert "-a = 1\n+a = 2\n" in found.diff
        assert "+b = 3\n" in found.diff
        assert found.tree != clean.tree
        assert found.ref == f"code:{id}+{found.tree}"

    def test_equal_states_have_equal_ids(self, code_versions, folder, commit):
        (folder / "a.py").write_text("a = 1\n")
        commit()
        clean = code_versions.current()
        (folder / "a.py").write_text("a = 2\n")
        dirty = code_versions.current()
        assert code_versions.current() == dirty
        (folder / "a.py").write_text("a = 1\n")
        assert code_versions.current() == clean
        (folder / "a.py").write_text("a = 2\n")
        assert code_versions.current() == dirty
        id = commit()
        assert code_versions.current() == dataclasses.replace(
            dirty, commit=id, dirty=False, diff=""
        )

    def test_a_file_as_it_was(self, code_versions, folder, commit):
        (folder / "a.py").write_bytes(b"old\0\r\n")
        old = commit()
        (folder / "a.py").write_bytes(b"new")
        assert code_versions.read(old, "a.py") == b"old\0\r\n"
        assert code_versions.read(commit(), "a.py") == b"new"

    def test_what_is_not_there_is_not_found(self, code_versions, folder, commit):
        (folder / "a.py").write_text("a = 1\n")
        (folder / "sub").mkdir()
        (folder / "sub" / "b.py").write_text("b = 1\n")
        id = commit()
        assert code_versions.exists(id)
        for other in ("0" * 40, "", "nonsense", "--help", "a b", "\0"):
            assert not code_versions.exists(other)
            with pytest.raises(NotFoundError, match="no commit"):
                code_versions.read(other, "a.py")
        for path in ("b.py", "sub", "../a.py", "/etc/passwd", ""):
            with pytest.raises(NotFoundError, match="no file"):
                code_versions.read(id, path)

    def test_it_is_healthy(self, code_versions):
        assert code_versions.health().ok
