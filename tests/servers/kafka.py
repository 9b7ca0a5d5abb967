"""A real Apache Kafka broker (KRaft, broker and controller in one process)."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.servers import cache, free_port, missing, running

POM = Path(__file__).parents[2] / ".ci" / "servers" / "kafka" / "pom.xml"

CLUSTER = "bWFkYW5nLW9uLWthZmthIQ"
"""Sixteen bytes in base64, as Kafka wants them."""

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
log.dirs={folder}/logs
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.flush.interval.messages=1
"""

LOGGING = """\
<Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n"/></Console>
</Appenders><Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


def jars() -> Path:
    """The folder of the broker's jars, whether it is there or not."""
    version = re.search("<kafka.version>(.*)</kafka.version>", POM.read_text())[1]
    return cache() / f"kafka-{version}"


def available() -> bool:
    """Whether `started` can start one."""
    return jars().is_dir() and shutil.which("java") is not None


def _prepared(folder: Path) -> tuple[list[str], Callable[[], bool], str]:
    """A broker with its data in `folder`, not started: its command, whether it is ready, its address."""
    java = ["java", "-Xmx512m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    java += [f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}", "-cp", f"{jars()}/*"]
    broker = free_port()
    settings = folder / "server.properties"
    settings.write_text(PROPERTIES.format(broker=broker, controller=free_port(), folder=folder))
    (folder / "log4j2.xml").write_text(LOGGING)
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", settings],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )

    def ready():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", broker)) == 0

    return [*java, "kafka.Kafka", str(settings)], ready, f"127.0.0.1:{broker}"


class Broker:
    """A broker's files and port, to be started with `with broker.running():`, also again."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "kafka.log"
        self._command, self._ready, self.address = _prepared(folder)

    def running(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return running(self._command, self._ready, self._log, seconds=120)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[str]:
    """Runs a broker with its data in `folder`, and gives `host:port`."""
    broker = Broker(folder)
    with broker.running():
        yield broker.address


def _need() -> None:
    if not available():
        missing(
            f"java or {jars()} isn't there (Debian: openjdk-17-jre-headless, maven); "
            "run .ci/servers/kafka.sh"
        )


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory):
    """`host:port` of a broker."""
    _need()
    with started(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture
def stopped_kafka(tmp_path_factory):
    """A broker of one's own, started with `with stopped_kafka.running():`, also again."""
    _need()
    return Broker(tmp_path_factory.mktemp("kafka"))
