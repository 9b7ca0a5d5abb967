"""Each command: what it prints, for people and as JSON, and how it says no."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from tests.cli.conftest import command

import madang
from madang.cli import COMMANDS
from madang.data.collection import events
from madang.platform.logs import LogRecord

CONTRACT = """
dataset: trips
columns:
  - {name: id, type: int64, nullable: false}
checks:
  - {kind: range, column: id, severity: quarantine, arguments: {min: 0}}
"""


@pytest.fixture
def opened(project):
    with madang.open(project) as stack:
        yield stack


def lines(text):
    return [line.split("\t") for line in text.splitlines()]


# -- the frame -------------------------------------------------------------------------------------


def test_a_process_of_its_own(tmp_path):
    done = command("init", "new", cwd=tmp_path)
    assert done.returncode == 0
    assert "made project 'new'" in done.stdout
    assert "next: madang doctor" in done.stdout
    done = command("--project", "new", "version", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["madang"] == madang.__version__
    done = command("--project", "new", "data", "query", "SELECT 1 FROM nothing", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("madang: ")
    assert done.stderr.count("\n") == 1
    done = command("--debug", "runs", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigurationError: no madang.toml in" in done.stderr


def test_help_lists_every_command_and_each_has_its_own(call):
    listed = call("--help").out
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        text = call(name, "--help").out
        assert text.startswith(f"Usage: madang {name}")
    assert call("-h").out == listed


def test_the_table_of_commands_is_sorted():
    assert list(COMMANDS) == sorted(COMMANDS)


def test_wrong_usage_is_exit_code_2(call):
    assert "No such command 'nothing'" in call("nothing", code=2).err
    assert "No such option" in call("version", "--no", code=2).err
    assert "Missing argument" in call("run", code=2).err


def test_outside_of_a_project(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert "no madang.toml" in refused("runs")
    assert "run: madang init" in refused("--project", tmp_path / "nowhere", "runs")


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    from madang.cli import main
    from madang.errors import ConfigurationError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        main(["--debug", "runs"])


def test_environments(project, call, refused):
    (project / "madang.toml").write_text(
        '[project]\nname = "shop"\n[env.other.stack]\nstorage = "nothing://x"\n'
    )
    call("data", "list")
    assert "no engine 'nothing'" in refused("--env", "other", "data", "list")
    assert "has no environment 'missing'; it has: other" in refused("--env", "missing", "runs")


# -- project ---------------------------------------------------------------------------------------


def test_init(tmp_path, monkeypatch, call, refused):
    monkeypatch.chdir(tmp_path)
    assert "made project 'named'" in call("init", "a", "--name", "named").out
    assert (tmp_path / "a" / "madang.toml").exists()
    assert "already is a project" in refused("init", "a")
    assert "a project's name has letters" in refused("init", "b", "--name", "ä/ö")


def test_doctor(project, call):
    boxes = call("doctor", "--json").json
    assert [box["box"] for box in boxes] == ["metadata", *madang.stack.COMPONENTS.values()]
    assert all(box["ok"] for box in boxes), boxes
    table = lines(call("doctor").out)
    assert table[0] == ["box", "engine", "state", "detail"]
    assert {row[2] for row in table[1:]} == {"ok"}


def test_doctor_shows_a_fault_and_goes_on(project, call):
    (project / "madang.toml").write_text(
        '[project]\nname = "shop"\n[stack]\nstorage = "s3://b/p?endpoint=http://127.0.0.1:1&access_key_id=a&secret_access_key=b"\n'
    )
    done = call("doctor", code=1)
    faults = [row for row in lines(done.out) if row[2] == "FAULT"]
    assert faults[0][0] == "data.storage"
    assert ["platform.logs", "local", "ok"] in [row[:3] for row in lines(done.out)]


def test_version(call):
    assert call("version").out.startswith(f"madang {madang.__version__} (Python 3.")


# -- data ------------------------------------------------------------------------------------------


def test_data_list_and_query(opened, call, refused):
    assert lines(call("data", "list").out) == [["dataset", "version", "by", "written (UTC)"]]
    opened.storage.write("t", pa.table({"x": [1, 2, 3]}))
    assert lines(call("data", "list").out)[1][:3] == ["t", "0", "append"]
    (found,) = call("data", "list", "--json").json
    assert (found["name"], found["version"]["version"]) == ("t", 0)
    done = call("data", "query", "SELECT x, x * 2 AS y FROM t ORDER BY x", "--limit", "2")
    assert lines(done.out) == [["x", "y"], ["1", "2"], ["2", "4"]]
    assert done.err == "… 1 more rows\n"
    assert call("data", "query", "SELECT sum(x) AS s FROM t", "--json").json == [{"s": 6}]
    assert "nothing" in refused("data", "query", "SELECT 1 FROM nothing")


def test_data_history_and_changes(opened, call, refused):
    opened.storage.write("t", pa.table({"x": [1, 2, 3]}))
    assert "at version 1" in call("data", "delete", "t", "x = 2").out
    assert "at version 2" in call("data", "evolve", "t", "note:string", "at:timestamp").out
    opened.storage.write("t", pa.table({"x": [4]}))
    assert "at version 4" in call("data", "compact", "t").out
    assert "'y > 1' is no condition" in call("data", "delete", "t", "y > 1", code=1).err
    assert "'nothing'" in refused("data", "evolve", "t", "z:nothing")
    assert "'x' is int64, and int32 can't hold it" in refused("data", "evolve", "t", "x:int32")
    call("data", "tag", "t", "1", "v1")
    assert "is at version 1" in refused("data", "tag", "t", "2", "v1")
    assert lines(call("data", "history", "t").out)[2][::3] == ["1", "v1"]
    (newest,) = call("data", "history", "t", "--limit", "1", "--json").json
    assert (newest["version"]["operation"], newest["tags"]) == ("compact", [])
    planned = call("data", "retain", "t", "--keep", "0s", "--grace", "0s", "--dry-run").out
    assert "dropped: 0, 2, 3\n" in planned
    assert "kept by tags and models: 1\n" in planned
    assert "would delete 2 files" in planned
    done = call("data", "retain", "t", "--keep", "0s", "--grace", "0s", "--json").json
    assert (done["swept"], done["files"]) == ([0, 2, 3], 2)
    call("data", "untag", "t", "v1")
    assert opened.storage.tags("t") == {}
    assert "no duration" in call("data", "retain", "t", "--keep", "long", code=2).err


def test_data_objects(opened, call, refused):
    opened.storage.put("i/a", b"xyz", content_type="image/png", metadata={"label": "cat"})
    opened.storage.put("i/b", b"")
    found = lines(call("data", "objects", "i/").out)
    assert [row[0] for row in found] == ["key", "i/a", "i/b"]
    assert found[1][3:] == ["image/png", "label=cat"]
    (one,) = call("data", "objects", "--where", "metadata['label'] = 'cat'", "--json").json
    assert (one["key"], one["metadata"]) == ("i/a", {"label": "cat"})
    assert len(call("data", "objects", "--limit", "1", "--json").json) == 1
    assert "is no condition" in call("data", "objects", "--where", "no", code=1).err


def test_a_limit_is_one_or_more(call):
    assert (
        "is not in the range x>=1" in call("data", "query", "SELECT 1", "--limit", -1, code=2).err
    )


def test_data_infer_and_validate(opened, project, call, refused, tmp_path):
    opened.storage.write("t", pa.table({"x": [1, 2], "w": ["a", "b"]}))
    assert "contracts/t.yaml" in call("data", "infer", "t").out
    assert "dataset: t" in (project / "contracts" / "t.yaml").read_text()
    assert "contracts/t.yaml" in refused("data", "infer", "t")
    page = tmp_path / "report.html"
    done = call("data", "validate", "t", "--html", page)
    assert "2 rows" in done.out
    assert page.read_text().lstrip().lower().startswith("<!doctype html")
    assert call("data", "validate", "t", "--json").json["rows"] == 2
    opened.storage.write("t", pa.table({"x": [None], "w": ["b"]}, pa.schema([("x", pa.int64()), ("w", pa.string())])))  # fmt: skip
    call("data", "validate", "t", code=1)
    call("data", "validate", "t", "--version", "0")
    assert "contracts/none.yaml" in refused("data", "validate", "none")
    away = tmp_path / "nowhere" / "report.html"
    assert "there is no folder" in refused("data", "validate", "t", "--html", away)
    (tmp_path / "taken.html").mkdir()
    call("data", "validate", "t", "--html", tmp_path / "taken.html", code=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("n,é\n1,2\n".encode("latin-1"), "it must be UTF-8"),
        ("n,m\n1,2\n".encode("utf-16"), "it must be UTF-8"),
        ("n,m\n1,2\n".encode("utf-16-le"), "is it UTF-16?"),
        (b"n,m,n\n1,2,3\n", "the header has a name twice: n"),
    ],
)
def test_a_sample_whose_header_can_not_be_read_is_refused(
    project, refused, tmp_path, content, words
):
    sample = tmp_path / "sample.csv"
    sample.write_bytes(content)
    assert words in refused("data", "infer", "t", "--file", sample)
    assert not (project / "contracts" / "t.yaml").exists()


def test_data_infer_from_a_file(project, call, refused, tmp_path):
    (tmp_path / "s.csv").write_text("when,n\n2026-01-01,1\n2026-01-02,2\n")
    call("data", "infer", "csv", "--file", tmp_path / "s.csv")
    contract = project / "contracts" / "csv.yaml"
    assert "type: date" in contract.read_text()
    contract.write_text("mine")
    assert "--overwrite" in refused("data", "infer", "csv", "--file", tmp_path / "s.csv")
    assert contract.read_text() == "mine"
    call("data", "infer", "csv", "--file", tmp_path / "s.csv", "--overwrite")
    assert "type: date" in contract.read_text()


def test_a_sample_that_is_no_table_is_one_line(project, refused, tmp_path):
    for name, kind in (("empty.csv", "CSV"), ("wrong.parquet", "Parquet")):
        (tmp_path / name).write_text("" if kind == "CSV" else "no such thing")
        said = refused("data", "infer", "t", "--file", tmp_path / name)
        assert f"{name} can't be read as {kind}: " in said


def test_data_ingest(opened, project, call, refused):
    opened.collection.create_topic("trips")
    opened.collection.append("trips", events([b'{"id": 1}', b'{"id": -1}', b"?"]))
    assert "contracts/trips.yaml" in refused("data", "ingest", "trips")
    (project / "contracts" / "trips.yaml").write_text(CONTRACT)
    done = call("data", "ingest", "trips")
    assert "3 events: 1 valid, 2 quarantined" in done.out
    assert "1 rows: id: range" in done.out
    found = call("data", "ingest", "trips", "--json").json
    assert (found["events"], found["versions"]) == (0, {})
    assert "nowhere" in refused("data", "ingest", "nowhere", "--dataset", "trips")


def test_data_ingest_a_file_and_list_it(opened, project, call, refused):
    (project / "contracts" / "trips.yaml").write_text(CONTRACT)
    (project / "rows.jsonl").write_bytes(b'{"id": 1}\n?\n')
    url = "file:///rows.jsonl?settle_seconds=0"
    assert "say into which dataset" in refused("data", "ingest", url)
    done = call("data", "ingest", url, "--dataset", "trips")
    assert "2 events: 1 valid, 1 quarantined" in done.out
    assert "rows.jsonl: at 12" in done.out
    (found,) = call("data", "ingestions", "--json").json
    assert (found["source"], found["dataset"], found["events"]) == ("file:rows.jsonl", "trips", 2)
    assert found["parts"][0]["part"] == "rows.jsonl"
    listed = call("data", "ingestions").out.splitlines()
    assert listed[0].split("\t") == [
        "source", "dataset", "part", "position", "lag", "newest", "landed", "error",
    ]  # fmt: skip
    assert listed[1].split("\t")[:5] == ["file:rows.jsonl", "trips", "rows.jsonl", "12", "-"]


# -- pipelines -------------------------------------------------------------------------------------


def test_run_and_runs(project, call, refused):
    done = call("run", "flow", "-p", "x=5", "--reason", "a test")
    assert "flow: succeeded" in done.out
    assert "result = 115" in done.out
    assert "a test" in done.out
    run = call("run", "pipelines/flow.py:flow", "-p", "x=5", "--json").json
    assert [step["status"] for step in run["steps"]] == ["CACHED", "CACHED"]
    listed = call("runs", "--json").json
    assert listed[0]["id"] == run["id"]
    assert lines(call("runs", "--limit", "1").out)[1][:3] == [run["id"], "flow", "SUCCEEDED"]
    assert "add_2\tCACHED" in call("runs", run["id"][:20]).out
    assert "there is no pipeline 'none'; there is: flow, fragile" in refused("run", "none")
    assert "has no parameter z" in refused("run", "flow", "-p", "z=1")
    assert "Expected `int`" in refused("run", "flow", "-p", "x=many")
    assert "write NAME=VALUE" in call("run", "flow", "-p", "x", code=2).err
    assert "32 hex digits" in refused("run", "flow", "--run-id", "short")
    assert "0123" in refused("runs", "0123")


def test_a_run_that_fails_and_is_resumed(project, call, refused):
    done = call("run", "fragile", "-p", "path=there", code=1)
    assert "fragile: failed" in done.out
    assert "step broken failed: FileNotFoundError" in done.err
    (run,) = call("runs", "--json").json
    (project / "there").write_text("now it is")
    assert "result = now it is" in call("resume", run["id"]).out
    assert "succeeded" in call("resume", run["id"]).out
    assert "0123" in refused("resume", "0123")


# -- models and endpoints --------------------------------------------------------------------------


def test_models(opened, call, refused):
    from madang.testing.serving import register

    assert lines(call("models").out)[0][:2] == ["model", "version"]
    register(opened, "sums", 1.0)
    register(opened, "sums", 2.0, evaluation={"mae": 0.0})
    assert call("models", "alias", "sums", "champion", "2").out == "sums@champion is version 2\n"
    rows = lines(call("models").out)[1:]
    assert [row[:3] for row in rows] == [["sums", "1", ""], ["sums", "2", "champion"]]
    assert [v["version"] for v in call("models", "--name", "sums", "--json").json] == [1, 2]
    assert "9" in refused("models", "alias", "sums", "champion", "9")
    assert "none" in refused("models", "--name", "none")


def test_deploy_without_workers_and_predict_says_what_to_do(opened, call, refused):
    from madang.testing.serving import register

    register(opened, "sums", 1.0)
    done = call("deploy", "adder", "sums@1")
    assert "endpoint adder, revision 1: sums@1 (weight 1)" in done.out
    assert "start them: madang up" in done.out
    assert "madang up" in refused("predict", "adder", "--data", "[[1, 2, 3]]")
    register(opened, "sums", 2.0)
    done = call("deploy", "adder", "sums@1=0.3", "sums=0.7", "--json")
    assert [arm["weight"] for arm in done.json["endpoint"]["arms"]] == [0.3, 0.7]
    assert "write MODEL" in call("deploy", "adder", "@", code=2).err
    assert "none" in refused("deploy", "adder", "none")
    assert "give --data JSON or --file" in call("predict", "adder", code=2).err
    assert "the data is not JSON" in refused("predict", "adder", "--data", "{")
    assert "'addre'; endpoints: adder" in refused("undeploy", "addre")
    assert call("undeploy", "adder").out == "endpoint adder is gone\n"


def test_deploy_takes_graphs_from_a_file_and_transformers_from_options(
    opened, call, refused, project
):
    from madang.testing.serving import register

    register(opened, "sums", 1.0)
    register(opened, "sums", 2.0)
    file = project / "endpoint.yaml"
    file.write_text(
        "arms:\n- {model: pair, version: 5, graph: {ensemble: [sums@1, sums]}}\nlog: false\n"
    )
    made = call("deploy", "adder", "--file", str(file), "--json").json["endpoint"]
    assert (made["log"], made["arms"][0]["version"]) == (False, 5)
    members = made["arms"][0]["graph"]["members"]
    assert [member["version"] for member in members] == [1, 2]
    (project / "clean.py").write_text("def clean(inputs):\n    return inputs\n")
    made = call("deploy", "adder", "sums", "--before", "clean.py:clean", "--json").json["endpoint"]
    assert made["arms"][0]["before"]["function"] == "clean.py:clean"
    assert "no function 'x'" in refused("deploy", "adder", "sums", "--after", "clean.py:x")
    assert "nothing" in refused("deploy", "adder", "sums", "--feature", "nothing")
    assert "give versions" in call("deploy", "adder", code=2).err
    assert "give versions" in call("deploy", "adder", "sums", "--file", str(file), code=2).err
    for text in ("arms: 3", "[1", "arms: []\nlogs: true", "arms: []\nlog: 3"):
        file.write_text(text)
        assert "endpoint.yaml" in refused("deploy", "adder", "--file", str(file))
    file.write_text("arms: [{model: pair, version: 1, graph: {ensemble: [sums@9, sums]}}]")
    assert "9" in refused("deploy", "adder", "--file", str(file))
    call("undeploy", "adder")


# -- the record ------------------------------------------------------------------------------------


def test_ledger(opened, call, project):
    opened.storage.write("t", pa.table({"x": [1]}))
    assert call("ledger", "verify").out.startswith("ok: ")
    assert call("ledger", "verify", "--json").json["ok"] is True
    shown = lines(call("ledger", "show", "--kind", "dataset.*").out)
    assert shown[0] == ["line", "time (UTC)", "actor", "kind", "phase", "subject"]
    assert {row[5] for row in shown[1:]} == {"dataset:t"}
    assert len(call("ledger", "show", "--limit", "1", "--json").json) == 1
    (found,) = call("ledger", "origin", "dataset:t@0", "--json").json
    assert found["kind"] == "dataset.write"
    assert lines(call("ledger", "origin", "dataset:t@0").out)[1][3] == "dataset:t"


def test_a_broken_ledger_is_found(opened, call, project):
    import sqlite3

    opened.storage.write("t", pa.table({"x": [1]}))
    opened.close()
    database = sqlite3.connect(project / ".madang" / "madang.db")
    triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        database.execute(f'DROP TRIGGER "{name}"')
    database.execute("UPDATE ledger SET body = replace(body, 'dataset', 'dataxet') WHERE seq = 1")
    database.commit()
    database.close()
    done = call("ledger", "verify", code=1)
    assert done.out.startswith("BROKEN at line 1: ")
    assert call("ledger", "verify", "--json", code=1).json["seq"] == 1


# -- users and secrets -----------------------------------------------------------------------------


def test_users_and_tokens(opened, call, refused):
    assert call("user", "add", "ann", "--role", "viewer", "--role", "operator").out == (
        "made user ann: viewer, operator\n"
    )
    token = call("user", "token", "ann", "--label", "laptop", "--days", "1").out.strip()
    assert opened.identity.authenticate(token=token).name == "ann"
    (listed,) = call("user", "tokens", "ann", "--json").json
    assert token not in json.dumps(listed)
    assert lines(call("user", "tokens").out)[1][:3] == [listed["id"], "ann", "laptop"]
    assert "not valid any more" in call("user", "revoke", listed["id"]).out
    assert call("user", "tokens", "--json").json == []
    assert lines(call("user", "list").out)[1] == ["ann", "viewer, operator", "yes"]
    assert "no access any more" in call("user", "deactivate", "ann").out
    assert [u["active"] for u in call("user", "list", "--json").json] == [False]
    assert "found 'king'" in refused("user", "add", "bob", "--role", "king")
    assert "nobody" in refused("user", "token", "nobody")


def test_a_token_that_did_not_end_is_not_said_to_have_ended(opened, call, refused):
    call("user", "add", "ann", "--role", "viewer")
    token = call("user", "token", "ann").out.strip()
    said = refused("user", "revoke", token)
    assert "by its id" in said
    assert token not in said
    assert opened.identity.authenticate(token=token).name == "ann"
    assert "no valid token has the id 'wrong'; see: madang user tokens" in refused(
        "user", "revoke", "wrong"
    )


def test_secrets(opened, call, refused, project):
    value = "correct-horse-battery"
    assert call("secret", "set", "db", "--value", value).out == "secret db, version 1\n"
    listed = call("secret", "list")
    assert lines(listed.out)[1][:2] == ["db", "1"]
    assert value not in listed.out
    assert [s["name"] for s in call("secret", "list", "--json").json] == ["db"]
    assert opened.secrets.get("db") == value
    assert "'bd'; there are: db" in refused("secret", "delete", "bd")
    assert call("secret", "delete", "db").out == "secret db is gone\n"
    assert lines(call("secret", "list").out)[1:] == []
    done = command("secret", "set", "typed", cwd=project, input="typed-in\n")
    assert done.returncode == 0
    assert "typed-in" not in done.stdout + done.stderr
    assert opened.secrets.get("typed") == "typed-in"


def test_settings(call, opened):
    assert call("config", "set", "limits/rate", "5").out == "limits/rate = 5, version 1\n"
    call("config", "set", "limits/name", "plain text")
    assert call("config", "get", "limits/name").out == '"plain text"\n'
    listed = json.loads(call("config", "list", "limits", "--json").out)
    assert [(s["key"], s["value"]) for s in listed] == [
        ("limits/name", "plain text"),
        ("limits/rate", 5),
    ]
    call("config", "delete", "limits/rate")
    assert "limits/rate" not in call("config", "list").out
    assert opened.configuration.get("limits/rate", version=1).value == 5


def test_logs(call, opened):
    opened.logs.append([LogRecord(1, "ERROR", "app", "the pump failed", {"run": "r1"})])
    found = json.loads(call("logs", "pump", "--run", "r1", "--json").out)
    assert [r["message"] for r in found] == ["the pump failed"]
    assert call("logs", "pump", "--run", "r2", "--json").out.strip() == "[]"
    assert "run=r1\tthe pump failed" in call("logs", "--level", "ERROR").out


def test_feature_views(call, opened):
    (opened.root / "features" / "prices.py").write_text(
        "from madang.data.features import FeatureView\n"
        "v = FeatureView('prices', ('item',), 'at', ('price',), sql='SELECT * FROM sold')\n"
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    opened.storage.write("sold", pa.table({"item": ["tea"], "at": [at], "price": [3.5]}))
    assert lines(call("features", "list").out)[1][:3] == ["prices", "item", "price"]
    said = call("features", "materialize", "prices").out
    assert said == "prices: 1 entities are online, from all 1 rows: nothing was online\n"
    assert call("features", "materialize", "prices").out == "prices: nothing is new\n"
    assert opened.features.read(["prices"], [{"item": "tea"}])[0].values == {"price": 3.5}


def test_feature_views_are_found_shown_and_judged(call, opened):
    (opened.root / "features" / "paid.py").write_text(
        "from madang.data.features import FeatureView\n"
        "v = FeatureView('paid', ('item',), 'at', ('price',), sql='SELECT * FROM sold', "
        "owner='ann', description='What things cost', descriptions={'price': 'in Euro'})\n"
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=number // 1000) for number in range(2000)]
    prices = [float(number % 100 + 90 * (number // 1000)) for number in range(2000)]
    opened.storage.write("sold", pa.table({"item": ["tea"] * 2000, "at": days, "price": prices}))
    assert lines(call("features", "list").out)[1][:4] == ["paid", "item", "price", "ann"]
    assert lines(call("features", "search", "cost", "EURO").out)[1][0] == "paid"
    assert len(lines(call("features", "search", "nothing").out)) == 1
    assert len(lines(call("features", "search", "--owner", "bob").out)) == 1
    shown = dict(line[:2] for line in lines(call("features", "show", "paid").out))
    assert shown["sources"] == "dataset:sold"
    assert shown["feature price"] == "in Euro"
    assert shown["online"] == "never materialized"
    assert json.loads(call("features", "show", "paid", "--json").out)["name"] == "paid"
    told = lines(call("features", "stats", "paid", "--until", "2026-01-02").out)
    assert told[1][:3] == ["price", "float64", "0"]
    moved = call("features", "drift", "paid", "--before", "2026-01-02T09:00:00+09:00", code=1)
    assert lines(moved.out)[1][-1] == "drifted"
    same = call("features", "drift", "paid", "--version", "sold=0", "--json")
    assert json.loads(same.out)["drifted"] == []
    call("features", "drift", "paid", "--version", "sold", code=2)
    call("features", "drift", "paid", code=2)
    wrong = call("features", "drift", "paid", "--before", "soon", code=2).err
    assert "'soon' is no time such as 2026-01-31 or 2026-01-31T12:00:00Z" in wrong
