"""How people and programs are told: a signed webhook, e-mail, Alertmanager."""

from __future__ import annotations

import contextlib
import email.message
import email.utils
import hashlib
import hmac
import json
import math
import re
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from madang.deployment.monitoring.alerts.contract import Alert
from madang.errors import InvalidInputError, UnavailableError
from madang.ledger import format_time

_TIMEOUT_SECONDS = 10
_KEPT_MS = 240_000


@dataclass(frozen=True)
class Notice:
    """What a receiver is told at once.

    Attributes:
        project: The project.
        receiver: The receiver's name.
        group: The labels that its alerts share.
        firing: Those that fire.
        resolved: Those that the receiver was told of as firing and that ended.
        time_ms: When, milliseconds since 1970 UTC.
    """

    project: str
    receiver: str
    group: Mapping[str, str]
    firing: Sequence[Alert]
    resolved: Sequence[Alert]
    time_ms: int

    @property
    def id(self) -> str:
        """The same for the same news, so that a receiver can pass over one that comes twice."""
        told = [[alert.id, alert.fired_ms, alert.state] for alert in (*self.firing, *self.resolved)]
        text = json.dumps([self.project, self.receiver, sorted(self.group.items()), told])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def title(self) -> str:
        """One line for people."""
        names = sorted({alert.rule for alert in (*self.firing, *self.resolved)})
        state = f"FIRING:{len(self.firing)}" if self.firing else f"RESOLVED:{len(self.resolved)}"
        return f"[{state}] {self.project}: {', '.join(names)}"


class Receiver(Protocol):
    """Tells somebody."""

    def send(self, notice: Notice) -> None:
        """Returns when the other side has taken it.

        Raises:
            UnavailableError: It was not taken; says why.
        """
        ...


def body(alert: Alert) -> dict[str, Any]:
    """An alert as JSON."""
    return {
        "id": alert.id,
        "status": alert.state,
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "value": alert.value if math.isfinite(alert.value) else str(alert.value),
        "starts_at": format_time((alert.fired_ms or alert.active_ms) * 1000),
        "ends_at": None if alert.resolved_ms is None else format_time(alert.resolved_ms * 1000),
    }


@dataclass(frozen=True)
class Webhook:
    """POST of JSON, signed if there is a secret.

    `Madang-Signature: v1=HEX` is the HMAC-SHA-256 of `Madang-Timestamp`, a dot and the body.
    `Madang-Delivery` is the same for the same news.
    """

    url: str
    secret: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuses other schemes than HTTP's."""
        _check_url(self.url)

    def send(self, notice: Notice) -> None:
        content = json.dumps(
            {
                "version": 1,
                "project": notice.project,
                "receiver": notice.receiver,
                "status": "firing" if notice.firing else "resolved",
                "title": notice.title,
                "group": dict(notice.group),
                "alerts": [body(alert) for alert in (*notice.firing, *notice.resolved)],
            }
        ).encode()
        moment = str(notice.time_ms // 1000)
        headers = {"Madang-Timestamp": moment, "Madang-Delivery": notice.id}
        if self.secret:
            headers["Madang-Signature"] = f"v1={sign(self.secret, moment, content)}"
        _post(self.url, content, headers)


def sign(secret: str, timestamp: str, content: bytes) -> str:
    """The signature of a webhook's body, in hex."""
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + content, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Alertmanager:
    """The API v2 of a Prometheus Alertmanager, which groups, silences and repeats by itself.

    https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
    """

    url: str

    def __post_init__(self) -> None:
        """Refuses other schemes than HTTP's."""
        _check_url(self.url)

    def send(self, notice: Notice) -> None:
        # An alert that is not told again ends by itself, as with Prometheus, which allows as long.
        until = format_time((notice.time_ms + _KEPT_MS) * 1000)
        content = [
            {
                "labels": dict(alert.labels),
                "annotations": dict(alert.annotations),
                "startsAt": format_time((alert.fired_ms or alert.active_ms) * 1000),
                "endsAt": until
                if alert.resolved_ms is None
                else format_time(alert.resolved_ms * 1000),
            }
            for alert in (*notice.firing, *notice.resolved)
        ]
        _post(f"{self.url.rstrip('/')}/api/v2/alerts", json.dumps(content).encode(), {})


@dataclass(frozen=True)
class Email:
    """A mail by SMTP.

    Attributes:
        host: The server.
        port: Its port.
        sender: Whom it is from.
        to: Whom it is for.
        username: For a server that wants one.
        password: Its password.
        starttls: Whether the connection must become encrypted, with a valid certificate.
    """

    host: str
    sender: str
    to: tuple[str, ...]
    port: int = 587
    username: str = ""
    password: str = field(default="", repr=False)
    starttls: bool = True

    def __post_init__(self) -> None:
        """Refuses a password that anybody could read on its way, and addresses of two lines."""
        if self.username and not self.starttls:
            raise InvalidInputError("e-mail: a password needs starttls: true")
        bad = [one for one in (self.sender, *self.to) if "@" not in one or re.search(r"\s", one)]
        if bad or not self.to:
            raise InvalidInputError(f"e-mail: from and to are addresses; found {bad or 'none'}")

    def send(self, notice: Notice) -> None:
        message = email.message.EmailMessage()
        message["Subject"] = re.sub(r"[\x00-\x1f\x7f]", " ", notice.title)
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message["Date"] = email.utils.formatdate(notice.time_ms / 1000)
        message["Message-ID"] = f"<{notice.id}.{notice.time_ms}@madang>"
        message.set_content("\n\n".join(map(_paragraph, (*notice.firing, *notice.resolved))))
        try:
            with smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT_SECONDS) as server:
                if self.starttls:
                    server.starttls(context=ssl.create_default_context())
                if self.username:
                    server.login(self.username, self.password)
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise UnavailableError(f"{self.host}:{self.port} took no mail: {error}") from error


def _paragraph(alert: Alert) -> str:
    lines = [f"{alert.state.upper()} {alert.rule} (value {alert.value:g})"]
    lines += [f"  {name}: {text}" for name, text in sorted(alert.annotations.items())]
    lines += [f"  {name}={text}" for name, text in sorted(alert.labels.items())]
    return "\n".join(lines)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError("a receiver's url begins with http:// or https:// and has a host")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the POST into a GET that says nothing."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(url: str, content: bytes, headers: Mapping[str, str]) -> None:
    request = urllib.request.Request(  # noqa: S310 - checked when it was configured
        url, content, {"Content-Type": "application/json", "User-Agent": "madang", **headers}
    )
    host = urlsplit(url).hostname  # the rest of the URL may be a secret
    try:
        with contextlib.closing(
            urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_SECONDS)
        ):
            return
    except urllib.error.HTTPError as error:
        text = error.read(300).decode(errors="replace")
        raise UnavailableError(f"{host} answered {error.code}: {text}") from error
    except OSError as error:
        raise UnavailableError(f"{host} does not answer: {error}") from error
