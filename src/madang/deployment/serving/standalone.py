"""The inference server for one model in a folder: no project, no database, no control side.

    MADANG_TOKEN=… python -m madang.deployment.serving.standalone --model model --digest … \
        --endpoint late --host 0.0.0.0 --port 8500

This is what a model's container runs (see `container.py`). It checks the model against the digest,
writes the state that a worker follows into a folder of its own, and becomes that worker.

Access: predictions and metadata need `Authorization: Bearer TOKEN`, where the token is the value
of `MADANG_TOKEN` or the content of the file that `MADANG_TOKEN_FILE` names (a mounted secret). The
server does not start without one; only the health routes are open.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from madang.deployment.serving import worker
from madang.deployment.serving._state import (
    PERMISSIONS,
    AcceptedToken,
    Desired,
    Files,
    WantedArm,
    WantedEndpoint,
    hash_token,
    write_atomically,
)
from madang.development.experiments._manifest import read_manifest
from madang.errors import ConfigurationError, MadangError

_SHORTEST_TOKEN = 16


def token() -> str:
    """The token that callers have to send.

    Raises:
        ConfigurationError: There is none, or it is too short to be a secret.
    """
    file = os.environ.get("MADANG_TOKEN_FILE")
    try:
        found = Path(file).read_text("utf-8") if file else os.environ.get("MADANG_TOKEN", "")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"MADANG_TOKEN_FILE can't be read: {error}") from error
    if len(found.strip()) < _SHORTEST_TOKEN:
        raise ConfigurationError(
            f"callers need a token of at least {_SHORTEST_TOKEN} characters: set MADANG_TOKEN, or "
            "MADANG_TOKEN_FILE to a mounted secret; make one by: openssl rand -hex 32"
        )
    return found.strip()


def prepare(home: Path, model: Path, digest: str, endpoint: WantedEndpoint) -> None:
    """Writes the state that a worker follows.

    Raises:
        NotFoundError: There is no model in the folder.
        IntegrityError: Its files are not what the digest says.
        ConfigurationError: There is no token.
    """
    read_manifest(model, digest)
    accepted = {hash_token(token()): AcceptedToken("container", PERMISSIONS)}
    files = Files(home)
    files.make()
    (files.models / digest).symlink_to(model.resolve(), target_is_directory=True)
    write_atomically(files.tokens, msgspec.json.encode(accepted))
    desired = Desired(revision=1, endpoints=(endpoint,))
    write_atomically(files.desired, msgspec.json.encode(desired))


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, then drains."""
    parser = argparse.ArgumentParser(prog="madang.deployment.serving.standalone")
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--digest", required=True, help="the registered SHA-256 of the model")
    parser.add_argument("--endpoint", required=True, help="its name in the protocol")
    parser.add_argument("--name", help="the registered model's name (default: the endpoint's)")
    parser.add_argument("--version", type=int, default=1, help="the registered version")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    given, further = parser.parse_known_args(arguments)
    arm = WantedArm(given.name or given.endpoint, given.version, 1.0, given.digest)
    home = Path(tempfile.mkdtemp(prefix="madang-"))
    try:
        return _serve(home, given, arm, further)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _serve(home: Path, given: argparse.Namespace, arm: WantedArm, further: list[str]) -> int:
    try:
        endpoint = WantedEndpoint(given.endpoint, 1, log=False, arms=(arm,))
        prepare(home, given.model, given.digest, endpoint)
        # Not shared with another server of this user, which would answer some of the requests.
        listener = worker.listen(given.host, given.port, shared=False)
    except MadangError as error:
        sys.stderr.write(f"madang: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"madang: can't serve at {given.host}:{given.port}: {error}\n")
        return 1
    return worker.main(["--home", str(home), "--fd", str(listener.detach()), *further])


if __name__ == "__main__":
    worker.leave(main())
