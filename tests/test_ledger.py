from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from madang.activity import is_noting, note, noting
from madang.engines import Context
from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import GENESIS, acting_as, canonical, current_actor, format_time, new_id


@pytest.fixture(params=["sqlite", "postgresql"])
def metadata_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/metadata.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def context(tmp_path, metadata_url):
    context = Context("test", tmp_path, metadata_url=metadata_url)
    yield context
    context.close()


@pytest.fixture
def ledger(context):
    return context.ledger


@pytest.fixture
def small(ledger):
    """Five lines with everything that a line can have; the last intent is still open."""
    with acting_as("user:ann"):
        ledger.record("dataset.written", "dataset:a@1", outputs=["dataset:a@1"], data={"rows": 2})
        ledger.record("step.done", "run:1", inputs=["dataset:a@1"], outputs=["artifact:f", "x:é"])
        with ledger.intent("topic.created", "topic:t", data={"n": 1.5}) as intent:
            intent.outputs.append("topic:t")
        # An intent that another process left open.
        with ledger._database.transaction() as tx:
            owner = "elsewhere/1/2"
            data = {"id": "1", "owner": owner}
            seq = ledger.append(tx, "topic.created", "topic:u", phase="intent", data=data)
            tx.execute(
                "INSERT INTO ledger_open VALUES (?, ?, ?, ?)", (seq, "test", "topic.created", owner)
            )
    return ledger


def change(ledger, sql, parameters=()):
    with ledger._database.transaction() as tx:
        tx.execute(sql, parameters)


# -- canonical encoding: the vectors of RFC 8785 and of its reference implementation ---------------


def test_the_example_of_rfc_8785_section_3_2_2():
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert canonical(value) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_ordered_by_utf_16_units_as_in_section_3_2_3():
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    # The emoji is the surrogate pair D83D DE00, so it stands before FB33.
    order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(value))) == order


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # Appendix B
        ("0000000000000000", b"0"),
        ("8000000000000000", b"0"),
        ("0000000000000001", b"5e-324"),
        ("7fefffffffffffff", b"1.7976931348623157e+308"),
        ("4340000000000000", b"9007199254740992"),
        ("4430000000000000", b"295147905179352830000"),
        ("44b52d02c7e14af5", b"9.999999999999997e+22"),
        ("44b52d02c7e14af6", b"1e+23"),
        ("444b1ae4d6e2ef4e", b"999999999999999700000"),
        ("444b1ae4d6e2ef50", b"1e+21"),
        ("3eb0c6f7a0b5ed8c", b"9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", b"0.000001"),
        ("41b3de4355555553", b"333333333.3333332"),
        ("becbf647612f3696", b"-0.0000033333333333333333"),
        ("43143ff3c1cb0959", b"1424953923781206.2"),
    ],
)
def test_numbers_of_appendix_b(bits, text):
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        2**53,
        {1: 2},
        {"a": {1}},
        b"a",
        "\ud800",
        {"\ud800": 1},
        object(),
    ],
)
def test_what_is_not_json_is_refused(value):
    with pytest.raises(InvalidInputError, match="can't be written to the ledger: "):
        canonical(value)


def test_data_nested_too_deep_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidInputError, match="can't be written"):
        canonical(value)


# -- writing ---------------------------------------------------------------------------------------


def test_the_chain_can_be_checked_by_hand(small):
    with small._database.transaction(write=False) as tx:
        rows = tx.execute("SELECT seq, hash, body FROM ledger ORDER BY seq")
    previous = GENESIS.hex()
    for number, (seq, digest, body) in enumerate(rows, 1):
        line = json.loads(body)
        assert seq == number == line["seq"]
        assert line["prev"] == previous
        assert canonical(line) == body
        previous = hashlib.sha256(body).hexdigest()
        assert digest.hex() == previous
    assert small.verify().head == previous
    assert small.verify().lines == 5


def test_a_line_says_who_what_when(small):
    line = small.get(2)
    assert (line.seq, line.project, line.actor) == (2, "test", "user:ann")
    assert (line.kind, line.subject, line.phase, line.intent) == (
        "step.done",
        "run:1",
        "done",
        None,
    )
    assert line.inputs == ("dataset:a@1",)
    assert line.outputs == ("artifact:f", "x:é")
    assert line.time.endswith("Z")
    assert len(line.time) == 27
    assert line.prev == small.get(1).hash


def test_a_line_that_is_not_there_is_named(small):
    with pytest.raises(NotFoundError, match="ledger of 'test' has no line 99"):
        small.get(99)


