"""Checkpoints and proofs over real ledgers, and what happens to them when a ledger is changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from tests import faults

import madang
from madang.chain import verify
from madang.data.collection import events
from madang.errors import ConflictError, IntegrityError, InvalidInputError
from madang.security.audit import _merkle, _note, _seals
from madang.testing.audit import AuditContract


@pytest.fixture
def stack(tmp_path, request):
    toml = ""
    if getattr(request, "param", "sqlite") == "postgresql":
        toml = f'[stack]\nmetadata = "{request.getfixturevalue("postgresql_url")}"\n'
    madang.init(tmp_path, name="audited")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(toml)
    with madang.open(tmp_path) as stack:
        yield stack


@pytest.mark.parametrize("stack", ["sqlite", "postgresql"], indirect=True)
class TestLedgerAudit(AuditContract):
    @pytest.fixture
    def context(self, stack):
        return stack.context

    @pytest.fixture
    def audit(self, stack):
        return stack.audit


# -- the tree, against the definition of RFC 9162, 2.1.1 ---------------------------------------------


def mth(hashes):
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    left = 1
    while left * 2 < len(hashes):
        left *= 2
    return _merkle.node_hash(mth(hashes[:left]), mth(hashes[left:]))


LEAVES = [_merkle.leaf_hash(bytes([n])) for n in range(130)]


@given(st.integers(0, 130), st.data())
def test_roots_and_paths_are_those_of_the_definition(size, data):
    hashes = LEAVES[:size]
    subtree = _merkle.subtrees_of(hashes)
    assert _merkle.root(size, subtree) == mth(hashes)
    if size:
        index = data.draw(st.integers(0, size - 1))
        path = _merkle.path(index, size, subtree)
        assert _merkle.root_from_path(hashes[index], index, size, path) == mth(hashes)
        other = data.draw(st.integers(0, size - 1))
        if other != index:
            assert _merkle.root_from_path(hashes[index], other, size, path) != mth(hashes)
        assert _merkle.root_from_path(hashes[index], index, size, [*path, bytes(32)]) is None
        if path:
            assert _merkle.root_from_path(hashes[index], index, size, path[:-1]) is None


def test_a_root_of_certificate_transparency():
    """The eight leaves of the reference implementation's test, RFC 6962."""
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657",
              "606162636465666768696a6b6c6d6e6f"]  # fmt: skip
    hashes = [_merkle.leaf_hash(bytes.fromhex(leaf)) for leaf in leaves]
    assert _merkle.root(8, _merkle.subtrees_of(hashes)).hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


# -- long ledgers --------------------------------------------------------------------------------------


def test_kept_hashes_give_the_roots_of_the_definition(stack, monkeypatch):
    """With groups of 4 instead of 256, so that some hundred lines make several levels."""
    from madang.security.audit import ledger as module

    monkeypatch.setattr(module, "_BITS", 2)
    monkeypatch.setattr(module, "_WIDTH", 4)
    monkeypatch.setattr(module, "_BATCH", 12)
    written = 0
    for more in (1, 2, 1, 5, 40, 3, 100):
        for n in range(more):
            stack.ledger.record("note.written", f"note:{n}")
        checkpoint = stack.audit.checkpoint()
        bodies = rows(stack, "SELECT body FROM ledger ORDER BY seq")[: checkpoint.size]
        leaves = [_merkle.leaf_hash(bytes(body)) for (body,) in bodies]
        assert checkpoint.root == mth(leaves).hex()
        assert checkpoint.size > written
        written = checkpoint.size
        for seq in range(1, written + 1, 7):
            assert stack.audit.prove([seq])[0].checkpoint == checkpoint
    assert len(rows(stack, "SELECT DISTINCT level FROM ledger_node")) >= 3
    for old in stack.audit.checkpoints():
        assert stack.audit.compare(old.note).ok
    assert verify(stack.metadata).ok


def rows(stack, sql, *parameters):
    with stack.metadata.transaction(write=False) as tx:
        return tx.execute(sql, parameters)


# -- ledgers that were changed -------------------------------------------------------------------------


