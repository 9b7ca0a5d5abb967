"""HTTP servers: pages, cursors, changes, and servers that misbehave."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.data.ingestion.conftest import ids, trip, write_contract
from tests.data.ingestion.test_landing import Stop, stop_at

from madang.data.ingestion import https, ingestions
from madang.errors import (
    ConfigurationError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from madang.loop import QUARANTINE, ingest


class Server(BaseHTTPRequestHandler):
    """Answers by `answers`: path to a function of (query, headers) giving (status, headers, body)."""

    answers: dict
    asked: list
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.asked.append((parts.path, query, dict(self.headers)))
        status, headers, body = self.answers[parts.path](query, self.headers)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(stack, monkeypatch):
    write_contract(stack.root)
    monkeypatch.setattr(https, "_LONGEST_PAUSE_SECONDS", 0.01)
    handler = type("Site", (Server,), {"answers": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def rows(*numbers, minutes=1.0):
    return [{"id": n, "minutes": minutes} for n in numbers]


def page(document, status=200, **headers):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return status, {"Content-Type": "application/json", **named}, body


def test_an_array_and_its_changes(stack, site):
    content = [*rows(1, 2), {"id": "x"}, *rows(3, minutes=99.0)]
    site.answers["/all"] = lambda query, headers: page(content)
    url = f"{site.url}/all?kind=a"
    done = ingest(stack, url, "trips")
    assert (done.valid, done.quarantined) == (2, 2)
    assert ingest(stack, url, "trips").events == 0  # the same bytes
    content = rows(7)
    assert ingest(stack, url, "trips").events == 1
    assert site.asked[0][1] == {"kind": "a"}
    assert ids(stack) == [1, 2, 7]
    found = stack.storage.read("trips" + QUARANTINE).read_all()
    assert found["offset"].to_pylist() == [3, 4]


@pytest.mark.parametrize(
    ("name", "asks", "value"),
    [("ETag", "If-None-Match", '"v1"'),
     ("Last-Modified", "If-Modified-Since", "Tue, 01 Jan 2013 05:00:00 GMT")],
)  # fmt: skip
def test_what_has_not_changed_is_not_sent(stack, site, name, asks, value):
    def answer(query, headers):
        if headers.get(asks) == value:
            return 304, {}, b""
        return page(rows(1), **{name: value})

    site.answers["/all"] = answer
    assert ingest(stack, f"{site.url}/all", "trips").events == 1
    assert ingest(stack, f"{site.url}/all", "trips").events == 0
    assert site.asked[1][2][asks] == value


def paged(query, headers):
    number = int(query.get("page", 0))
    following = {"next": f"/pages?page={number + 1}"} if number < 3 else {}
    return page({"data": {"rows": rows(2 * number, 2 * number + 1)}, "links": following})


def test_pages_by_next_link(stack, site):
    site.answers["/pages"] = paged
    url = f"{site.url}/pages#items=data.rows&next=links.next"
    assert ingest(stack, url, "trips", batch_events=1).events == 8
    assert ids(stack) == list(range(8))


def test_pages_by_link_header(stack, site):
    def answer(query, headers):
        number = int(query.get("page", 0))
        more = {"Link": f'<{site.url}/pages?page={number + 1}>; rel="next"'} if number < 2 else {}
        return page(rows(number), **more)

    site.answers["/pages"] = answer
    assert ingest(stack, f"{site.url}/pages", "trips").events == 3


def test_an_interrupted_read_goes_on_at_its_page(stack, site):
    site.answers["/pages"] = paged
    url = f"{site.url}/pages#items=data.rows&next=links.next"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stack.storage.engine, "write", 2)
        with pytest.raises(Stop):
            ingest(stack, url, "trips", batch_events=2)
    assert ids(stack) == [0, 1, 2, 3]
    site.asked.clear()
    assert ingest(stack, url, "trips", batch_events=2).events == 4
    assert [query for _, query, _ in site.asked] == [{"page": "2"}, {"page": "3"}]
    assert ids(stack) == list(range(8))


def test_a_cursor_goes_on_behind_the_last_page(stack, site):
    there = list(range(5))

    def answer(query, headers):
        after = int(query.get("since", -1))
        found = [n for n in there if n > after][:2]
        more = found[-1] if [n for n in there if found and n > found[-1]] else None
        return page({"rows": rows(*found), "cursor": more})

    site.answers["/feed"] = answer
    url = f"{site.url}/feed?kind=a#items=rows&cursor=since&cursor_path=cursor"
    assert ingest(stack, url, "trips").events == 5
    assert ingest(stack, url, "trips").events == 0
    there += [5, 6, 7, 8]
    assert ingest(stack, url, "trips").events == 4
    assert ids(stack) == list(range(9))
    assert site.asked[-1][1]["kind"] == "a"


def test_a_cursor_that_is_always_given(stack, site):
    there = list(range(3))

    def answer(query, headers):
        since = int(query.get("since", 0))
        found = there[since : since + 2]
        return page({"rows": rows(*found), "cursor": since + len(found)})

    site.answers["/feed"] = answer
    url = f"{site.url}/feed#items=rows&cursor=since&cursor_path=cursor"
    assert ingest(stack, url, "trips").events == 3
    assert ingest(stack, url, "trips").events == 0
    there += [3, 4]
    assert ingest(stack, url, "trips").events == 2
    assert ids(stack) == list(range(5))


def test_json_lines_and_csv(stack, site):
    body = trip(1) + b"\n?\n" + trip(2)
    site.answers["/lines"] = lambda q, h: (200, {"Content-Type": "application/x-ndjson"}, body)
    site.answers["/csv"] = lambda q, h: (200, {"Content-Type": "text/csv; charset=utf-8"}, b"id,minutes\n3,1\nx,1\n")  # fmt: skip
    assert ingest(stack, f"{site.url}/lines", "trips").valid == 2
    assert ingest(stack, f"{site.url}/csv", "trips").quarantined == 1
    assert ids(stack) == [1, 2, 3]


def test_a_busy_server_is_asked_again(stack, site):
    answers = iter([(503, {"Retry-After": "1"}, b""), (429, {}, b""), page(rows(1))])
    site.answers["/all"] = lambda q, h: next(answers)
    assert ingest(stack, f"{site.url}/all", "trips").events == 1
    site.answers["/down"] = lambda q, h: (500, {}, b"")
    with pytest.raises(UnavailableError, match="did not answer in 3 tries: status 500"):
        ingest(stack, f"{site.url}/down#retries=2", "trips")
    assert "UnavailableError" in next(i.error for i in ingestions(stack) if "/down" in i.source)


def test_a_token(stack, site, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    site.answers["/all"] = lambda q, h: page(rows(1))
    ingest(stack, f"{site.url}/all?key=${{env:TOKEN}}#bearer=${{env:TOKEN}}", "trips")
    assert site.asked[0][1] == {"key": "s3cret"}
    assert site.asked[0][2]["Authorization"] == "Bearer s3cret"
    assert not any("s3cret" in str(line) for line in stack.ledger.lines())
    assert "s3cret" not in str(ingestions(stack))


def test_no_password_is_kept_with_a_position(stack, site, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret&x")

    def answer(query, headers):
        number = int(query.get("page", 0))
        more = {"n": f"/all?key=s3cret%26x&page={number + 1}"} if number < 2 else {}
        return page({"r": rows(number), **more})

    site.answers["/all"] = answer
    url = site.url.replace("//", "//me:${env:TOKEN}@")
    ingest(stack, f"{url}/all?key=${{env:TOKEN}}#items=r&next=n", "trips", batch_events=1)
    assert ids(stack) == [0, 1, 2]
    assert [query["key"] for _, query, _ in site.asked] == ["s3cret&x"] * 3
    assert {headers["Authorization"] for *_, headers in site.asked} == {"Basic bWU6czNjcmV0Jng="}
    kept = str(stack.storage.versions("trips")), str(ingestions(stack))
    assert "page=2" in kept[0]
    assert not any("s3cret" in text for text in (*kept, str(list(stack.ledger.lines()))))


@pytest.mark.parametrize(
    ("answer", "options", "error", "words"),
    [
        (lambda: page({"error": "x"}), "", InvalidInputError, "the answer is no JSON array"),
        (lambda: page({"a": 1}), "items=b.c", InvalidInputError, "there is no array at 'b.c'"),
        (lambda: page(b"\xff"), "", InvalidInputError, "the answer is no JSON array"),
        (lambda: (200, {"Content-Type": "text/html"}, b"<p>"), "", InvalidInputError, "the answer is text/html"),
        (lambda: (404, {}, b""), "", NotFoundError, "the server says 404"),
        (lambda: (403, {}, b"no token"), "", InvalidInputError, "status 403: no token"),
        (lambda: (302, {"Location": "http://127.0.0.1:1/"}, b""), "", InvalidInputError, "sends us elsewhere"),
        (lambda: page(rows(*range(100))), "max_bytes=100", InvalidInputError, "more than 100 bytes"),
        (lambda: page({"r": rows(1), "n": "http://127.0.0.1:1/x"}), "items=r&next=n", InvalidInputError, "is on another server"),
        (lambda: (200, {"Content-Type": "text/csv"}, b"id\n1\n"), "cursor=a&cursor_path=b", InvalidInputError, "are paths in JSON"),
        (lambda: page([]), "colour=red", ConfigurationError, "has no option #colour"),
        (lambda: page([]), "format=xml", ConfigurationError, "format is json, jsonl or csv"),
        (lambda: page([]), "cursor=since", ConfigurationError, "needs cursor_path"),
        (lambda: page([]), "retries=x", ConfigurationError, "#retries must be a number"),
    ],
)  # fmt: skip
def test_answers_that_make_no_sense(stack, site, answer, options, error, words):
    site.answers["/x"] = lambda query, headers: answer()
    with pytest.raises(error) as told:
        ingest(stack, f"{site.url}/x#{options}", "trips")
    assert words in str(told.value)


def test_pages_without_end(stack, site):
    site.answers["/x"] = lambda q, h: page({"r": rows(int(q.get("p", 0))), "n": f"/x?p={int(q.get('p', 0)) + 1}"})  # fmt: skip
    with pytest.raises(InvalidInputError, match="more than 3 pages; what was read has been taken"):
        ingest(stack, f"{site.url}/x#items=r&next=n&pages=3", "trips")
    assert ids(stack) == [0, 1, 2]


def test_a_server_that_is_away(stack):
    write_contract(stack.root)
    with pytest.raises(UnavailableError, match="did not answer in 1 tries: ConnectError"):
        ingest(stack, "http://127.0.0.1:1/x#retries=0", "trips")
