from __future__ import annotations

import inspect

import pytest

from madang import errors


def every_error():
    found = vars(errors).values()
    return [e for e in found if inspect.isclass(e) and issubclass(e, Exception)]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn, stack = {}, []
    for line in errors.__doc__.splitlines():
        name = line.strip("│├└─ ").split(" ")[0]
        if not name.endswith("Error"):
            continue
        depth = (len(line) - len(line.lstrip("│├└─ ")) - 4) // 4
        stack[depth:] = [name]
        drawn[name] = stack[-2] if depth else "Exception"
    assert drawn == {error.__name__: error.__bases__[0].__name__ for error in every_error()}


@pytest.mark.parametrize("error", every_error())
def test_each_has_an_http_status_and_a_sentence(error):
    assert 400 <= error.status < 600
    assert inspect.getdoc(error).endswith((".", "on purpose.")) or "Attributes:" in error.__doc__


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.NotFoundError, LookupError),
        (errors.InvalidInputError, ValueError),
        (errors.MissingDependencyError, ImportError),
        (errors.PermissionDeniedError, PermissionError),
        (errors.UnavailableError, ConnectionError),
        (errors.StepTimeoutError, TimeoutError),
    ],
)
def test_each_is_what_a_caller_would_expect(error, also):
    assert issubclass(error, also)
    assert issubclass(error, errors.MadangError)


def test_unavailable_shows_its_message():
    # Subclasses of OSError take two arguments for number and text; one is a message.
    assert str(errors.UnavailableError("server x does not answer")) == "server x does not answer"
