from __future__ import annotations

import json
import logging
import traceback

import pytest
from tests.security.processes import child, ended, fresh, killed_at

import madang
from madang import engines
from madang.engines import Context, EngineURL
from madang.errors import ConfigurationError, IntegrityError, MadangError
from madang.platform.logs import handler
from madang.security.secrets import connect
from madang.testing.secrets import SecretsContract


@pytest.fixture
def secrets(context):
    return connect(None, context)


class TestLocalSecrets(SecretsContract):
    pass


def keyring(context):
    return json.loads((context.home / "keyring.json").read_text())


def stored(context, columns="value", where="name = 'a'"):
    with context.metadata.transaction(write=False) as tx:
        return [bytes(row[0]) for row in tx.execute(f"SELECT {columns} FROM secret WHERE {where}")]


def change(context, sql, *parameters):
    with context.metadata.transaction() as tx:
        tx.execute(sql, parameters)


def test_neither_the_database_nor_its_files_hold_a_value(context, secrets, tmp_path):
    secrets.set("a", "hunter2-hunter2")
    assert b"hunter2" not in stored(context)[0] + stored(context, "data_key")[0]
    secrets.get("a")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"hunter2" not in file.read_bytes(), file


def test_equal_values_look_different(context, secrets):
    secrets.set("a", "same")
    secrets.set("a", "same")
    assert len(set(stored(context)) | set(stored(context, "data_key"))) == 4


def test_the_keyring_is_private(context, secrets):
    secrets.set("a", "x")
    path = context.home / "keyring.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    for action in (lambda: secrets.get("a"), lambda: secrets.set("a", "y"), secrets.rotate):
        with pytest.raises(ConfigurationError, match="run: chmod 600"):
            action()
    assert not secrets.health().ok
    assert "chmod 600" in secrets.health().detail


@pytest.mark.parametrize("column", ["value", "data_key"])
def test_changed_bytes_are_noticed(context, secrets, column):
    secrets.set("a", "hunter2")
    good = stored(context, column)[0]
    for position in (0, 11, 12, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1
        change(context, f"UPDATE secret SET {column} = ?", bytes(bad))
        with pytest.raises(IntegrityError, match="'a' does not decrypt") as caught:
            secrets.get("a")
        assert "hunter2" not in str(caught.value)
    for bad in (b"", good[:8], good[:-1], good + b"\0"):
        change(context, f"UPDATE secret SET {column} = ?", bad)
        with pytest.raises(IntegrityError):
            secrets.get("a")
    change(context, f"UPDATE secret SET {column} = ?", good)
    assert secrets.get("a") == "hunter2"


def test_a_value_moved_to_another_name_version_or_project_is_noticed(context, secrets):
    secrets.set("a", "for a")
    secrets.set("b", "for b")
    change(context, "UPDATE secret SET name = 'c' WHERE name = 'a'")
    with pytest.raises(IntegrityError, match="moved"):
        secrets.get("c")
    change(context, "UPDATE secret SET name = 'a', version = 7 WHERE name = 'c'")
    with pytest.raises(IntegrityError):
        secrets.get("a")
    # The data key alone, moved with its value left behind:
    change(
        context,
        "UPDATE secret SET data_key = (SELECT data_key FROM secret WHERE name = 'b')",
    )
    with pytest.raises(IntegrityError):
        secrets.get("a")
    assert secrets.get("b") == "for b"
    change(context, "UPDATE secret SET project = 'other'")
    change(context, "UPDATE secret_ring SET project = 'other'")
    other = Context("other", context.root, metadata_url=context.metadata_url)
    with pytest.raises(IntegrityError):
        connect(None, other).get("b")
    other.close()


def test_another_master_key_is_noticed(context, secrets):
    secrets.set("a", "hunter2")
    content = keyring(context)
    (ring,) = content["rings"].values()
    good = ring["keys"][ring["current"]]["key"]
    for bad in ("A" * 43 + "=", "", "AAAA"):
        ring["keys"][ring["current"]]["key"] = bad
        (context.home / "keyring.json").write_text(json.dumps(content))
        with pytest.raises(IntegrityError, match="the master key is another one"):
            secrets.get("a")
    ring["keys"][ring["current"]]["key"] = good
    (context.home / "keyring.json").write_text(json.dumps(content))
    assert secrets.get("a") == "hunter2"


def test_a_lost_keyring_is_told_and_nothing_new_is_encrypted(context, secrets):
    secrets.set("a", "hunter2")
    (context.home / "keyring.json").unlink()
    for action in (lambda: secrets.get("a"), lambda: secrets.set("b", "x"), secrets.rotate):
        with pytest.raises(IntegrityError, match="restore it from a backup, or delete the secrets"):
            action()
    assert not secrets.health().ok
    secrets.delete("a")
    secrets.set("a", "again")
    assert secrets.get("a") == "again"
    assert secrets.health().ok


def test_a_lost_key_is_named(context, secrets):
    secrets.set("a", "x")
    lost = next(iter(keyring(context)["rings"].values()))["current"]
    content = keyring(context)
    ring = next(iter(content["rings"].values()))
    ring["keys"] = {"k0": ring["keys"][lost]}
    ring["current"] = "k0"
    (context.home / "keyring.json").write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=f"master key {lost}"):
        secrets.get("a")
    assert lost in secrets.health().detail


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"rings": {"x": 1}}', '{"rings": []}', "key\udcff"]
)
def test_a_broken_keyring_is_told_without_showing_it(context, secrets, text):
    secrets.set("a", "x")
    ring = next(iter(keyring(context)["rings"]))
    raw = text.replace('"x"', f'"{ring}"').encode("utf-8", "surrogateescape")
    (context.home / "keyring.json").write_bytes(raw)
    with pytest.raises(IntegrityError, match="is not a keyring"):
        secrets.get("a")


