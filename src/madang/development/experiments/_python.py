"""Models given as Python source: text that is read by people, and code that runs when it is loaded.

Nothing is pickled: the folder's files are stored as they are, and the class is imported from them.
Because that runs the code, it needs an explicit choice that names exactly this code: the source's
SHA-256 in `trusted`, which stands in the ledger and counts only with the registered digest.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import re
import shutil
import sys
import tempfile
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments._manifest import Manifest, sha256_of
from madang.development.experiments._object import keep, restore, tree
from madang.development.experiments._tensors import Arrays, from_example
from madang.development.experiments.formats import Format, Predictor
from madang.errors import IntegrityError, InvalidInputError, NotFoundError, UnsafeModelError

_COMPILED = (".pyc", ".pyd", ".so")
_ENTRY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


@dataclass(frozen=True)
class _Code:
    """A folder of source, and what of it is used."""

    folder: Path
    entry: str
    digest: str

    @property
    def package(self) -> str:
        """The name of its package: of this place, so that two loaded copies share no state."""
        place = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:12]
        return f"madang_model_{self.digest[:12]}_{place}"


class PythonFormat(Format):
    """`PythonSource`."""

    packages = ()

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        return from_example(example, ())

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        folder = Path(model.folder)

        def fill(place: Path) -> None:
            for path in sources(folder):
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, place / path)

        return _loaded(fill, model.entry, source_digest(folder))

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        digest = source_digest(model.folder)
        module = _parsed(model.entry)[0].replace(".", "/")
        if not any(
            (Path(model.folder) / f"{module}{end}").is_file() for end in (".py", "/__init__.py")
        ):
            raise InvalidInputError(
                f"{model.folder} has no {module}.py, which {model.entry!r} names"
            )
        _require_trust(digest, trusted)
        facts = {"entry": model.entry, "source": digest}
        return keep(Path(model.folder), folder, facts, sources(Path(model.folder)))

    def requirements(self, model: Any) -> dict[str, str]:
        found = {}
        for name in model.requirements:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError as error:
                raise NotFoundError(f"the model requires {name}, which is not installed") from error
        return super().requirements(model) | found

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        _require_trust(str(manifest.facts["source"]), trusted)

        def fill(place: Path) -> None:
            restore(folder, manifest, place)
            if tree(place) != sources(place):
                raise IntegrityError("the model's files hold code that Python cached; register it")

        return _loaded(fill, manifest.facts["entry"], manifest.facts["source"])


def _loaded(fill: Callable[[Path], None], entry: str, digest: str) -> Predictor:
    """The model of a copy of the source, which `fill` makes; it goes when the model does.

    Raises:
        IntegrityError: The copy is not the source of that digest.
    """
    place = Path(tempfile.mkdtemp(prefix="madang-source-"))
    try:
        fill(place)
        found = source_digest(place)
        if found != digest:
            raise IntegrityError(
                f"the model's source has SHA-256 {found}, and its manifest says {digest}; "
                "register the model again"
            )
        code = _Code(place, entry, digest)
        predictor = PythonPredictor(code)
    except BaseException:
        shutil.rmtree(place)
        raise
    weakref.finalize(predictor, _forget, code)  # it may read its files whenever it likes
    return predictor


class PythonPredictor:
    """Calls `predict` of what `load` gave; as safe for threads as that is."""

    def __init__(self, code: _Code) -> None:
        module, name = _parsed(code.entry)
        with _no_exit():
            found: Any = getattr(_imported(code, module), name, None)
            if not callable(getattr(found, "load", None)):
                raise InvalidInputError(f"{code.entry} is no class with load(folder)")
            self.native = found.load(code.folder)
        if not callable(getattr(self.native, "predict", None)):
            raise InvalidInputError(
                f"what {code.entry}.load(folder) returns has no predict(inputs)"
            )

    def __call__(self, inputs: Arrays) -> Arrays:
        with _no_exit():
            outputs = self.native.predict(inputs)
        if not isinstance(outputs, Mapping) or not outputs:
            raise InvalidInputError(
                "the model's predict(inputs) gives output name to array; found: "
                f"{type(outputs).__name__}"
            )
        return {str(name): _plain(value) for name, value in outputs.items()}


@contextmanager
def _no_exit() -> Iterator[None]:
    """A model's `sys.exit` is an error of its own, and not the end of the process."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"the model's code wanted to end the process: {error!r}") from error


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return array.astype(np.str_) if array.dtype == object else array


def sources(folder: Path) -> list[str]:
    """The paths of a source's files, without what Python cached beside them.

    Raises:
        InvalidInputError: As `tree`; or there is compiled code, which would run in place of what
            people read.
    """
    found = [path for path in tree(folder) if "__pycache__" not in path.split("/")]
    compiled = [path for path in found if path.lower().endswith(_COMPILED)]
    if compiled:
        raise InvalidInputError(
            f"{compiled[0]} is compiled code, which nobody can read; install it as a package, and "
            "name that in requirements"
        )
    return found


def source_digest(folder: str | Path) -> str:
    """SHA-256 over the paths and the content of all `.py` files of a folder, 64 hex digits."""
    total = hashlib.sha256()
    for path in sources(Path(folder)):
        if path.endswith(".py"):
            total.update(f"{path}\0{sha256_of(Path(folder) / path)}\n".encode())
    return total.hexdigest()


def _require_trust(digest: str, trusted: Sequence[str]) -> None:
    if f"python:{digest}" not in trusted:
        raise UnsafeModelError(
            "a model of Python source runs its code when it is loaded; if you know what this code "
            f"does, allow it: register(…, trusted=['python:{digest}'])"
        )


def _parsed(entry: str) -> tuple[str, str]:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise InvalidInputError(f"entry is MODULE:CLASS, such as model:Delay; found {entry!r}")
    return match[1], match[2]


def _imported(code: _Code, module: str) -> types.ModuleType:
    """Imports a module of the source in a package of its own, so that versions never mix."""
    package = types.ModuleType(code.package)
    package.__path__ = [str(code.folder)]
    sys.modules.setdefault(code.package, package)
    importlib.invalidate_caches()
    return importlib.import_module(f"{code.package}.{module}")


def _forget(code: _Code) -> None:
    """Deletes a loaded copy of the source, and its modules."""
    shutil.rmtree(code.folder)
    for name in [*sys.modules]:
        if name == code.package or name.startswith(f"{code.package}."):
            del sys.modules[name]