@pytest.fixture
def signed(stack):
    """A ledger with a checkpoint that somebody else keeps."""
    for n in range(6):
        stack.ledger.record("note.written", f"note:{n}", inputs=["a:1"], data={"n": n})
    return stack.audit.checkpoint()


def database(stack):
    return sqlite3.connect(stack.home / "madang.db", isolation_level=None)


def test_every_byte_that_is_flipped_is_found(stack, signed):
    """In every line: by its proof, by the comparison, and by the chain; and no proof is given."""
    with database(stack) as connection:
        lines = connection.execute("SELECT seq, body FROM ledger ORDER BY seq").fetchall()
        for seq, body in lines[: signed.size]:
            for at in range(len(body)):
                changed = bytearray(body)
                changed[at] ^= 1 << (at % 8)
                write(connection, seq, bytes(changed))
                if at % 90 == seq % 90:  # these two read the whole ledger
                    assert not stack.audit.compare(signed.note).ok
                    assert not stack.ledger.verify().ok
                subtree = _merkle.subtrees_of(
                    [_merkle.leaf_hash(bytes(b)) for (b,) in rows(stack, BODIES, signed.size)]
                )
                assert _merkle.root(signed.size, subtree).hex() != signed.root
                if at % 90 == seq % 90:
                    with pytest.raises(IntegrityError):
                        stack.audit.prove([seq])[0]
                write(connection, seq, body)
    assert stack.audit.compare(signed.note).ok


BODIES = "SELECT body FROM ledger WHERE seq <= ? ORDER BY seq"


def write(connection, seq, body):
    connection.execute("UPDATE ledger SET body = ? WHERE seq = ?", (body, seq))


def test_a_ledger_that_was_rewritten_whole_is_found_by_a_kept_checkpoint(stack, signed):
    with database(stack) as connection:
        lines = connection.execute("SELECT seq, body FROM ledger ORDER BY seq").fetchall()
        previous = "00" * 32
        for seq, body in lines:
            line = json.loads(body)
            line["prev"] = previous
            if seq == 3:
                line["actor"] = "user:eve"
                connection.execute("UPDATE ledger SET actor = 'user:eve' WHERE seq = 3")
            new = madang.ledger.canonical(line)
            previous = hashlib.sha256(new).hexdigest()
            connection.execute(
                "UPDATE ledger SET body = ?, hash = ? WHERE seq = ?",
                (new, bytes.fromhex(previous), seq),
            )
        connection.execute("UPDATE ledger_head SET hash = ?", (bytes.fromhex(previous),))
    assert stack.ledger.verify().ok  # the chain alone can't see it
    found = stack.audit.compare(signed.note)
    assert not found.ok
    assert "are not those that were signed" in found.problem
    with pytest.raises(IntegrityError, match="not what was signed"):
        stack.audit.prove([3])


def test_a_cut_tail_is_found(stack, signed):
    with database(stack) as connection:
        connection.execute("DELETE FROM ledger WHERE seq >= ?", (signed.size,))
    assert "are not all there" in stack.audit.compare(signed.note).problem


def test_a_broken_chain_is_not_signed(stack, signed):
    seq = stack.ledger.record("note.written", "note:x")
    with database(stack) as connection:
        connection.execute("UPDATE ledger SET body = body || ' ' WHERE seq = ?", (seq,))
    with pytest.raises(IntegrityError, match="nothing is signed"):
        stack.audit.checkpoint()
    assert stack.audit.checkpoints() == [signed]


def test_changed_cached_hashes_give_no_proof(stack, monkeypatch):
    from madang.security.audit import ledger as module

    monkeypatch.setattr(module, "_BITS", 2)
    monkeypatch.setattr(module, "_WIDTH", 4)
    for n in range(9):
        stack.ledger.record("note.written", f"note:{n}")
    stack.audit.checkpoint()
    with database(stack) as connection:
        connection.execute("UPDATE ledger_node SET hash = zeroblob(32) WHERE position = 1")
    with pytest.raises(IntegrityError, match="not what was signed"):
        stack.audit.prove([1])


# -- keys and notes --------------------------------------------------------------------------------