def test_rotation_changes_the_master_key_and_no_value(context, secrets):
    secrets.set("a", "hunter2")
    before = keyring(context)
    values, keys = stored(context), stored(context, "data_key")
    secrets.rotate()
    after = keyring(context)
    old, new = (next(iter(ring["rings"].values())) for ring in (before, after))
    assert list(new["keys"]) == [new["current"]] != [old["current"]]
    assert stored(context) == values
    assert stored(context, "data_key") != keys


def test_two_projects_and_two_databases_share_a_keyring_without_harm(tmp_path):
    contexts = [
        Context("one", tmp_path),
        Context("two", tmp_path),
        Context("one", tmp_path, metadata_url="sqlite:///staging.db"),
    ]
    for number, context in enumerate(contexts):
        connect(None, context).set("a", f"value {number}")
    for context in contexts:
        connect(None, context).rotate()
        assert [connect(None, c).get("a") for c in contexts] == ["value 0", "value 1", "value 2"]
    for context in contexts:
        context.close()


def test_everything_stands_in_the_ledger_without_the_value(context, secrets):
    secrets.set("a", "hunter2")
    secrets.get("a")
    secrets.rotate()
    secrets.delete("a")
    lines = context.ledger.lines(newest_first=False)
    assert [line.kind for line in lines] == [
        "secret.set",
        "secret.open",
        "secret.rotate",
        "secret.delete",
    ]
    assert lines[0].outputs == lines[1].inputs == lines[3].inputs == ("secret:a@1",)
    assert lines[2].data["count"] == 1
    assert "hunter2" not in repr(lines)
    assert context.ledger.verify().ok


def test_an_opening_that_failed_gives_nothing_and_records_nothing(context, secrets):
    secrets.set("a", "x")
    change(context, "UPDATE secret SET value = ?", b"0" * 40)
    with pytest.raises(IntegrityError):
        secrets.get("a")
    assert context.ledger.lines(kind="secret.open") == []


def test_kill_at_every_step_of_set(context):
    connect(None, context).set("a", "first")
    step = 1
    while killed_at(context, step, lambda own: connect(None, own).set("a", "second")):
        after = fresh(context)
        secrets = connect(None, after)
        versions = secrets.list()[0].version
        assert secrets.get("a") == ("first" if versions == 1 else "second")
        after.close()
        step += 1
    assert step > 4
    assert connect(None, context).get("a") == "second"


def test_kill_at_every_step_of_the_very_first_set(context):
    step = 1
    while killed_at(context, step, lambda own: connect(None, own).set("a", "x")):
        after = fresh(context)
        secrets = connect(None, after)
        done = bool(secrets.list())
        if done:
            assert secrets.get("a") == "x"
        after.close()
        if done:
            break
        step += 1
    assert step > 4


