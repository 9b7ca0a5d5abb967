"""The control process: `python -m madang.server --project FOLDER --fd N`.

It serves the HTTP API, keeps the inference workers' list of accepted tokens current, lets rollouts
take their next steps, gathers metrics, evaluates alerts, starts the pipeline runs of triggers, and
removes what topics don't keep. It holds no state of its own: killed at any moment, it starts again
and settles what was left open.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import threading
from typing import TYPE_CHECKING

import uvicorn

from madang.deployment.monitoring.alerts.watch import keep_alerts, keep_notices
from madang.deployment.monitoring.keeping import keep_monitors
from madang.platform.logs import handler
from madang.server.app import create_app
from madang.stack import open

if TYPE_CHECKING:
    from madang.stack import Stack

_WORKERS_SECONDS = 0.5
_TOPICS_SECONDS = 30.0
_SEALS_SECONDS = 60.0
_ROLLOUTS_SECONDS = 1.0
_log = logging.getLogger("madang.server")


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", required=True)
    parser.add_argument("--env")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    arguments = parser.parse_args()
    stack = open(arguments.project, env=arguments.env)
    sys.path.insert(0, str(stack.root))
    listener = socket.socket(fileno=arguments.fd)
    stopping = threading.Event()
    keepers = [
        threading.Thread(target=keep, args=(stack, stopping), daemon=True) for keep in KEEPERS
    ]
    for keeper in keepers:
        keeper.start()
    records = handler(stack.logs, batch_seconds=0.2)
    logging.getLogger().addHandler(records)
    logging.getLogger("madang").setLevel(logging.INFO)
    app = create_app(stack)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        stopping.set()
        for keeper in keepers:
            keeper.join()
        records.close()
        stack.close()


def _keep_workers(stack: Stack, stopping: threading.Event) -> None:
    """Hands changed tokens to the inference workers, and records what clients had them do."""
    from madang.deployment.serving.local import LocalServing

    if not isinstance(stack.serving, LocalServing):
        return
    while not stopping.wait(_WORKERS_SECONDS):
        try:
            stack.serving.refresh_tokens()
            stack.serving.record_loads()
        except Exception:
            _log.exception("the inference workers could not be followed; trying again")


def _keep_topics(stack: Stack, stopping: threading.Event) -> None:
    """Removes what topics don't keep, also from those that nobody appends to."""
    while not stopping.wait(_TOPICS_SECONDS):
        try:
            stack.collection.enforce()
        except Exception:
            _log.exception("what topics don't keep could not be removed; trying again")


def _keep_seals(stack: Stack, stopping: threading.Event) -> None:
    """Takes new predictions into the ledger by their hashes, so that none can be changed later."""
    from madang.security.audit.receipt import LOGS

    while not stopping.wait(_SEALS_SECONDS):
        try:
            for topic in stack.collection.topics():
                if topic.name.startswith(LOGS):
                    stack.audit.seal(topic.name)
        except Exception:
            _log.exception("the prediction logs could not be sealed; trying again")


def _keep_rollouts(stack: Stack, stopping: threading.Event) -> None:
    """Lets rollouts take their next steps."""
    while not stopping.wait(_ROLLOUTS_SECONDS):
        try:
            stack.ab_testing.advance()
        except Exception:
            _log.exception("a rollout could not take its next step; trying again")


def _keep_triggers(stack: Stack, stopping: threading.Event) -> None:
    """Defines the triggers that stand in files, and starts the runs of events until the end."""
    from madang.workflow.continuous_training import read

    try:
        for trigger in read(stack.root):
            stack.continuous_training.define(trigger)
    except Exception:
        _log.exception("triggers in files could not be defined; see: madang triggers apply")
    stack.orchestration.serve(stopping)


KEEPERS = (
    _keep_workers, _keep_topics, _keep_seals, _keep_rollouts, keep_monitors, keep_alerts,
    keep_notices, _keep_triggers,
)  # fmt: skip
"""What runs beside the API, each in a thread of its own."""

if __name__ == "__main__":
    main()
