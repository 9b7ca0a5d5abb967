"""What every secrets engine must do."""

from __future__ import annotations

import pytest

from madang.errors import InvalidInputError, NotFoundError


class SecretsContract:
    """Needs the fixture `secrets`: an empty engine."""

    def test_a_value_comes_back_as_it_was_set(self, secrets):
        for value in ("", "hunter2", "a\nb\0c", "비밀 🔑", "x" * 100_000):
            secrets.set("a", value)
            assert secrets.get("a") == value

    def test_each_set_is_a_version(self, secrets):
        first = secrets.set("a", "old")
        second = secrets.set("a", "new")
        assert (first.version, second.version) == (1, 2)
        assert secrets.get("a") == "new"
        assert secrets.get("a", version=1) == "old"

    def test_what_is_absent_is_not_found(self, secrets):
        with pytest.raises(NotFoundError, match="no secret 'a'"):
            secrets.get("a")
        secrets.set("a", "x")
        for version in (0, 2, -1):
            with pytest.raises(NotFoundError):
                secrets.get("a", version=version)

    def test_list_shows_names_and_versions_alone(self, secrets):
        secrets.set("b", "hunter2")
        secrets.set("a", "hunter2")
        secrets.set("a", "hunter2")
        found = secrets.list()
        assert [(info.name, info.version) for info in found] == [("a", 2), ("b", 1)]
        assert "hunter2" not in repr(found)

    def test_delete_destroys_all_versions_and_may_be_repeated(self, secrets):
        secrets.set("a", "1")
        secrets.set("a", "2")
        secrets.delete("a")
        secrets.delete("a")
        secrets.delete("never")
        for version in (None, 1, 2):
            with pytest.raises(NotFoundError):
                secrets.get("a", version=version)
        assert secrets.list() == []

    def test_a_version_number_never_comes_twice(self, secrets):
        secrets.set("a", "1")
        secrets.delete("a")
        assert secrets.set("a", "2").version == 2
        assert secrets.get("a") == "2"

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "ü", "a\n", "x" * 201])
    def test_an_unusable_name_is_refused_and_not_shown(self, secrets, name):
        with pytest.raises(InvalidInputError, match="secret's name has 1 to 200") as caught:
            secrets.set(name, "x")
        assert "ü" not in str(caught.value)

    @pytest.mark.parametrize(
        "value", [b"hunter2", 4242, None, "hunter2\ud800", "hunter2" * 200_000]
    )
    def test_an_unusable_value_is_refused_and_not_shown(self, secrets, value):
        with pytest.raises(InvalidInputError, match="value of secret 'a'") as caught:
            secrets.set("a", value)
        assert "hunter2" not in str(caught.value)
        assert "4242" not in str(caught.value)

    def test_rotate_keeps_every_value(self, secrets):
        for name in ("a", "b"):
            secrets.set(name, f"{name}1")
            secrets.set(name, f"{name}2")
        secrets.set("gone", "x")
        secrets.delete("gone")
        assert secrets.rotate() == 4
        assert secrets.rotate() == 4
        assert [secrets.get("a", version=1), secrets.get("b")] == ["a1", "b2"]
        secrets.set("c", "after")
        assert secrets.get("c") == "after"

    def test_rotating_nothing_is_fine(self, secrets):
        assert secrets.rotate() == 0

    def test_it_is_healthy(self, secrets):
        assert secrets.health().ok
        secrets.set("a", "hunter2")
        assert secrets.health().ok
        assert "hunter2" not in repr(secrets.health())
