"""What every identity engine must do."""

from __future__ import annotations

import pytest

from madang.errors import (
    AlreadyExistsError,
    AuthenticationError,
    InvalidInputError,
    NotFoundError,
)


class IdentityContract:
    """Needs the fixture `identity`: an engine without users."""

    def test_a_user_has_roles(self, identity):
        made = identity.create_user("ann", roles=["viewer", "engineer"])
        assert (made.name, made.roles, made.active) == ("ann", ("viewer", "engineer"), True)
        assert identity.users() == [made]
        assert identity.set_roles("ann", ["admin"]).roles == ("admin",)
        assert identity.users()[0].roles == ("admin",)

    def test_a_name_is_taken_once(self, identity):
        identity.create_user("ann", roles=["viewer"])
        with pytest.raises(AlreadyExistsError, match="'ann'"):
            identity.create_user("ann", roles=["admin"])
        assert identity.users()[0].roles == ("viewer",)

    @pytest.mark.parametrize("roles", [["root"], [], ["viewer", "*:*"]])
    def test_unknown_roles_are_refused_with_the_known_ones(self, identity, roles):
        with pytest.raises(InvalidInputError, match="viewer, engineer, operator, admin"):
            identity.create_user("ann", roles=roles)
        assert identity.users() == []

    @pytest.mark.parametrize("name", ["", "a b", "-a", "ann\n", "a/b", "ü", "x" * 101])
    def test_an_unusable_name_is_refused(self, identity, name):
        with pytest.raises(InvalidInputError, match="user's name"):
            identity.create_user(name, roles=["viewer"])

    def test_a_token_authenticates(self, identity):
        identity.create_user("ann", roles=["viewer"])
        token, info = identity.create_token("ann", label="laptop")
        found = identity.authenticate(token=token)
        assert (found.name, found.roles, found.token_id) == ("ann", ("viewer",), info.id)
        assert (info.user, info.label, info.expires_us) == ("ann", "laptop", None)
        assert identity.tokens() == identity.tokens("ann") == [info]
        assert identity.tokens("bob") == []
        assert token not in repr((found, info, identity.tokens()))

    def test_tokens_are_long_recognizable_and_all_different(self, identity):
        identity.create_user("ann", roles=["viewer"])
        tokens = {identity.create_token("ann")[0] for _ in range(20)}
        assert len(tokens) == 20
        assert all(t.startswith("mdg_") and len(t) >= 47 for t in tokens)

    def test_a_password_authenticates(self, identity):
        identity.create_user("ann", roles=["viewer"], password="päss wörd")
        assert identity.authenticate(name="ann", password="päss wörd").name == "ann"

    def test_everybody_else_is_refused_with_one_message(self, identity):
        identity.create_user("ann", roles=["viewer"], password="right")
        identity.create_user("bob", roles=["viewer"])
        identity.create_user("eve", roles=["viewer"], password="right")
        identity.deactivate_user("eve")
        token, _ = identity.create_token("ann")
        attempts = [
            {"token": token[:-1]},
            {"token": token + "x"},
            {"token": token.upper()},
            {"token": ""},
            {"token": "mdg_\ud800\0"},
            {"name": "ann", "password": "wrong"},
            {"name": "ann", "password": ""},
            {"name": "ann", "password": "\ud800"},
            {"name": "ann", "password": "x" * 100_000},
            {"name": "bob", "password": "right"},
            {"name": "bob", "password": ""},
            {"name": "eve", "password": "right"},
            {"name": "nobody\0", "password": "right"},
        ]
        messages = set()
        for attempt in attempts:
            with pytest.raises(AuthenticationError) as caught:
                identity.authenticate(**attempt)
            messages.add(str(caught.value))
        assert len(messages) == 1

    @pytest.mark.parametrize("given", [{}, {"name": "ann"}, {"password": "x"}])
    def test_half_an_identity_is_refused(self, identity, given):
        with pytest.raises(AuthenticationError, match="give a token, or a name and a password"):
            identity.authenticate(**given)

    def test_a_revoked_token_is_refused_at_the_next_call(self, identity):
        identity.create_user("ann", roles=["viewer"])
        token, info = identity.create_token("ann")
        other, _ = identity.create_token("ann")
        identity.authenticate(token=token)
        identity.revoke_token(info.id)
        identity.revoke_token(info.id)
        identity.revoke_token("never")
        with pytest.raises(AuthenticationError):
            identity.authenticate(token=token)
        assert identity.authenticate(token=other).name == "ann"

    def test_changed_roles_count_at_the_next_call(self, identity):
        identity.create_user("ann", roles=["admin"])
        token, _ = identity.create_token("ann")
        assert identity.authenticate(token=token).may("secret:open")
        identity.set_roles("ann", ["viewer"])
        assert not identity.authenticate(token=token).may("secret:open")

    def test_an_expired_token_is_refused(self, identity):
        identity.create_user("ann", roles=["viewer"])
        token, info = identity.create_token("ann", lifetime_seconds=1e-6)
        assert info.expires_us == info.created_us + 1
        with pytest.raises(AuthenticationError):
            identity.authenticate(token=token)
        assert identity.tokens() == []
        token, _ = identity.create_token("ann", lifetime_seconds=3600)
        assert identity.authenticate(token=token).name == "ann"

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_an_impossible_lifetime_is_refused(self, identity, seconds):
        identity.create_user("ann", roles=["viewer"])
        with pytest.raises(InvalidInputError, match="lifetime_seconds must be above 0"):
            identity.create_token("ann", lifetime_seconds=seconds)

    def test_deactivating_ends_everything(self, identity):
        identity.create_user("ann", roles=["admin"], password="right")
        token, _ = identity.create_token("ann")
        identity.deactivate_user("ann")
        identity.deactivate_user("ann")
        for attempt in ({"token": token}, {"name": "ann", "password": "right"}):
            with pytest.raises(AuthenticationError):
                identity.authenticate(**attempt)
        assert identity.tokens() == []
        assert not identity.users()[0].active
        with pytest.raises(NotFoundError, match="no active user 'ann'"):
            identity.create_token("ann")

    def test_an_unknown_user_is_not_found(self, identity):
        for action in (
            lambda: identity.set_roles("ann", ["viewer"]),
            lambda: identity.deactivate_user("ann"),
            lambda: identity.create_token("ann"),
        ):
            with pytest.raises(NotFoundError, match="user 'ann'"):
                action()

    def test_it_is_healthy(self, identity):
        assert identity.health().ok
