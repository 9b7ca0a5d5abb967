"""Sends requests at a rate, whether or not answers come: latencies count from the intended moment.

    python benchmarks/clients/open_loop.py HOST:PORT REQUEST-FILE --rate 8000 --seconds 5

A closed loop (wrk) sends less while the server is slow, and so hides what a slow moment does to
those who would have come in it ("coordinated omission"). The moments are a Poisson process. One
thread spins over non-blocking sockets, since timers are too coarse; what it was late itself is
printed too. `--expect` names a JSON file: model version to what the body then holds.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import time
from collections import deque
from pathlib import Path


class Client:
    """One kept connection; requests on it may be pipelined."""

    def __init__(self, address, expected):
        self.address, self.expected = address, expected
        self.failed = self.mixed = self.answered = 0
        self.versions = {}
        self.connect()

    def connect(self):
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer, self.sent = b"", deque()
        self.leaves = False

    def send(self, request, moment):
        self.sent.append(moment)
        try:
            if self.socket.send(request) != len(request):
                raise OSError("the socket's buffer is full")
        except OSError:
            self.failed += 1
            self.sent.pop()

    def receive(self, latencies, now):
        """Takes in answers; says whether the connection is at its end."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            return True
        self.buffer += data
        while (head := self.buffer.find(b"\r\n\r\n")) >= 0:
            headers = self.buffer[:head].lower()
            start = headers.index(b"content-length: ") + 16
            length = int(headers[start:].split(b"\r\n", 1)[0])
            end = head + 4 + length
            if len(self.buffer) < end:
                return False
            self.check(headers, self.buffer[head + 4 : end])
            latencies.append(now - self.sent.popleft())
            self.buffer = self.buffer[end:]
            if b"\r\nconnection: close" in headers:
                return True
        return False

    def check(self, headers, body):
        self.answered += 1
        if not headers.startswith(b"http/1.1 200"):
            self.failed += 1
        elif self.expected:
            start = body.index(b'"model_version":"') + 17
            version = body[start : body.index(b'"', start)].decode()
            self.versions[version] = self.versions.get(version, 0) + 1
            if self.expected.get(version, "?").encode() not in body:
                self.mixed += 1


def run(address, request, *, rate, seconds, connections, expected):
    clients = [Client(address, expected) for _ in range(connections)]
    poller, by_file = select.epoll(), {}

    def watch(client):
        by_file[client.socket.fileno()] = client
        poller.register(client.socket.fileno(), select.EPOLLIN)

    for client in clients:
        watch(client)
    moments, latencies, lateness = random.Random(0), [], []
    start = time.perf_counter()
    due, turn, waiting = start, 0, deque()
    while True:
        now = time.perf_counter()
        while due <= now and due < start + seconds:
            waiting.append(due)
            due += moments.expovariate(rate)
        while waiting:
            client = clients[turn % connections]
            turn += 1
            lateness.append(now - waiting[0])
            client.send(request, waiting.popleft())
        for file, _ in poller.poll(0):
            client = by_file[file]
            if client.receive(latencies, time.perf_counter()):
                # What it did not answer is asked again on a new connection (RFC 9112, 9.3.2).
                poller.unregister(file)
                again = list(client.sent)
                client.socket.close()
                client.connect()
                watch(client)
                for moment in again:
                    client.send(request, moment)
        done = due >= start + seconds
        if done and not any(client.sent for client in clients):
            break
        if now > start + seconds + 10:
            break
    unanswered = sum(len(client.sent) for client in clients)
    latencies.sort()
    lateness.sort()

    def at(values, share):
        return values[min(int(len(values) * share), len(values) - 1)] * 1000

    return {
        "rate": rate,
        "rps": len(latencies) / seconds,
        "p50_ms": at(latencies, 0.5),
        "p99_ms": at(latencies, 0.99),
        "p999_ms": at(latencies, 0.999),
        "late_p99_ms": at(lateness, 0.99),
        "failed": sum(client.failed for client in clients) + unanswered,
        "mixed": sum(client.mixed for client in clients),
        "versions": {
            v: sum(c.versions.get(v, 0) for c in clients)
            for v in sorted({v for c in clients for v in c.versions})
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("request", type=Path, help="the bytes of a whole HTTP request")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--expect", type=Path)
    given = parser.parse_args()
    host, port = given.address.rsplit(":", 1)
    expected = json.loads(given.expect.read_text()) if given.expect else {}
    found = run(
        (host, int(port)), given.request.read_bytes(), rate=given.rate, seconds=given.seconds,
        connections=given.connections, expected=expected,
    )  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