def test_a_line_goes_with_its_transaction(context, ledger):
    with pytest.raises(ZeroDivisionError), context.metadata.transaction() as tx:
        ledger.append(tx, "a.b", "x:1", inputs=["y:1"])
        raise ZeroDivisionError
    assert ledger.lines() == []
    assert ledger.uses("y:1") == []
    assert ledger.record("a.b", "x:2") == 1
    assert ledger.verify().ok


def test_refused_data_leaves_no_line(ledger):
    with pytest.raises(InvalidInputError):
        ledger.record("a.b", "x:1", data={"value": float("nan")})
    assert ledger.verify().lines == 0


def test_two_lines_in_one_transaction_follow_each_other(context, ledger):
    with context.metadata.transaction() as tx:
        assert [ledger.append(tx, "a.b", f"x:{n}") for n in range(3)] == [1, 2, 3]
    assert ledger.verify().ok


def test_the_actor_is_the_local_user_or_who_acts(ledger):
    assert current_actor().startswith("local:")
    with acting_as("user:ann"):
        with acting_as("user:bob"):
            ledger.record("a.b", "x:1")
        ledger.record("a.b", "x:2")
    ledger.record("a.b", "x:3")
    actors = [line.actor for line in ledger.lines(newest_first=False)]
    assert actors == ["user:bob", "user:ann", current_actor()]


