"""Child processes that do something to a project, and may be killed at any of their steps."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

from madang.engines import Context
from madang.metadata import postgresql, sqlite


def child(context, action):
    """Runs `action(context)` in a new process with a context of its own; returns its id."""
    context.close()  # a connection must not be open in two processes
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own = Context(context.project, context.root, metadata_url=context.metadata_url)
            action(own)
            own.close()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    return pid


def ended(pid):
    """Waits; returns 0, or minus the signal that killed the process."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code


def killed_at(context, step, action):
    """Kills the process before its n-th write, sync or statement; false when it ended before."""

    def run(own):
        left = step
        own.metadata

        def counted(target, name):
            original = getattr(target, name)

            def wrapped(*arguments, **keywords):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **keywords)

            setattr(target, name, wrapped)

        for target, name in (
            (os, "fsync"),
            (os, "link"),
            (Path, "replace"),
            (Path, "unlink"),
            (sqlite._Transaction, "execute"),
            (sqlite._Transaction, "executemany"),
            (postgresql._Transaction, "execute"),
            (postgresql._Transaction, "executemany"),
        ):
            counted(target, name)
        action(own)

    return ended(child(context, run)) != 0


def fresh(context):
    """The same project as a new process would see it."""
    return Context(context.project, context.root, metadata_url=context.metadata_url)
