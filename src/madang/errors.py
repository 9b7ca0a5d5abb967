"""The one exception tree.

    MadangError
    ├── ConfigurationError (ValueError)        madang.toml or a URL says something impossible
    │   └── UnknownEngineError                 no engine of that scheme
    ├── MissingDependencyError (ImportError)   an engine's extra is not installed
    ├── NotFoundError (LookupError)            the thing asked for is not there
    ├── AlreadyExistsError                     the name is taken
    ├── ConflictError                          another writer was first; read again and retry
    ├── InvalidInputError (ValueError)         what was handed in is not usable
    │   ├── SchemaMismatchError                columns or types differ from what is expected
    │   ├── DataContractError                  a check with severity "block" failed
    │   └── UnsafeModelError                   loading it could run code that nobody trusted
    ├── AuthenticationError (PermissionError)  who are you?
    ├── PermissionDeniedError (PermissionError) you may not
    │   └── PolicyDeniedError                  a rule of the policy says no
    ├── PolicyError (RuntimeError)             a policy can't be evaluated, which denies
    ├── GateFailedError                        a model is not as good as its gate demands
    ├── IntegrityError                         stored bytes are not what was written
    ├── OutOfSpaceError (OSError)              the disk is full, or nearly; nothing was kept
    ├── StepFailedError (RuntimeError)         a pipeline's step raised or died
    │   └── StepTimeoutError (TimeoutError)    … or took longer than it may
    └── UnavailableError (ConnectionError)     a server that an engine needs does not answer

A message says what was asked, what was found, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable


class MadangError(Exception):
    """Base of every error that Madang raises on purpose.

    Attributes:
        status: The HTTP status code that the API answers with.
    """

    status = 500


class ConfigurationError(MadangError, ValueError):
    """`madang.toml`, an environment variable or a URL says something impossible."""

    status = 400


class UnknownEngineError(ConfigurationError):
    """A URL's scheme names no engine of the component."""

    def __init__(self, component: str, scheme: str, known: Iterable[str]) -> None:
        super().__init__(
            f"{component} has no engine {scheme!r}; its engines are: {', '.join(sorted(known))}"
        )


class MissingDependencyError(MadangError, ImportError):
    """An engine's third-party package is not installed."""

    def __init__(self, what: str, module: str, extra: str = "") -> None:
        package = f"'madang[{extra}]'" if extra else "--upgrade madang"
        super().__init__(
            f"{what} needs the package {module!r}, which is not installed; "
            f"run: pip install {package}"
        )


class NotFoundError(MadangError, LookupError):
    """The thing asked for is not there."""

    status = 404


class AlreadyExistsError(MadangError):
    """The name is taken by something else."""

    status = 409


class ConflictError(MadangError):
    """Another writer was first; read the new state and try again."""

    status = 409


class InvalidInputError(MadangError, ValueError):
    """What was handed in is not usable."""

    status = 422


class SchemaMismatchError(InvalidInputError):
    """Columns or types differ from what is expected."""


class DataContractError(InvalidInputError):
    """A check with severity "block" failed, so nothing was written."""


class UnsafeModelError(InvalidInputError):
    """Loading the model could run code that nobody trusted."""


class AuthenticationError(MadangError, PermissionError):
    """No identity, or one that can't be proven."""

    status = 401


class PermissionDeniedError(MadangError, PermissionError):
    """The identity is known, and may not do this."""

    status = 403


class PolicyDeniedError(PermissionDeniedError):
    """A rule of the policy says no; the message is the rule's own."""


class PolicyError(MadangError, RuntimeError):
    """A policy can't be evaluated. Whatever was asked is denied."""


class GateFailedError(MadangError):
    """A model's evaluation does not meet the conditions of its gate."""

    status = 422


class IntegrityError(MadangError):
    """Stored bytes are not what was written."""


class OutOfSpaceError(MadangError, OSError):
    """The disk is full, or nearly, and nothing of what was handed in was kept."""

    status = 507


class StepFailedError(MadangError, RuntimeError):
    """A step of a pipeline raised an exception or its process died."""


class StepTimeoutError(StepFailedError, TimeoutError):
    """A step took longer than its `timeout_seconds`."""


class UnavailableError(MadangError, ConnectionError):
    """A server that an engine needs does not answer."""

    status = 503