def test_the_actor_belongs_to_its_thread():
    with acting_as("user:ann"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(current_actor).result() != "user:ann"


def test_notes_hold_what_was_recorded_and_told(ledger):
    with noting() as notes:
        ledger.record("a.b", "x:1", inputs=["y:1"], outputs=["z:1"])
        note(inputs=["y:2"], newest=("dataset:d", "3"))
        note(newest=("dataset:d", "4"))
        assert is_noting()
    ledger.record("a.b", "x:2", inputs=["y:9"])
    assert (list(notes.inputs), list(notes.outputs)) == (["y:1", "y:2"], ["z:1"])
    assert notes.newest == {"dataset:d": "3"}
    assert not is_noting()


def test_new_ids_sort_by_time_and_differ():
    ids = [new_id() for _ in range(1000)]
    assert len({*ids}) == 1000
    assert all(len(id) == 32 and int(id, 16) >= 0 for id in ids)
    assert [id[:12] for id in ids] == sorted(id[:12] for id in ids)


def test_times_are_rfc_3339():
    assert format_time(1_357_016_400_000_001) == "2013-01-01T05:00:00.000001Z"
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"


# -- reading ---------------------------------------------------------------------------------------


def test_lines_are_filtered(ledger):
    for number in range(5):
        with acting_as(f"user:{number % 2}"):
            ledger.record(f"dataset.{'read' if number % 2 else 'written'}", f"dataset:{number}")
    ledger.record("datasets", "dataset:1")
    seqs = lambda **wanted: [line.seq for line in ledger.lines(**wanted)]  # noqa: E731
    assert seqs() == [6, 5, 4, 3, 2, 1]
    assert seqs(newest_first=False, limit=2) == [1, 2]
    assert seqs(kind="dataset.*") == [5, 4, 3, 2, 1]
    assert seqs(kind="dataset.read") == [4, 2]
    assert seqs(subject="dataset:1") == [6, 2]
    assert seqs(actor="user:1", kind="dataset.read", limit=1) == [4]
    with ledger._database.transaction(write=False) as tx:
        times = [row[0] for row in tx.execute("SELECT time FROM ledger ORDER BY seq")]
    assert seqs(since_us=times[3]) == [seq for seq in range(6, 0, -1) if times[seq - 1] >= times[3]]
    assert seqs(until_us=times[3]) == [seq for seq in range(6, 0, -1) if times[seq - 1] < times[3]]


def test_projects_share_the_chain_and_see_their_own_lines(context, ledger, tmp_path):
    other = Context("other", tmp_path, metadata_url=context.metadata_url)
    assert ledger.record("a.b", "x:1", outputs=["y:1"]) == 1
    assert other.ledger.record("a.b", "x:1", outputs=["y:1"]) == 2
    assert [line.seq for line in ledger.lines()] == [1]
    assert [line.seq for line in other.ledger.origin("y:1")] == [2]
    with pytest.raises(NotFoundError):
        ledger.get(2)
    assert other.ledger.verify().lines == 2
    other.close()


def test_lineage_goes_back_and_forth(ledger):
    ledger.record("event.appended", "topic:t", outputs=["topic:t/0@0-9"])
    ledger.record("dataset.written", "d", inputs=["topic:t/0@0-9"], outputs=["dataset:d@1"])
    ledger.record("dataset.written", "other", outputs=["dataset:e@1"])
    ledger.record("model.trained", "m", inputs=["dataset:d@1"], outputs=["model:m@1"])
    ledger.record("model.trained", "m", inputs=["dataset:d@1"], outputs=["model:m@2"])
    ledger.record("again", "m", inputs=["model:m@1"], outputs=["dataset:d@1"])  # a circle
    back = [line.seq for line in ledger.origin("model:m@1")]
    assert back == [4, 6, 2, 1]
    assert [line.seq for line in ledger.origin("model:m@1", depth=1)] == [4]
    assert [line.seq for line in ledger.uses("topic:t/0@0-9")] == [2, 5, 4, 6]
    assert ledger.origin("dataset:none@1") == []


# -- intents ---------------------------------------------------------------------------------------


def test_an_intent_is_closed_by_its_outcome(ledger):
    with ledger.intent("bucket.made", "b", inputs=["x:1"], data={"a": 1}) as intent:
        intent.outputs.append("y:1")
        intent.data["b"] = 2
    before, after = ledger.get(1), ledger.get(2)
    assert (before.phase, before.data["id"], before.data["a"]) == ("intent", intent.id, 1)
    assert (after.phase, after.intent, after.outputs) == ("done", 1, ("y:1",))
    assert after.data == {"b": 2}
    assert ledger.open_intents("bucket.made") == []
    assert ledger.verify().ok


def test_a_failed_intent_says_why(ledger):
    with pytest.raises(OSError, match="odd"), ledger.intent("bucket.made", "b"):
        raise OSError("odd name \udcff")
    assert ledger.get(2).phase == "failed"
    assert ledger.get(2).data == {"error": "odd name \\udcff"}
    assert ledger.open_intents("bucket.made") == []
    assert ledger.verify().ok


def test_a_second_outcome_is_dropped(ledger):
    with ledger.intent("bucket.made", "b"):
        pass
    ledger.close_intent(1, "bucket.made", "b", phase="settled")
    assert ledger.verify().lines == 2


LEAVE_OPEN = """
import os, sys
from pathlib import Path
from madang.engines import Context
ledger = Context("test", Path(sys.argv[2]), metadata_url=sys.argv[1]).ledger
with ledger.intent("bucket.made", "b") as intent:
    print(intent.id, flush=True)
    sys.stdin.read()
"""


def test_the_intent_of_a_killed_process_is_listed_and_one_alive_is_not(context, ledger):
    command = [sys.executable, "-c", LEAVE_OPEN, context.metadata_url, str(context.root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        marker = process.stdout.readline().strip()
        assert ledger.open_intents("bucket.made") == []
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Not reaped yet, so its process id still exists.
        found = ledger.open_intents("bucket.made")
    assert [line.data["id"] for line in found] == [marker]
    assert ledger.open_intents("another.kind") == []
    assert ledger.verify().ok
    ledger.close_intent(found[0].seq, "bucket.made", "b", phase="settled")
    assert ledger.open_intents("bucket.made") == []
    assert ledger.verify().ok


# -- checking --------------------------------------------------------------------------------------


def test_an_empty_ledger_is_right(ledger):
    assert ledger.verify().ok
    assert ledger.verify().head == GENESIS.hex()


def flips(value):
    """Every value that differs from this one in one byte."""
    if isinstance(value, int):
        raw = struct.pack(">q", value)
        made = (raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(8))
        return [struct.unpack(">q", item)[0] for item in made]
    if isinstance(value, str):
        return [value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :] for at in range(len(value))]
    return [value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :] for at in range(len(value))]


KEYS = {
    "ledger": ["seq"],
    "ledger_edge": ["seq", "role", "ref"],
    "ledger_head": ["id"],
    "ledger_open": ["seq"],
}
COLUMNS = {
    "ledger": ["seq", "hash", "body", "project", "time", "actor", "kind", "subject"],
    "ledger_edge": ["seq", "role", "ref", "project"],
    "ledger_head": ["id", "seq", "hash"],
    "ledger_open": ["seq", "project", "kind", "owner"],
}


@pytest.mark.parametrize("table", COLUMNS)
def test_every_flipped_byte_is_found(small, table, monkeypatch):
    # The file's own check looks elsewhere, and takes most of the time of so many rounds.
    monkeypatch.setattr(type(small._database), "damage", lambda self: "")
    where = " AND ".join(f"{key} = ?" for key in KEYS[table])
    with small._database.transaction(write=False) as tx:
        rows = tx.execute(f"SELECT {', '.join(COLUMNS[table])} FROM {table}")
    flipped = 0
    for row in rows:
        stored = dict(zip(COLUMNS[table], row, strict=True))
        for column, value in stored.items():
            # Every byte on SQLite; each round trip of PostgreSQL costs, so there every fifth.
            step = 5 if "PostgreSQL" in type(small._database).__name__ else 1
            for changed in flips(value)[::step]:
                state = {**stored, column: changed}
                key, changed_key = ([s[k] for k in KEYS[table]] for s in (stored, state))
                change_one = f"UPDATE {table} SET {column} = ? WHERE {where}"
                try:
                    change(small, change_one, [changed, *key])
                except Exception as error:
                    assert "taken" in str(error), error  # it would be another line's number
                    continue
                found = small.verify()
                assert not found.ok, (table, column, value, changed)
                assert str(found.seq) in found.problem or "before line 1" in found.problem
                if table == "ledger" and column != "seq":
                    assert found.seq == stored["seq"]
                    assert found.problem.startswith(f"line {stored['seq']}: ")
                change(small, change_one, [value, *changed_key])
                flipped += 1
    assert small.verify().ok
    assert flipped > 8


@pytest.mark.parametrize("seq", [1, 2, 4])
def test_a_dropped_line_is_found(small, seq):
    change(small, "DELETE FROM ledger WHERE seq = ?", (seq,))
    found = small.verify()
    assert (found.ok, found.seq) == (False, seq)
    assert found.problem == f"line {seq} is missing; the next one stored is {seq + 1}"


def test_a_cut_tail_is_found(small):
    change(small, "DELETE FROM ledger WHERE seq = 5")
    change(small, "DELETE FROM ledger_open")
    found = small.verify()
    assert (found.ok, found.seq) == (False, 5)
    assert found.problem == "line 5 is missing: the chain was recorded to end at 5"


def test_a_dropped_end_is_found(small):
    change(small, "DELETE FROM ledger_head")
    assert small.verify().problem == "the record of the chain's end is gone"


def test_dropping_everything_but_the_end_is_found(small):
    change(small, "DELETE FROM ledger")
    assert small.verify().problem.startswith("line 1 is missing")


def insert(ledger, seq, previous, *, shift=0):
    line = {
        "actor": "user:eve", "data": {}, "inputs": [], "intent": None, "kind": "a.b",
        "outputs": [], "phase": "done", "prev": previous, "project": "test", "seq": seq,
        "subject": "x:1", "time": format_time(1_000_000),
    }  # fmt: skip
    body = canonical(line)
    row = (seq + shift, hashlib.sha256(body).digest(), body, "test", 1_000_000)
    change(
        ledger, "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, "user:eve", "a.b", "x:1"),
    )  # fmt: skip


def test_a_line_inserted_in_the_middle_is_found(small):
    change(small, "UPDATE ledger SET seq = seq + 1000 WHERE seq > 2")
    change(small, "UPDATE ledger SET seq = seq - 999 WHERE seq > 1000")
    insert(small, 3, small.get(2).hash)
    found = small.verify()
    assert (found.ok, found.seq) == (False, 4)
    assert found.problem == "line 4: it was written after another line than the one before it"


def test_a_line_appended_by_hand_is_found(small):
    insert(small, 6, small.get(5).hash)
    found = small.verify()
    assert (found.ok, found.seq) == (False, 7)
    assert "recorded to end at 5" in found.problem


def test_a_line_before_the_first_is_found(small):
    insert(small, 1, GENESIS.hex(), shift=-1)
    assert small.verify().problem == "1 lines are stored before line 1"


def test_swapped_lines_are_found(small):
    for seq, to in ((2, 1000), (3, 2), (1000, 3)):
        change(small, "UPDATE ledger SET seq = ? WHERE seq = ?", (to, seq))
    assert (small.verify().ok, small.verify().seq) == (False, 2)


def test_a_line_rewritten_with_a_fitting_hash_is_found(small):
    with small._database.transaction(write=False) as tx:
        line = json.loads(tx.execute("SELECT body FROM ledger WHERE seq = 3")[0][0])
    body = canonical({**line, "data": {"n": 2.5}})
    digest = hashlib.sha256(body).digest()
    change(small, "UPDATE ledger SET body = ?, hash = ? WHERE seq = 3", (body, digest))
    assert small.verify().problem.startswith("line 4: it was written after another line")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"no json", b'"\xff"', b""])
