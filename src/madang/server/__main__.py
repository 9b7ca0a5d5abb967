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

import uvicorn

from madang.platform.logs import handler
from madang.server.app import create_app
from madang.server.keeping import KEEPERS, keep_triggers
from madang.stack import open


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
        threading.Thread(target=keep, args=(stack, stopping), daemon=True)
        for keep in (*(keeper.keep for keeper in KEEPERS), keep_triggers)
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


if __name__ == "__main__":
    main()
