"""Tests of the error tree."""

import pickle

import pytest

import glm_core
from glm_core import errors

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_all_errors_are_under_test() -> None:
    """The module holds the thirteen errors that its drawing shows."""
    assert len(ALL) == 13
    drawing = errors.__doc__ or ""
    assert all(error.__name__ in drawing for error in ALL)


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_a_glm_error_and_public(error: type[Exception]) -> None:
    """One ``except GlmError`` catches each, and each is offered by the package itself."""
    assert issubclass(error, errors.GlmError)
    assert getattr(glm_core, error.__name__) is error


@pytest.mark.parametrize("error", ALL)
def test_every_error_crosses_processes(error: type[Exception]) -> None:
    """An error is built from its message alone, and so survives pickling."""
    copy = pickle.loads(pickle.dumps(error("what happened")))
    assert type(copy) is error
    assert str(copy) == "what happened"


def test_out_of_memory_is_a_device_error() -> None:
    """Who handles device errors handles the lack of memory too."""
    assert issubclass(errors.OutOfMemoryError, errors.DeviceError)
