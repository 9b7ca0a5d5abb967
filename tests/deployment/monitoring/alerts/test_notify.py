from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from tests.servers import free_port, running
from tests.servers.prometheus import answers, program

from madang.deployment.monitoring.alerts import parse_rules
from madang.deployment.monitoring.alerts.notify import Notifier, Route, read_routes
from madang.deployment.monitoring.alerts.receivers import Alertmanager, Email, Webhook, sign
from madang.errors import InvalidInputError, NotFoundError
from madang.testing.series import samples

RULES = parse_rules(
    "{groups: [{name: g, rules: [{alert: High, expr: x > 5, labels: {severity: page},"
    " annotations: {summary: 'job {{ $labels.job }}'}}]}]}",
    "t",
)
HOUR = 3_600_000


@pytest.fixture
def play(stack, series, alerts):
    """One moment: what each job has then; returns what could not be told."""

    def play(routes, time_ms, **jobs):
        series.append(samples(*(("x", {"job": job}, time_ms, v) for job, v in jobs.items())))
        alerts.evaluate(RULES, series, time_ms)
        return Notifier(stack.metadata, stack.ledger, alerts).run(routes, time_ms)

    return play


def test_what_is_new_ends_or_lasts_is_told_together(play, hook):
    routes = [Route("team", Webhook(hook.url), repeat_ms=HOUR)]
    play(routes, 1, a=1, b=1)
    assert hook.told == []
    play(routes, 2, a=9, b=9)
    play(routes, 3, a=9, b=9)
    assert hook.told == [[("a", "firing"), ("b", "firing")]]
    play(routes, 4, a=9, b=1)
    assert hook.told[1:] == [[("a", "firing"), ("b", "resolved")]]
    play(routes, 5, a=9, b=1)
    play(routes, 4 + HOUR, a=9, b=1)
    assert hook.told[2:] == [[("a", "firing")]]
    play(routes, 5 + HOUR, a=1, b=1)
    play(routes, 6 + 3 * HOUR, a=1, b=1)
    assert hook.told[3:] == [[("a", "resolved")]]


def test_an_alert_that_ended_and_fired_again_unseen_is_told_as_both(play, hook):
    routes = [Route("team", Webhook(hook.url))]
    play(routes, 1, a=9)
    play([], 2, a=1)
    play(routes, 3, a=9)
    assert hook.told[1:] == [[("a", "firing"), ("a", "resolved")]]


def test_matching_and_grouping(play, hook):
    page = Route("page", Webhook(hook.url), match={"severity": "page"}, group_by=("job",))
    other = Route("other", Webhook(hook.url), match={"severity": "ticket"})
    play([page, other], 1, a=9, b=9)
    assert sorted(hook.told) == [[("a", "firing")], [("b", "firing")]]
    groups = [json.loads(content)["group"] for _, content in hook.posts]
    assert sorted(group["job"] for group in groups) == ["a", "b"]


def test_a_webhook_is_signed(play, hook):
    play([Route("team", Webhook(hook.url, "key"))], 1_700_000_000_000, a=9)
    ((headers, content),) = hook.posts
    assert headers["Madang-Timestamp"] == "1700000000"
    signature = sign("key", "1700000000", content)
    assert headers["Madang-Signature"] == f"v1={signature}"
    assert sign("other", "1700000000", content) != signature
    assert sign("key", "1700000001", content) != signature
    assert "key" not in repr(Webhook(hook.url, "key")).replace("Webhook", "")


@pytest.mark.parametrize("status", [500, 404, 302])
def test_what_was_refused_is_told_again(play, hook, status, caplog):
    routes = [Route("team", Webhook(hook.url))]
    hook.status = status
    assert f"answered {status}" in play(routes, 1, a=9)["team"]
    hook.status = 204
    assert play(routes, 2, a=9) == {}
    assert play(routes, 3, a=9) == {}
    assert hook.told == [[("a", "firing")]] * 2
    assert hook.posts[0][0]["Madang-Delivery"] == hook.posts[1][0]["Madang-Delivery"]
    assert "receiver team could not be told" in caplog.text


