from __future__ import annotations

import hashlib
import time

import pytest
from tests.security.processes import child, ended, fresh, killed_at

from madang.engines import Context
from madang.errors import AuthenticationError, ConfigurationError
from madang.ledger import acting_as
from madang.security.identity import (
    ROLES,
    GrantsOffline,
    HasFirstAdmin,
    Identity,
    allows,
    connect,
)
from madang.testing.identity import IdentityContract


@pytest.fixture
def identity(context):
    return connect(None, context)


class TestLocalIdentity(IdentityContract):
    pass


def test_what_each_role_may():
    def may(role):
        asked = ("dataset:read", "endpoint:predict", "dataset:write", "endpoint:write")
        asked += ("alias:write", "secret:read", "secret:open", "user:write")
        return {permission for permission in asked if Identity("x", (role,)).may(permission)}

    assert may("viewer") == {"dataset:read", "endpoint:predict", "secret:read"}
    assert may("engineer") == may("viewer") | {"dataset:write"}
    assert may("operator") == may("engineer") | {"endpoint:write", "alias:write"}
    assert may("admin") == may("operator") | {"secret:open", "user:write"}
    assert may("nobody") == set()
    assert not Identity("x", ()).may("dataset:read")
    assert Identity("x", ("viewer", "admin")).may("secret:open")


def test_neither_passwords_nor_tokens_are_stored(context, identity, tmp_path):
    identity.create_user("ann", roles=["viewer"], password="hunter2-hunter2")
    token, _ = identity.create_token("ann")
    identity.authenticate(name="ann", password="hunter2-hunter2")
    with context.metadata.transaction(write=False) as tx:
        (row,) = tx.execute("SELECT password FROM identity_user")
        (digest,) = tx.execute("SELECT digest FROM identity_token")
    # OWASP's least cost for argon2id with one lane.
    assert row[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert digest[0] == hashlib.sha256(token.encode()).hexdigest()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            raw = file.read_bytes()
            assert b"hunter2" not in raw, file
            assert token.encode() not in raw, file


def test_every_change_stands_in_the_ledger_without_the_secret(context, identity):
    with acting_as("user:root"):
        identity.create_user("ann", roles=["viewer"], password="hunter2")
        token, info = identity.create_token("ann", label="laptop")
        identity.set_roles("ann", ["admin"])
        identity.revoke_token(info.id)
        _, second = identity.create_token("ann")
        identity.deactivate_user("ann")
    lines = context.ledger.lines(newest_first=False)
    assert [(line.kind, line.subject) for line in lines] == [
        ("user.create", "user:ann"),
        ("token.create", f"token:{info.id}"),
        ("user.roles", "user:ann"),
        ("token.revoke", f"token:{info.id}"),
        ("token.create", f"token:{second.id}"),
        ("user.deactivate", "user:ann"),
    ]
    assert {line.actor for line in lines} == {"user:root"}
    assert lines[2].data["roles"] == ["admin"]
    assert lines[5].data["tokens"] == [second.id]
    assert "hunter2" not in repr(lines)
    assert token not in repr(lines)


def test_the_first_admin(context, identity):
    assert isinstance(identity, HasFirstAdmin)
    token = identity.first_admin()
    file = context.home / "admin.token"
    assert file.read_text() == f"{token}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    found = identity.authenticate(token=token)
    assert (found.name, found.roles) == ("admin", ("admin",))
    assert identity.first_admin() is None
    other = fresh(context)
    assert connect(None, other).first_admin() is None
    other.close()
    file.unlink()
    assert identity.first_admin() is None
    assert not file.exists()
    assert list(context.home.glob("admin*.tmp")) == []


def test_the_first_admin_does_not_come_back(context, identity):
    token = identity.first_admin()
    identity.deactivate_user("admin")
    assert identity.first_admin() is None
    with pytest.raises(AuthenticationError):
        identity.authenticate(token=token)


def test_two_processes_make_one_first_admin(context):

    def start(own):
        token = connect(None, own).first_admin()
        if token is not None:
            (own.root / f"got-{token}").touch()

    assert context.metadata.schema_version()
    pids = [child(context, start) for _ in range(4)]
    assert [ended(pid) for pid in pids] == [0] * 4
    (got,) = context.root.glob("got-*")
    token = got.name.removeprefix("got-")
    assert (context.home / "admin.token").read_text().strip() == token
    identity = connect(None, context)
    assert identity.authenticate(token=token).name == "admin"
    assert len(identity.tokens()) == 1


def test_kill_at_every_step_of_making_the_first_admin(context):
    step, first = 1, None
    while killed_at(context, step, lambda own: connect(None, own).first_admin()):
        file = context.home / "admin.token"
        if file.exists():
            # The token that somebody may have read already is the one that stays.
            first = first or file.read_text()
            assert file.read_text() == first
            assert file.stat().st_mode & 0o777 == 0o600
        step += 1
    assert step > 6
    identity = connect(None, context)
    identity.first_admin()
    assert first is not None
    assert (context.home / "admin.token").read_text() == first
    assert identity.authenticate(token=first.strip()).name == "admin"
    assert len(identity.tokens()) == 1


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("mdg_x", 0o600), (None, 0o644)])
def test_a_planted_admin_token_is_refused(tmp_path, text, mode):
    context = Context("test", tmp_path)
    identity = connect(None, context)
    file = context.home / "admin.token"
    file.write_text("mdg_" + "a" * 43 if text is None else text)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="delete it and start again"):
        identity.first_admin()
    assert identity.users() == []
    file.unlink()
    assert identity.first_admin()
    context.close()


