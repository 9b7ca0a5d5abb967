"""The command line: one file for each topic, in the list below."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from madang.cli.lazy import LazyGroup

COMMANDS = {
    "alerts": "madang.cli.alerts:alerts",
    "audit": "madang.cli.audit:audit",
    "automl": "madang.cli.automl:automl",
    "config": "madang.cli.platform:config",
    "data": "madang.cli.data:data",
    "deploy": "madang.cli.serving:deploy",
    "doctor": "madang.cli.project:doctor",
    "experiments": "madang.cli.experiments:experiments",
    "explain": "madang.cli.explain:explain",
    "export": "madang.cli.export:export",
    "features": "madang.cli.features:features",
    "init": "madang.cli.project:init",
    "lab": "madang.cli.lab:lab",
    "ledger": "madang.cli.ledger:ledger",
    "logs": "madang.cli.platform:logs",
    "metrics": "madang.cli.alerts:metrics",
    "models": "madang.cli.models:models",
    "monitors": "madang.cli.monitoring:monitors",
    "outcomes": "madang.cli.monitoring:outcomes",
    "policy": "madang.cli.policy:policy",
    "predict": "madang.cli.serving:predict",
    "resume": "madang.cli.pipelines:resume",
    "rollouts": "madang.cli.rollouts:rollouts",
    "run": "madang.cli.pipelines:run",
    "runs": "madang.cli.pipelines:runs",
    "search": "madang.cli.repository:search",
    "secret": "madang.cli.security:secret",
    "topics": "madang.cli.topics:topics",
    "triggers": "madang.cli.triggers:triggers",
    "tune": "madang.cli.tuning:tune",
    "undeploy": "madang.cli.serving:undeploy",
    "up": "madang.cli.up:up",
    "user": "madang.cli.security:user",
    "version": "madang.cli.project:version",
}
"""Command to `module:function`; a module is imported only when its command is used."""


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--project", metavar="FOLDER", help="The project's folder (default: here or above).")
@click.option("--env", metavar="NAME", help="An environment of madang.toml.")
@click.option("--actor", hidden=True, help="On whose behalf; used by the API.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Madang: the whole of MLOps in one place."""
    context.obj = options
    if options["actor"]:
        from madang.ledger import act_as

        act_as(options["actor"])


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; an expected error is one line and exit code 1, Ctrl-C is 130."""
    from madang.errors import MadangError

    # `kill` means the same as Ctrl-C, so that both clean up.
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = cli.main(arguments, prog_name="madang", standalone_mode=False)
    except MadangError as error:
        if "--debug" in arguments:
            raise
        click.echo(f"madang: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("madang: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `madang runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