def test_bytes_that_are_no_line_are_found(small, body):
    digest = hashlib.sha256(body).digest()
    change(small, "UPDATE ledger SET body = ?, hash = ? WHERE seq = 3", (body, digest))
    found = small.verify()
    assert (found.ok, found.seq) == (False, 3)
    assert found.problem.startswith("line 3: not a line's JSON")


def test_edited_edges_are_found(small):
    stored = "INSERT INTO ledger_edge (seq, role, ref, project) VALUES (?, ?, ?, ?)"
    change(small, stored, (3, "in", "x:9", "test"))
    assert small.verify().problem == "line 3: its lineage edges differ from its bytes"
    change(small, "DELETE FROM ledger_edge WHERE seq = 3 AND ref = 'x:9'")
    change(small, stored, (99, "in", "x:9", "test"))
    assert small.verify().problem == "1 lineage edges belong to no line"
    change(small, "DELETE FROM ledger_edge WHERE seq = 99")
    assert small.verify().ok
    change(small, "DELETE FROM ledger_edge WHERE seq = 2 AND role = 'out' AND ref = 'x:é'")
    assert (small.verify().ok, small.verify().seq) == (False, 2)


def test_a_dropped_open_intent_is_found(small):
    change(small, "DELETE FROM ledger_open")
    assert small.verify().problem == "line 5: the list of open intents differs from the lines"