def test_grants_are_enough_to_check_a_token_elsewhere(identity):
    assert isinstance(identity, GrantsOffline)
    identity.create_user("ann", roles=["viewer"])
    identity.create_user("bob", roles=["admin", "viewer"])
    identity.create_user("eve", roles=["admin"])
    ann, _ = identity.create_token("ann", lifetime_seconds=3600)
    bob, _ = identity.create_token("bob")
    identity.create_token("bob", lifetime_seconds=1e-6)
    identity.create_token("eve")
    identity.deactivate_user("eve")
    grants = {grant.digest: grant for grant in identity.grants()}
    assert len(grants) == 2
    found = grants[hashlib.sha256(ann.encode()).hexdigest()]
    assert (found.name, found.permissions) == ("ann", ROLES["viewer"])
    assert found.expires_us > time.time_ns() // 1000
    assert allows(found.permissions, "endpoint:predict")
    assert not allows(found.permissions, "endpoint:write")
    found = grants[hashlib.sha256(bob.encode()).hexdigest()]
    assert allows(found.permissions, "anything:at_all")
    assert found.expires_us is None
    _, info = identity.create_token("ann")
    identity.revoke_token(info.id)
    assert len(identity.grants()) == 2


def test_projects_do_not_see_each_other(context, identity):
    other_context = Context("other", context.root, metadata_url=context.metadata_url)
    other = connect(None, other_context)
    for each in (identity, other):
        each.create_user("ann", roles=["viewer"])
    token, info = identity.create_token("ann")
    with pytest.raises(AuthenticationError):
        other.authenticate(token=token)
    other.revoke_token(info.id)
    other.deactivate_user("ann")
    assert identity.authenticate(token=token).name == "ann"
    assert other.grants() == []
    other_context.close()


def test_another_process_sees_a_revocation_at_the_next_call(context, identity):
    identity.create_user("ann", roles=["viewer"])
    token, info = identity.create_token("ann")
    other_context = fresh(context)
    other = connect(None, other_context)
    assert other.authenticate(token=token).name == "ann"
    identity.revoke_token(info.id)
    with pytest.raises(AuthenticationError):
        other.authenticate(token=token)
    other_context.close()


def test_an_unknown_name_costs_a_hash_as_well(identity, monkeypatch):
    from madang.security.identity import local

    hashed = []
    verify = local._verify

    def counted(*arguments):
        hashed.append(arguments[0][:10])
        return verify(*arguments)

    monkeypatch.setattr(local, "_verify", counted)
    identity.create_user("ann", roles=["viewer"], password="right")
    identity.create_user("bob", roles=["viewer"])
    for name in ("ann", "bob", "nobody"):
        with pytest.raises(AuthenticationError):
            identity.authenticate(name=name, password="wrong")
    assert hashed == ["$argon2id$"] * 3


def test_no_options(context):
    with pytest.raises(ConfigurationError, match="local:// has no option ttl"):
        connect("local://?ttl=1", context)
