"""`@step` and `@pipeline`: plain typed functions become a graph.

    @step
    def double(x: int) -> int:
        return 2 * x

    @pipeline
    def flow(start: int = 1) -> int:
        return double(double(start))

    flow.run()

Inside of a pipeline's function a step's call gives an `Output`, a promise of its value; outside, a
step is the function that it was, so it can be tested as one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    get_args,
    get_origin,
    overload,
)

import msgspec

from madang.errors import ConfigurationError, InvalidInputError
from madang.workflow.pipelines.artifacts import parameter_types, stack_parameters
from madang.workflow.scheduling.worker import SCRIPT

if TYPE_CHECKING:
    from madang.stack import Stack
    from madang.workflow.pipelines.contract import PipelineRun

P = ParamSpec("P")
R = TypeVar("R")

_graph: ContextVar[list[StepCall] | None] = ContextVar("madang_graph", default=None)


class Output:
    """A promise of what a step will return; hand it to other steps, or return it.

    It has no value while the pipeline is being put together, so `if`, loops over it, arithmetic
    and attributes are errors: do such things inside of a step.
    """

    def __init__(self, call: StepCall, index: int, annotation: Any) -> None:
        self._call = call
        self._index = index
        self._annotation = annotation

    def _refuse(self, *_: Any) -> Any:
        raise InvalidInputError(
            f"{self!r} has no value yet: the pipeline is only being put together; move what needs "
            "the value into a step"
        )

    __bool__ = __iter__ = __len__ = __getitem__ = __int__ = __float__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def __repr__(self) -> str:
        return f"<output {self._index + 1} of step {self._call.name!r}>"


@dataclass(eq=False)
class StepCall:
    """One use of a step in a pipeline: a node of the graph."""

    step: Step[Any, Any]
    name: str
    arguments: dict[str, Any]
    outputs: tuple[Output, ...] = ()

    @property
    def needs(self) -> set[StepCall]:
        """The calls whose outputs this one takes."""
        return {output._call for value in self.arguments.values() for output in outputs_in(value)}


def outputs_in(value: Any) -> Iterator[Output]:
    """The outputs in an argument, also inside of lists, tuples and dicts."""
    if isinstance(value, Output):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from outputs_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from outputs_in(item)


@dataclass(eq=False)
class Step(Generic[P, R]):
    """A function that can be a step of a pipeline.

    Attributes:
        function: The plain function.
        retries: How often a failed attempt is repeated.
        retry_delay_seconds: The pause before each repetition.
        timeout_seconds: After so long an attempt is killed; the next one may start.
        memory_bytes: Above so much resident memory an attempt is killed.
        cache: Whether an unchanged step is skipped.
        process: `own`: a worker process runs it; `shared`: a thread of the runner does.
    """

    function: Callable[P, R]
    name: str
    retries: int = 0
    retry_delay_seconds: float = 0.0
    timeout_seconds: float | None = None
    memory_bytes: int | None = None
    cache: bool = True
    process: Literal["own", "shared"] = "own"

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.function)
        self._signature = inspect.signature(self.function)
        if self.process == "shared" and (self.timeout_seconds or self.memory_bytes):
            raise InvalidInputError(
                f"step {self.name!r}: limits need a process of its own, because a thread can't be "
                "killed; drop process='shared' or the limits"
            )

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        calls = _graph.get()
        if calls is None:
            return self.function(*args, **kwargs)
        return cast("R", self._add(calls, args, kwargs))  # a promise of it

    def _add(self, calls: list[StepCall], args: Any, kwargs: Any) -> Any:
        injected = stack_parameters(self.function)
        arguments = self._bind(args, kwargs, injected)
        hints = parameter_types(self.function)
        for name, value in arguments.items():
            if isinstance(value, Output) and name in hints:
                _check_types(self.name, name, value, hints[name])
        taken = {call.name for call in calls}
        name, count = self.name, 1
        while name in taken:
            count += 1
            name = f"{self.name}_{count}"
        call = StepCall(self, name, arguments)
        kinds = self._kinds(hints.get("return"))
        call.outputs = tuple(Output(call, i, kind) for i, kind in enumerate(kinds))
        calls.append(call)
        return call.outputs[0] if len(kinds) == 1 else call.outputs

    def arguments_of(self, root: Path) -> Mapping[str, Any]:
        """Further arguments, which only the project's folder tells; a plain step has none."""
        return {}

    def _kinds(self, returned: Any) -> tuple[Any, ...]:
        """The annotations of the values that a call gives; one for each."""
        return _returns(returned)

    def _bind(self, args: Any, kwargs: Any, injected: list[str]) -> dict[str, Any]:
        fillers = {name: None for name in injected if name not in kwargs}
        try:
            bound = self._signature.bind(*args, **kwargs, **fillers)
        except TypeError as error:
            raise InvalidInputError(f"step {self.name!r}: {error}") from error
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(value)
            elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise InvalidInputError(
                    f"step {self.name!r}: parameter {name!r} must have a name at the call; take a "
                    "list instead of *args, and no positional-only parameters"
                )
            elif name not in injected:
                arguments[name] = value
        return arguments

    @property
    def location(self) -> tuple[str, str] | None:
        """As `location_of` the function."""
        return location_of(self.function)


def location_of(function: Callable[..., Any]) -> tuple[str, str] | None:
    """(module, qualified name) for another process to import; `None` if it can't."""
    name = getattr(function, "__qualname__", "<unnamed>")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    # A notebook has no file; standard input and `-c` have one that doesn't exist.
    file = Path(getattr(module, "__file__", None) or "")
    if module is None or "<" in name or not file.is_file():
        return None
    if module.__name__ in ("__main__", SCRIPT):
        return (f"file:{file.resolve()}", name) if file.suffix == ".py" else None
    return module.__name__, name