def test_one_receivers_fault_is_no_others(play, hook):
    dead = Webhook(f"http://127.0.0.1:{free_port()}/")
    failed = play([Route("dead", dead), Route("team", Webhook(hook.url))], 1, a=9)
    assert list(failed) == ["dead"]
    assert "127.0.0.1 does not answer" in failed["dead"]
    assert hook.told == [[("a", "firing")]]


def test_silenced_alerts_are_not_told(play, hook, alerts):
    routes = [Route("team", Webhook(hook.url), repeat_ms=10)]
    alerts.silence({"job": "b", "severity": "page"}, 1000, "a move")
    play(routes, 1, a=9, b=9)
    assert hook.told == [[("a", "firing")]]
    silence = alerts.silence({"job": "a"}, 1000, "known")
    play(routes, 20, a=9, b=9)
    assert hook.told[1:] == []
    alerts.unsilence(silence.id)
    play(routes, 21, a=1, b=9)
    assert hook.told[1:] == [[("a", "resolved")]]
    play(routes, 1000, a=1, b=9)  # the first silence has ended
    assert hook.told[2:] == [[("b", "firing")]]


def test_a_kill_between_telling_and_noting_tells_again(play, hook, stack):
    folder = stack.root / "alerts"
    folder.mkdir()
    (folder / "notify.yaml").write_text(
        f"receivers: [{{name: team, webhook: {{url: '{hook.url}'}}}}]"
    )
    play([], 1, a=9)
    command = [sys.executable, "-m", "tests.deployment.monitoring.alerts.crash_notify"]
    with subprocess.Popen([*command, str(stack.root), "2"]) as process:
        # It waits for the answer, so it dies after the receiver has taken what it was told.
        hook.before = process.kill
        assert process.wait(60) == -signal.SIGKILL
    hook.before = lambda: None
    for moment in ("3", "4"):
        done = subprocess.run(
            [*command, str(stack.root), moment], capture_output=True, text=True, check=True
        )
        assert done.stdout == "{}\n"
    assert hook.told == [[("a", "firing")]] * 2
    assert hook.posts[0][0]["Madang-Delivery"] == hook.posts[1][0]["Madang-Delivery"]


def test_a_mail_reaches_a_real_server(play):
    from aiosmtpd.controller import Controller

    class Inbox:
        def __init__(self):
            self.mails = []

        async def handle_DATA(self, server, session, envelope):
            self.mails.append(envelope)
            return "250 OK"

    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        mail = Email(
            "127.0.0.1", "madang@example.org", ("ann@example.org", "bob@example.org"),
            controller.port, starttls=False,
        )  # fmt: skip
        assert play([Route("mail", mail)], 1_700_000_000_000, a=9) == {}
        strict = Email("127.0.0.1", "m@example.org", ("a@example.org",), controller.port)
        assert "STARTTLS" in play([Route("strict", strict)], 1_700_000_000_001, a=9)["strict"]
    finally:
        controller.stop()
    (envelope,) = inbox.mails
    assert envelope.rcpt_tos == ["ann@example.org", "bob@example.org"]
    text = envelope.content.decode()
    assert "Subject: [FIRING:1] test: High" in text
    assert "summary: job a" in text


