"""A worker's service in this process, with a model that waits until the test lets it go on."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import uvloop

from madang.deployment.serving._endpoints import ServedEndpoint, Version
from madang.deployment.serving._exchange import Limits
from madang.deployment.serving._grpc import GrpcServer
from madang.deployment.serving._http import Connection
from madang.deployment.serving._metrics import Snapshot
from madang.deployment.serving._repository import Repository
from madang.deployment.serving._service import Service
from madang.deployment.serving._state import (
    PERMISSIONS,
    AcceptedToken,
    WantedArm,
    WantedEndpoint,
    hash_token,
)
from madang.development.experiments import Signature, TensorSpec


class GatedModel:
    """Answers the sums of the rows, once `release` is set; remembers the rows of its calls."""

    def __init__(self):
        self.signature = Signature(
            (TensorSpec("input", "FP64", (-1, 3)),), (TensorSpec("predict", "FP64", (-1,)),)
        )
        self.entered, self.release = threading.Event(), threading.Event()
        self.sizes = []

    def predict(self, inputs):
        self.entered.set()
        assert self.release.wait(60)
        rows = inputs["input"]
        self.sizes.append(len(rows))
        return {"predict": rows.sum(axis=1)}


class NoLog:
    def put(self, record):
        raise AssertionError("the endpoint is not logged")


class Gate:
    """The service's endpoint `gate`, and where it listens; runs on a loop in a thread."""

    token = "open"

    def __init__(self, limits):
        self.limits = limits
        self.model = GatedModel()

    def serve(self):
        service = Service(
            limits=self.limits,
            log=NoLog(),
            totals=lambda: self.service.counts,
            online=lambda: None,
            repository=Repository(None),
            rollout_log=NoLog(),
        )
        service.counts = Snapshot()
        service.access.accept({hash_token(self.token): AcceptedToken("ann", PERMISSIONS)})
        wanted = WantedEndpoint("gate", 1, False, ())
        version = Version(wanted, WantedArm("gate", 1, 1.0, "d"), self.model)
        version.counters = service.counts.of("gate", "1")
        version.seconds = 1.0  # so that it goes to a thread, and what comes meanwhile waits
        service.endpoints = {"gate": ServedEndpoint(wanted, [version])}
        service.started = True
        return service

    @property
    def waiting(self):
        return self.service._batcher.waiting

    def run(self, coroutine):
        """Starts a coroutine on the loop; its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


@contextmanager
def gated(limits=None, *, tick_seconds=0.02):
    """Runs a gate."""
    started = threading.Event()
    gate = Gate(limits or Limits())

    async def run():
        gate.service = gate.serve()
        gate.loop = asyncio.get_running_loop()
        gate.stop = asyncio.Event()
        listener = await gate.loop.create_server(lambda: Connection(gate.service), "127.0.0.1", 0)
        gate.address = listener.sockets[0].getsockname()
        gate.grpc = GrpcServer(gate.service, "127.0.0.1", 0)
        gate.grpc_address = f"127.0.0.1:{gate.grpc.port}"
        await gate.grpc.start()
        started.set()
        while not gate.stop.is_set():
            gate.service.tick(gate.loop.time())
            await asyncio.sleep(tick_seconds)
        listener.close()
        for connection in list(gate.service.connections):
            connection.abort()
        await gate.grpc.stop(0)
        gate.service.close()

    thread = threading.Thread(target=uvloop.run, args=(run(),))
    thread.start()
    assert started.wait(30)
    try:
        yield gate
    finally:
        gate.model.release.set()
        gate.loop.call_soon_threadsafe(gate.stop.set)
        thread.join()
