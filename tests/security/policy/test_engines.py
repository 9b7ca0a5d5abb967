"""Both engines keep the contract, and the OPA server's adapter what only it can break."""

from __future__ import annotations

import http.client

import pytest

from madang.engines import Context
from madang.errors import ConfigurationError, InvalidInputError, UnavailableError
from madang.security.policy import Bundle, connect
from madang.testing.policy import DECISION, PolicyContract, bundle


@pytest.fixture(params=["embedded", "opa"])
def engine(request, tmp_path):
    url = None if request.param == "embedded" else request.getfixturevalue("opa_server")
    opened = connect(url, Context("test", tmp_path))
    yield opened
    opened.load(Bundle({}))
    opened.close()


class TestEngines(PolicyContract):
    pass


@pytest.fixture
def context(tmp_path):
    return Context("test", tmp_path)


def test_after_a_restart_the_bundle_is_written_again(stopped_opa, context):
    engine = connect(stopped_opa.url, context)
    with stopped_opa.running():
        engine.load(bundle(DECISION))
        assert engine.decide("doing", {"name": "ann", "ages": []}).allow
    found = engine.decide("doing", {"name": "ann", "ages": []})
    assert (found.allow, [r.rule for r in found.reasons]) == (False, ["error"])
    assert "does not answer" in found.message
    assert not engine.health().ok
    with stopped_opa.running():
        assert engine.decide("doing", {"name": "ann", "ages": []}).allow
        assert not engine.decide("doing", {"name": "ann", "ages": [10]}).allow
    engine.close()


def test_another_bundle_on_the_server_does_not_decide(opa_server, context):
    mine, other = connect(opa_server, context), connect(opa_server, context)
    mine.load(bundle(DECISION))
    assert not mine.decide("doing", {"name": "ann", "ages": [10]}).allow
    other.load(bundle(DECISION.replace("> 9", "> 90")))
    assert other.decide("doing", {"name": "ann", "ages": [10]}).allow
    assert not mine.decide("doing", {"name": "ann", "ages": [10]}).allow
    mine.load(Bundle({}))
    mine.close()
    other.close()


def test_what_others_keep_on_the_server_stays(opa_server, context):
    port = int(opa_server.rpartition(":")[2])

    def send(method, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(method, "/v1/policies/theirs", body)
        status = connection.getresponse().status
        connection.close()
        return status

    assert send("PUT", "package theirs\n\nx := 1\n") == 200
    engine = connect(opa_server, context)
    engine.load(bundle(DECISION))
    engine.load(Bundle({}))
    engine.close()
    assert send("GET") == 200
    assert send("DELETE") == 200


def test_a_server_that_is_not_there(context, stopped_opa):
    engine = connect(stopped_opa.url, context)
    with pytest.raises(UnavailableError, match="the OPA server at"):
        engine.load(bundle(DECISION))


def test_the_embedded_engine_refuses_what_it_would_do_otherwise(context):
    engine = connect(None, context)
    for builtin in ("regex.match(`a`, input.x)", "time.now_ns() > 1", "http.send({})", "print(1)"):
        text = f"package madang.doing\n\nallow if {builtin}\n"
        name = builtin.partition("(")[0]
        with pytest.raises(InvalidInputError, match=rf"doing.rego:3: the builtin {name} can't be"):
            engine.load(bundle(text))


def test_only_the_opa_server_has_regular_expressions(opa_server, context):
    engine = connect(opa_server, context)
    engine.load(bundle("package madang.doing\n\nx if regex.match(`^a+$`, input.x)\n"))
    assert engine.evaluate("madang.doing.x", {"x": "aaa"}) == (True, True)
    assert engine.evaluate("madang.doing.x", {"x": "b"}) == (False, None)
    engine.load(Bundle({}))
    engine.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("opa://", "needs the server's host"),
        ("opa://h?tls=maybe", "tls is true or false"),
        ("opa://h?timeout_seconds=0", "above 0 and up to 60"),
        ("opa://:${secret:x}@h", "can't be used here"),
    ],
)
def test_a_url_that_cannot_be_used(context, url, message):
    with pytest.raises(ConfigurationError, match=message):
        connect(url, context)
