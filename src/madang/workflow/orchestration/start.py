"""The process of one event's run: `python -m madang.workflow.orchestration.start`."""

from __future__ import annotations

import argparse
import signal
import sys

from madang.errors import AlreadyExistsError, MadangError, NotFoundError
from madang.ledger import acting_as
from madang.stack import Stack, open
from madang.workflow.continuous_training.records import Records, run_reason
from madang.workflow.pipelines.discovery import find_pipeline


def main() -> None:
    """Runs the event's pipeline, or goes on with the run that is there already."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", required=True)
    parser.add_argument("--env")
    parser.add_argument("--event", required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # `kill` cancels the run, which can be resumed
    with open(arguments.project, env=arguments.env) as stack:
        sys.path.insert(0, str(stack.root))
        try:
            _run(stack, arguments.event)
        except MadangError as error:
            sys.exit(str(error))


def _run(stack: Stack, id: str) -> None:
    records = Records(stack.context)
    with records.database.transaction(write=False) as tx:
        event = records.find(tx, id)
    if event is None:
        raise NotFoundError(f"there is no event {id!r}; see: madang triggers events")
    pipeline = find_pipeline(stack.root, event.pipeline)
    with acting_as(f"trigger:{event.trigger}"):
        try:
            stack.pipelines.run(
                pipeline, event.params, reason=run_reason(event), run_id=event.run_id
            )
        except AlreadyExistsError:
            stack.pipelines.resume(pipeline, event.run_id)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
