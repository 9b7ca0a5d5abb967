"""Requests of this machine's own user, which need no token because the kernel vouches for them.

Code that was written for an MLflow server sends nothing that says who it is. On the routes of
MLflow's API its requests are taken as those of the user whose server this is, if and only if

- both ends of the connection have loopback addresses, and the kernel says that the other end is an
  open socket of the user id that this process has;
- the `Host` header names the loopback, so that a web page can't come in under a name of its own
  which it lets point to 127.0.0.1 (DNS rebinding);
- no header says that a proxy or a browser sent it: then it is somebody else's request.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from madang.errors import AuthenticationError
from madang.security.identity import Identity

if TYPE_CHECKING:
    from starlette.types import Scope

NAME = "local"
"""The name that such requests act under: `user:local` in the ledger."""

ROLES = ("operator",)

_HOST = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?", re.IGNORECASE)
_FOREIGN = re.compile(r"forwarded|via|origin|referer|x-real-ip|x-forwarded-.*|sec-fetch-.*")
_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ESTABLISHED = 1


def own_user(scope: Scope) -> Identity:
    """This machine's own user, if the request is proven to be theirs.

    Raises:
        AuthenticationError: It isn't; says what stands against it.
    """
    against = _against(scope)
    if against:
        raise AuthenticationError(
            f"this needs a token, because {against}; set MLFLOW_TRACKING_TOKEN, or send the header "
            "Authorization: Bearer TOKEN"
        )
    return Identity(NAME, ROLES)


def _against(scope: Scope) -> str:
    headers = Headers(scope=scope)
    for name in headers:
        if _FOREIGN.fullmatch(name):
            return f"the header {name} says that a proxy or a browser sent the request"
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return "the Host header doesn't name 127.0.0.1 or localhost"
    peer, here = scope.get("client"), scope.get("server")
    if not (peer and here and peer[0] == here[0] == "127.0.0.1"):
        return "it doesn't come over the loopback"
    if _owner(peer, here) != os.getuid() or os.getuid() == _overflow():
        return "the kernel doesn't say that it comes from the user who runs this server"
    return ""


def _owner(peer: tuple[str, int], here: tuple[str, int]) -> int | None:
    """The user id of the connection's other end; `None` when the kernel doesn't say.

    A socket that its process has closed belongs to user 0 in the kernel's tables, so only open
    ones count. Linux alone can tell (sock_diag(7)); elsewhere nobody is known.
    """
    ends = struct.pack("!HH", peer[1], here[1])
    ends += b"".join(socket.inet_aton(end[0]).ljust(16, b"\0") for end in (peer, here))
    ends += struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, no cookie
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << _ESTABLISHED)
    message = struct.pack("=IHHII", 16 + len(request + ends), _BY_FAMILY, 1, 1, 0) + request + ends
    with contextlib.suppress(OSError, AttributeError):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _DIAG) as kernel:
            kernel.settimeout(1)
            kernel.send(message)
            answer = kernel.recv(4096)
        if struct.unpack_from("=H", answer, 4)[0] != _BY_FAMILY:
            return None  # an error: there is no such connection
        state, found = answer[17], answer[20:60]
        owner, inode = struct.unpack_from("=II", answer, 16 + 4 + 48 + 12)
        # The kernel may answer with a listening socket when there is no such connection.
        if state == _ESTABLISHED and found[:4] == ends[:4] and inode:
            return int(owner)
    return None


@cache
def _overflow() -> int:
    """What the kernel says of users that this process's namespace has no number for."""
    file = Path("/proc/sys/kernel/overflowuid")
    return int(file.read_text("ascii")) if file.exists() else -1
