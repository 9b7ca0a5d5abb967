"""A registered model as the build context of a container that serves it.

    write_context(registry, "late", "champion", Path("image"))

The folder holds all that the image needs:

    Dockerfile           slim Python of this minor version, a user without rights, a health check
    requirements.txt     the exact version of each package that serving this model needs
    wheels/              Madang itself
    model/               the model's files, with its manifest
    README.md            how to build it, run it and call it

The image runs the same inference server (`standalone.py`), which checks the model against the
digest that stands in the Dockerfile. No secret is in the context: the token comes from outside.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from madang.development.experiments import ModelVersion, Registry
from madang.development.experiments._manifest import Manifest, read_manifest
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnsafeModelError

_SERVER = ("httptools", "msgspec", "numpy", "pybase64", "uvloop")
"""What the inference server imports; a test runs it with nothing else."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SYSTEM = {"lightgbm": "libgomp1"}  # Debian's OpenMP, which LightGBM's wheel does not carry


def write_context(
    registry: Registry,
    name: str,
    version: int | str | None,
    folder: Path,
    *,
    endpoint: str | None = None,
) -> ModelVersion:
    """Writes the build context of a model's container.

    Args:
        registry: Where the model is registered.
        name: The model's name.
        version: Its number or alias; `None`: the newest.
        folder: A folder that doesn't exist yet, or is empty.
        endpoint: The name in the protocol (`/v2/models/NAME/infer`); the model's when `None`.

    Raises:
        NotFoundError: There is no such model or version; or a package that it needs is not
            installed here, so that its version can't be locked.
        AlreadyExistsError: The folder is not empty.
        InvalidInputError: The endpoint's name is not usable, or the model has no signature.
        UnsafeModelError: The model is kept as an object, which is never loaded.
        IntegrityError: Its files are not what was registered.
    """
    if endpoint is not None:
        _check_name(endpoint)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExistsError(f"{folder} is not an empty folder; name another one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        found = _fill(part, registry, name, version, endpoint)
        part.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part)
        raise
    return found


def _check_name(endpoint: str) -> None:
    if not _NAME.fullmatch(endpoint):
        raise InvalidInputError(
            "an endpoint's name has up to 200 letters, digits, '.', '-' and '_', the first one a "
            f"letter or digit: {endpoint!r}; give endpoint=… (--endpoint)"
        )


def _fill(
    part: Path, registry: Registry, name: str, version: int | str | None, endpoint: str | None
) -> ModelVersion:
    (part / "model").mkdir()
    found = registry.download(name, version, part / "model")
    _check_name(endpoint or found.name)
    manifest = read_manifest(part / "model", found.digest)
    if manifest.format == "object":
        raise UnsafeModelError(
            f"{found.ref} is kept as an object and is never loaded: {manifest.facts['reason']}"
        )
    if not manifest.signature.inputs:
        raise InvalidInputError(f"{found.ref} has no signature; register it with an example")
    (part / "wheels").mkdir()
    wheel = write_wheel(part / "wheels")
    packages = locked({*_SERVER, *_needed(manifest)}, _recorded(manifest))
    lines = [f"{package}=={number}\n" for package, number in sorted(packages.items())]
    (part / "requirements.txt").write_text("".join(lines))
    (part / "Dockerfile").write_text(_dockerfile(found, manifest, endpoint or found.name, wheel))
    (part / "README.md").write_text(_readme(found, endpoint or found.name))
    (part / ".dockerignore").write_text("README.md\n")
    return found


def _recorded(manifest: Manifest) -> dict[str, str]:
    """The versions that the model was registered and verified with."""
    return {**manifest.requirements, **manifest.compiled.get("requirements", {})}


def _needed(manifest: Manifest) -> Iterable[str]:
    """A compiled model needs its runtime alone; others need their library."""
    if "kind" in manifest.compiled:
        return ("numpy", *manifest.compiled["requirements"])
    return manifest.requirements