def test_progress_is_told(small):
    told = []
    assert small.verify(progress=lambda done, total: told.append((done, total))).ok
    assert told[-1] == (5, 5)


def test_damaged_bytes_in_the_file_are_named_not_raised(tmp_path):
    context = Context("test", tmp_path)
    for number in range(300):
        context.ledger.record("marker.kind", f"x:{number}", data={"text": "findable" * 20})
    path = context.metadata.path
    context.close()
    content = path.read_bytes()
    column = content.index(b"marker.kindx:")  # beside its neighbour only in the table's own row
    for change_at, value in ((column, 0xFF), (content.index(b"findable"), 0x00)):
        damaged = bytearray(content)
        damaged[change_at] = value
        path.write_bytes(damaged)
        found = context.ledger.verify()
        assert not found.ok
        assert found.seq
        assert f"line {found.seq}" in found.problem
        context.close()
    # In an index alone: every line is right, and still it is not as it was written.
    damaged = bytearray(content)
    at = content.index(b"marker.kind")
    while content[at - 200 : at].find(b"findable") >= 0:
        at = content.index(b"marker.kind", at + 1)
    damaged[at] ^= 1
    path.write_bytes(damaged)
    assert "ledger_by_kind; restore it from a backup" in context.ledger.verify().problem
    context.close()
    path.write_bytes(content)
    assert context.ledger.verify().ok
    context.close()


# -- many at once, and kill -9 ---------------------------------------------------------------------

APPEND = """
import sys
from pathlib import Path
from madang.engines import Context
context = Context("test", Path(sys.argv[2]), metadata_url=sys.argv[1])
for number in range(int(sys.argv[3])):
    ref = f"y:{number}"
    seq = context.ledger.record("a.b", f"x:{number}", inputs=[ref], data={"text": "x" * number})
    print(seq, flush=True)
"""


def appending(context, count):
    command = [sys.executable, "-c", APPEND, context.metadata_url, str(context.root), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_many_processes_make_one_unbroken_chain(context, ledger):
    processes = [appending(context, 40) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ledger.record("mine", f"x:{number}"), range(40)))
    told = [
        int(line) for process in processes for line in process.communicate(timeout=60)[0].split()
    ]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({*told}) == 160
    assert ledger.verify().ok
    assert ledger.verify().lines == 200


def test_acknowledged_lines_survive_kill_9(context, ledger):
    acknowledged, rounds = 0, 6
    for round in range(rounds):
        with appending(context, 100_000) as process:
            told = [int(process.stdout.readline()) for _ in range(3 + 7 * round)]
            os.kill(process.pid, signal.SIGKILL)
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        assert process.returncode == -signal.SIGKILL
        acknowledged = told[-1]
        found = ledger.verify()
        assert found.ok, found
        # The killed process may have committed a line that it could not tell.
        assert found.lines >= acknowledged
        assert ledger.get(acknowledged).kind == "a.b"
    assert ledger.record("a.b", "after") >= acknowledged + 1
