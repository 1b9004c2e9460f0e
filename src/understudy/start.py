"""The student as it begins: the one that was given, one that is made anew, or its teacher made smaller."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from understudy.compress import Step, chain, copied
from understudy.errors import InputError
from understudy.examples import Examples, device_of

__all__ = ["CALIBRATION", "TEACHER", "Make", "begun", "compressed"]

Make = nn.Module | Callable[[], nn.Module] | str
"""A student, a function that makes one, or :data:`TEACHER`."""

TEACHER = "teacher"
"""In a student's place: one that begins as the teacher is, for compression to make it smaller."""

CALIBRATION = 256
"""Samples from which a compression sees what is important, and how large numbers get."""


def begun(make: Make, teacher: Any) -> nn.Module:
    """A student that is not compressed yet. A module is copied; what a function makes is taken.

    Raises: InputError for what is neither, or a function that does not make a module.
    """
    if isinstance(make, nn.Module):
        return copy.deepcopy(make)
    if isinstance(make, str):
        if not isinstance(teacher, nn.Module):
            raise InputError(f"student: a teacher that is a {type(teacher).__name__} is no module to begin with.")
        return copied(teacher).cpu()  # where other students begin too; the teacher is where it was trained
    if not callable(make):
        raise InputError(f"student: a {type(make).__name__} is neither a module nor a function that makes one.")
    try:
        made: object = make()
    except TypeError as error:
        raise InputError(
            f"student: the function that makes it failed: {error}. Write lambda: Model(arguments)."
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"student: the function gave a {type(made).__name__}; it must make an nn.Module.")
    return made


def compressed(model: nn.Module, steps: Sequence[Step], train: Examples) -> nn.Module:
    """A student after these ways, each of which may look at the first samples of the training data."""
    if not steps:
        return model
    inputs = train.few(CALIBRATION).inputs()
    if inputs is None:
        raise InputError("compress: a model that takes several inputs is compressed by hand, with understudy.compress.")
    return chain(model, inputs.to(device_of(model)), steps)