def test_a_real_alertmanager_takes_alerts(play, tmp_path):
    (tmp_path / "am.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program("prometheus-alertmanager"), f"--config.file={tmp_path / 'am.yml'}",
        f"--storage.path={tmp_path / 'am'}", f"--web.listen-address={url[7:]}",
        "--cluster.listen-address=",
    ]  # fmt: skip
    import time
    import urllib.request

    def active():
        with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:
            return [
                (a["labels"], a["annotations"], a["status"]["state"]) for a in json.load(answer)
            ]

    routes = [Route("am", Alertmanager(url), group_by=(), repeat_ms=60_000)]
    now = time.time_ns() // 1_000_000
    with running(command, lambda: answers(f"{url}/-/ready"), tmp_path / "am.log"):
        assert play(routes, now, a=9) == {}
        ((labels, annotations, _),) = active()
        assert labels == {"alertname": "High", "job": "a", "severity": "page"}
        assert annotations == {"summary": "job a"}
        assert play(routes, now + 1, a=1) == {}
        while active():  # it notices an end a moment later
            time.sleep(0.05)


def test_receivers_from_a_file(stack):
    folder = stack.root / "alerts"
    assert read_routes(folder, stack.context.resolve) == []
    folder.mkdir()
    (folder / "notify.yaml").write_text("""
receivers:
- name: team
  webhook: {url: "https://example.org/${secret:path}", secret: "${secret:key}"}
  match: {severity: page}
  group_by: [endpoint]
  repeat_interval: 30m
- name: mail
  email: {host: h, from: a@b, to: [c@d], username: u, password: "${secret:key}"}
- name: am
  alertmanager: {url: "http://127.0.0.1:9093"}
""")
    team, mail, am = read_routes(folder, stack.context.resolve)
    with pytest.raises(NotFoundError, match="path"):
        team.receiver.open()
    stack.secrets.set("path", "p")
    stack.secrets.set("key", "k")
    assert team.receiver.open() == Webhook("https://example.org/p", "k")
    assert (team.match, team.group_by) == ({"severity": "page"}, ("endpoint",))
    assert team.repeat_ms == 1_800_000
    assert mail.receiver.open() == Email("h", "a@b", ("c@d",), username="u", password="k")
    assert (am.group_by, am.repeat_ms) == ((), 60_000)


def test_secrets_are_opened_only_when_somebody_is_told(play, hook, stack):
    folder = stack.root / "alerts"
    folder.mkdir()
    stack.secrets.set("key", "k")
    (folder / "notify.yaml").write_text(
        f"receivers: [{{name: team, webhook: {{url: '{hook.url}', secret: '${{secret:key}}'}}}}]"
    )
    for moment, value in enumerate((1, 9, 9, 9)):
        assert play(read_routes(folder, stack.context.resolve), moment, a=value) == {}
    assert hook.posts[0][0]["Madang-Signature"].startswith("v1=")
    opened = [line for line in stack.ledger.lines() if line.kind == "secret.open"]
    assert len(hook.posts) == len(opened) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("receivers: [", "can't be used"),
        ("[]", "can't be used"),
        ("receivers: [{name: x}]", "'x' has exactly one of alertmanager, email, webhook"),
        ("receivers: [{name: x, webhook: {url: 'http://h'}, when: 1}]", "'when'"),
        ("receivers: [{name: x, webhook: {url: 'file:///etc/passwd'}}]", "begins with http"),
        ("receivers: [{name: x, webhook: {link: y}}]", "can't be used"),
        ("receivers: [{name: x, email: {host: h, from: a@b}}]", "can't be used"),
        ("receivers: [{name: x, email: {host: h, from: a@b, to: []}}]", "are addresses"),
        (
            'receivers: [{name: x, email: {host: h, from: "a@b\\nBcc: c@d", to: [e@f]}}]',
            "addresses",
        ),
        (
            (
                "receivers: [{name: x, email: {host: h, from: a@b, to: [c@d], username: u, "
                "password: p, starttls: false}}]"
            ),
            "a password needs starttls",
        ),
        (
            "receivers: [{name: x, webhook: {url: 'http://h'}}, {name: x, webhook: {url: 'http://h'}}]",
            "a name of its own",
        ),
    ],
)
def test_receivers_that_can_not_be_used_are_refused(stack, text, message):
    folder = stack.root / "alerts"
    folder.mkdir()
    (folder / "notify.yaml").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_routes(folder, stack.context.resolve)