def _returns(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is tuple:
        items = get_args(annotation)
        if items and Ellipsis not in items:
            return items
    return (annotation,)


def _check_types(step: str, parameter: str, given: Output, wanted: Any) -> None:
    """Refuses an output whose class can't be what the parameter says."""
    source = given._annotation
    if source is None or not isinstance(source, type) or not isinstance(wanted, type):
        return
    both_tables = hasattr(source, "__arrow_c_stream__") and hasattr(wanted, "__arrow_c_stream__")
    number = (source, wanted) == (int, float)
    if not (issubclass(source, wanted) or issubclass(wanted, source) or both_tables or number):
        raise InvalidInputError(
            f"step {step!r}: parameter {parameter!r} takes {wanted.__qualname__}, and {given!r} "
            f"is {source.__qualname__}"
        )


@dataclass
class Pipeline(Generic[P, R]):
    """A function that puts steps together."""

    function: Callable[P, R]
    name: str
    description: str = field(default="")

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the functions one after the other, here and unrecorded, as plain Python."""
        return self.function(*args, **kwargs)

    def run(self, stack: Stack | None = None, **params: Any) -> PipelineRun:
        """Runs it in the project of `stack` (default: of this folder) and returns the run.

        Raises:
            StepFailedError: A step failed; the run is recorded, and can be resumed.
            InvalidInputError: A parameter is missing, unknown, or of another type.
        """
        from madang.stack import open
        from madang.workflow.pipelines.outcome import raise_if_failed

        if stack is not None:
            return raise_if_failed(stack.pipelines.run(self, params))
        with open() as opened:
            return raise_if_failed(opened.pipelines.run(self, params))

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters with defaults, converted to the annotated types.

        Raises:
            InvalidInputError: One is missing, unknown, or of another type.
        """
        signature = inspect.signature(self.function)
        unknown = sorted(set(params) - set(signature.parameters))
        if unknown:
            known = ", ".join(signature.parameters) or "none"
            raise InvalidInputError(
                f"pipeline {self.name!r} has no parameter {', '.join(unknown)}; it has: {known}"
            )
        hints = parameter_types(self.function)
        converted = {}
        for name, parameter in signature.parameters.items():
            if name not in params and parameter.default is inspect.Parameter.empty:
                raise InvalidInputError(f"pipeline {self.name!r} needs the parameter {name!r}")
            value = params.get(name, parameter.default)
            if name in params and name in hints:
                value = _converted(
                    value, hints[name], f"pipeline {self.name!r}, parameter {name!r}"
                )
            converted[name] = value
        return converted

    def build(self, params: Mapping[str, Any]) -> tuple[list[StepCall], dict[str, Output]]:
        """The graph for these (converted) parameters, and what the pipeline returns.

        Raises:
            InvalidInputError: The function does something with an output other than hand it on,
                or returns something other than outputs.
            ConfigurationError: It is called inside of a step or of another build.
        """
        if _graph.get() is not None:
            raise ConfigurationError(f"pipeline {self.name!r} is being built inside of another")
        calls: list[StepCall] = []
        token = _graph.set(calls)
        try:
            returned: Any = self.function(**params)  # type: ignore[call-arg]  # converted before
        finally:
            _graph.reset(token)
        return calls, self._results(returned)

    def _results(self, returned: Any) -> dict[str, Output]:
        if returned is None:
            return {}
        if isinstance(returned, Output):
            return {"result": returned}
        if isinstance(returned, tuple | list):
            returned = {f"result_{i + 1}": value for i, value in enumerate(returned)}
        if not isinstance(returned, dict) or not all(
            isinstance(value, Output) for value in returned.values()
        ):
            raise InvalidInputError(
                f"pipeline {self.name!r} must return outputs of its steps (one, a tuple, or a dict "
                f"by name), found {returned!r}"
            )
        return {str(key): value for key, value in returned.items()}


def _converted(value: Any, wanted: Any, what: str) -> Any:
    """A parameter's value as its annotated type; text may be the value itself, or JSON of it."""
    try:
        return msgspec.convert(value, wanted, strict=False)
    except (msgspec.ValidationError, TypeError) as error:
        if isinstance(value, str):
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(value, type=wanted)
        raise InvalidInputError(f"{what} = {value!r}: {error}") from error


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay_seconds: float = 0.0,
    timeout_seconds: float | None = None,
    memory_bytes: int | None = None,
    cache: bool = True,
    process: Literal["own", "shared"] = "own",
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(
    function: Callable[P, R] | None = None, /, *, name: str | None = None, **settings: Any
) -> Step[P, R] | Callable[[Callable[P, R]], Step[P, R]]:
    """Makes a function a step; see `Step` for the settings."""
    if function is not None:
        return Step(function, name or function.__name__, **settings)
    return lambda inner: Step(inner, name or inner.__name__, **settings)


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(*, name: str | None = None) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...
def pipeline(
    function: Callable[P, R] | None = None, /, *, name: str | None = None
) -> Pipeline[P, R] | Callable[[Callable[P, R]], Pipeline[P, R]]:
    """Makes a function that calls steps a pipeline."""
    if function is not None:
        return Pipeline(function, name or function.__name__, inspect.getdoc(function) or "")
    return lambda inner: Pipeline(inner, name or inner.__name__, inspect.getdoc(inner) or "")