def test_the_key_is_made_once_and_no_line_holds_it(stack):
    stack.ledger.record("note.written", "note:1")
    key = stack.audit.verifier_key()
    assert stack.audit.verifier_key() == key
    private = stack.secrets.get("madang.audit.signing-key")
    assert not any(private in str(body) for (body,) in rows(stack, "SELECT body FROM ledger"))


def test_a_key_of_another_is_refused(stack, signed):
    with pytest.raises(InvalidInputError, match="no verifier key"):
        _note.read(signed.note, "madang-ledger/x+00000000+AQAA")
    key = stack.audit.verifier_key()
    name, known, encoded = key.split("+", 2)
    assert _note.read(signed.note, key).size == signed.size
    with pytest.raises(InvalidInputError, match="belong together"):
        _note.read(signed.note, f"{name}x+{known}+{encoded}")


# -- sealed events ---------------------------------------------------------------------------------


@pytest.fixture
def topic(stack):
    stack.collection.create_topic("predictions.x")
    values = [json.dumps({"id": n}).encode() for n in range(10)]
    stack.collection.append("predictions.x", events(values))
    return "predictions.x"


def test_many_seals_of_one_topic(stack, topic, monkeypatch):
    monkeypatch.setattr(_seals, "SEAL_EVENTS", 3)
    assert stack.audit.seal(topic) == 10
    assert [line.data["events"] for line in stack.ledger.lines(kind="topic.sealed")] == [1, 3, 3, 3]
    for offset in range(10):
        assert json.loads(stack.audit.prove_event(topic, 0, offset).event) == {"id": offset}


def test_a_changed_event_is_not_proven(stack, topic, monkeypatch):
    stack.audit.seal(topic)
    read = stack.collection.read

    def forged(*args, **kwargs):
        found = read(*args, **kwargs)
        place = found.schema.get_field_index("value")
        return found.set_column(place, "value", pa.array([b'{"id":99}'], pa.binary()))

    monkeypatch.setattr(stack.collection, "read", forged)
    with pytest.raises(IntegrityError, match="it was changed"):
        stack.audit.prove_event(topic, 0, 4)


def test_a_topic_made_anew_is_told(stack, topic):
    stack.audit.seal(topic)
    stack.collection.delete_topic(topic)
    stack.collection.create_topic(topic)
    with pytest.raises(ConflictError, match="made anew"):
        stack.audit.seal(topic)


def test_two_seal_at_once_and_each_event_once(stack, topic, monkeypatch):
    """Both have read the same events when the first writes."""
    seals = _seals.Seals(stack.context)
    put = seals._storage.put
    others = []

    def meanwhile(*args, **kwargs):
        put(*args, **kwargs)
        if not others:
            others.append(None)
            others.append(stack.audit.seal(topic))

    monkeypatch.setattr(seals, "_storage", SimpleNamespace(put=meanwhile))
    assert seals.seal(topic) == 0
    assert others[1] == 10
    assert len(stack.ledger.lines(kind="topic.sealed")) == 1


SEAL = """
import ctypes, sys, madang
with madang.open(sys.argv[1]) as stack:
    stack.collection.topics(), stack.storage.tables(), stack.audit
    ctypes.CDLL(None).fault_arm()
    stack.audit.seal("predictions.x")
"""


def test_killed_at_each_sync_and_rename_it_goes_on(tmp_path):
    """The next one seals the rest, nothing twice."""
    template, root, program = tmp_path / "template", tmp_path / "root", tmp_path / "seal.py"
    program.write_text(SEAL)
    madang.init(template, name="audited")
    with madang.open(template) as stack:
        stack.collection.create_topic("predictions.x")
        stack.collection.append("predictions.x", events([b"{}"] * 10))

    def reset():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    command = [sys.executable, program, root]
    for fault in faults.each("kill", command, under=root, reset=reset, armed=False):
        fault.run()
        with madang.open(root) as stack:
            stack.audit.seal("predictions.x")
            lines = stack.ledger.lines(kind="topic.sealed")
            assert sum(line.data["events"] for line in lines) == 10, fault
            assert stack.audit.prove_event("predictions.x", 0, 9).event == "{}"
            assert stack.ledger.verify().ok