def test_kill_at_every_step_of_rotate(context):
    secrets = connect(None, context)
    secrets.set("a", "first")
    secrets.set("b", "second")
    step = 1
    while killed_at(context, step, lambda own: connect(None, own).rotate()):
        after = fresh(context)
        secrets = connect(None, after)
        assert secrets.health().ok
        assert [secrets.get("a"), secrets.get("b")] == ["first", "second"]
        assert after.ledger.verify().ok
        after.close()
        step += 1
    assert step > 8
    after = fresh(context)
    secrets = connect(None, after)
    secrets.rotate()
    assert [secrets.get("a"), secrets.get("b")] == ["first", "second"]
    assert len(next(iter(keyring(context)["rings"].values()))["keys"]) == 1
    assert all(f.stat().st_mode & 0o077 == 0 for f in context.home.glob("keyring*"))
    after.close()


def test_processes_that_set_while_others_rotate_lose_nothing(context):
    connect(None, context).set("a", "0")

    def rotate(own):
        for _ in range(8):
            connect(None, own).rotate()

    def write(name):
        def run(own):
            secrets = connect(None, own)
            for number in range(8):
                secrets.set(name, f"{name}{number}")
                assert secrets.get(name) == f"{name}{number}"

        return run

    pids = [child(context, action) for action in (rotate, write("x"), rotate, write("y"))]
    assert [ended(pid) for pid in pids] == [0, 0, 0, 0]
    after = fresh(context)
    secrets = connect(None, after)
    for name in ("x", "y"):
        for number in range(8):
            assert secrets.get(name, version=number + 1) == f"{name}{number}"
    assert after.ledger.verify().ok
    after.close()


def test_a_resolved_secret_is_never_shown(tmp_path, capfd):
    value = "hunter2-Zq9"
    madang.init(tmp_path, name="test")
    with madang.open(tmp_path) as stack:
        stack.secrets.set("s3", value)
        log = logging.getLogger("test.resolved")
        log.propagate = False
        attached = handler(stack.logs)
        log.addHandler(attached)
        text = stack.context.resolve("s3://user:${secret:s3}@host/bucket?key=${secret:s3}&odd=1")
        assert value in text
        url = EngineURL.parse(text)
        assert url.password == url.query["key"] == value
        shown = [repr(url), str(url), f"{url!r}", repr(stack), repr(stack.secrets)]
        for reference in (
            "bad://user:${secret:s3}@host?x=${secret:s3}",
            "local:///x?option=${secret:s3}",
        ):
            with pytest.raises(MadangError) as caught:
                engines.connect("platform.configuration", reference, stack.context)
            shown.append("".join(traceback.format_exception(caught.value)))
            log.error("it failed", exc_info=caught.value)
        log.removeHandler(attached)
        attached.close()
        shown += [repr(stack.logs.search()), repr(stack.ledger.lines()), *capfd.readouterr()]
        shown += [health for health in [repr(stack.secrets.health())]]
        assert len(stack.logs.search("failed")) == 2
        assert [line.kind for line in stack.ledger.lines()].count("secret.open") >= 3
    shown += [f.read_bytes().decode("latin-1") for f in tmp_path.rglob("*") if f.is_file()]
    assert not [text for text in shown if value in text]


def test_a_metadata_url_can_not_refer_to_a_secret(tmp_path):
    madang.init(tmp_path, name="test")
    (tmp_path / "madang.toml").write_text(
        '[project]\nname = "test"\n[stack]\nmetadata = "postgresql://u:${secret:pg}@127.0.0.1/x"\n'
    )
    with madang.open(tmp_path) as stack:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"secret:pg.*use \$\{env:"):
                stack.metadata
        assert not stack.secrets.health().ok


def test_the_keyring_may_lie_elsewhere(context, tmp_path):
    secrets = connect("local:///keys/ring.json", context)
    secrets.set("a", "x")
    assert (tmp_path / "keys" / "ring.json").stat().st_mode & 0o777 == 0o600
    assert not (context.home / "keyring.json").exists()
    with pytest.raises(ConfigurationError, match="no option x"):
        connect("local://?x=1", context)