def locked(names: Iterable[str], recorded: Mapping[str, str]) -> dict[str, str]:
    """Each package and everything that it requires here, with exact versions.

    Args:
        names: Distributions.
        recorded: Versions that go before the installed ones.

    Raises:
        NotFoundError: One is not installed.
    """
    versions: dict[str, str] = {}
    known = {canonicalize_name(name): number for name, number in recorded.items()}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in versions:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise NotFoundError(
                f"serving the model needs the package {name}, which is not installed here, so "
                f"that its requirements are not known; run: pip install {name}"
            ) from error
        versions[name] = known.get(name, found.version)
        for line in found.requires or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                waiting.append(required.name)
    return versions


# -- Madang's wheel -------------------------------------------------------------------------------


def write_wheel(folder: Path) -> str:
    """Writes the running Madang as a wheel (PEP 427), whether it was installed or is a checkout.

    Equal sources give equal files.

    Returns:
        The wheel's file name.
    """
    found = importlib.metadata.distribution("madang")
    package = Path(__file__).parents[2]
    info = f"madang-{found.version}.dist-info"
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = (found.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: madang\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    scripts = found.read_text("entry_points.txt")
    if scripts:
        files[f"{info}/entry_points.txt"] = scripts.encode()
    lines = [f"{name},sha256={_record(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    wheel = f"madang-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # its date is always 1980
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return wheel


def _record(data: bytes) -> str:
    digest = hashlib.sha256(data).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


# -- texts ----------------------------------------------------------------------------------------

_DOCKERFILE = """\
# {ref}, served by Madang; see README.md. Made by: madang export container
FROM python:{python}-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    ORT_DISABLE_TELEMETRY=1
{system}COPY requirements.txt /build/
RUN pip install --no-deps -r /build/requirements.txt
COPY wheels /build/wheels
# Without its requirements: this server needs only those of requirements.txt.
RUN pip install --no-deps --no-index /build/wheels/{wheel} && rm -r /build

COPY model /srv/model
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8500
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \\
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8500/v2/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "madang.deployment.serving.standalone", "--model", "/srv/model", \
"--digest", "{digest}", "--name={name}", "--version", "{version}", "--endpoint", "{endpoint}", \
"--port", "8500", "--host", "0.0.0.0"]
"""

_README = """\
# {ref}

The image serves this model by the Open Inference Protocol V2, with Madang's inference server.
It checks the model's files against their SHA-256, `{digest}`, when it starts.

    docker build -t {image} .
    docker run --read-only --tmpfs /tmp -p 127.0.0.1:8500:8500 -e MADANG_TOKEN {image}

## Access

Every call except `/v2/health/live` and `/v2/health/ready` needs `Authorization: Bearer TOKEN`.
The token is the value of `MADANG_TOKEN`, or the content of the file that `MADANG_TOKEN_FILE` names, such as a mounted secret.
The server does not start without one; make one with `openssl rand -hex 32`.
It speaks plain HTTP: put TLS in front of it wherever the network is not yours alone.

## Call it

    curl -H "Authorization: Bearer $MADANG_TOKEN" http://127.0.0.1:8500/v2/models/{endpoint}
    curl -H "Authorization: Bearer $MADANG_TOKEN" http://127.0.0.1:8500/v2/models/{endpoint}/infer -d '{{"inputs": […]}}'

## What it does not hold

No request log, no features by entity id, no traffic split: these need a project.
"""


def _dockerfile(version: ModelVersion, manifest: Manifest, endpoint: str, wheel: str) -> str:
    library = " ".join(sorted(_SYSTEM[name] for name in _needed(manifest) if name in _SYSTEM))
    system = (
        f"RUN apt-get update && apt-get install -y --no-install-recommends {library} "
        "&& rm -rf /var/lib/apt/lists/*\n"
    )
    return _DOCKERFILE.format(
        ref=version.ref,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        system=system if library else "",
        wheel=wheel,
        digest=version.digest,
        name=version.name,
        version=version.version,
        endpoint=endpoint,
    )


def _readme(version: ModelVersion, endpoint: str) -> str:
    image = f"{version.name.lower().strip('._-') or 'model'}:{version.version}"
    return _README.format(ref=version.ref, digest=version.digest, image=image, endpoint=endpoint)
