"""What a model may be asked to be, told before it is made: a slip of a number should not fill the memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from understudy.errors import InputError, MachineError, raise_all

__all__ = ["MOST_LAYERS", "MOST_PARAMETERS", "check_layers", "check_parameters", "check_sizes"]

MOST_PARAMETERS = 10**9
"""4 GB of weights; a teacher beyond that comes from a file."""

MOST_LAYERS = 1000
"""However narrow they are, making them takes time."""

TRAINED = 16
"""Bytes of a parameter that is trained: itself, its gradient, and two numbers of AdamW's."""


def check_sizes(where: str, sizes: Mapping[str, Any], lists: Mapping[str, Any] | None = None) -> None:
    """Refuse anything but whole numbers from 1, and lists of them.

    Raises: InputError with all that is wrong.
    """
    problems = [
        f"{where}: {name}={value!r} is not allowed; give a whole number, 1 or above."
        for name, value in sizes.items()
        if not _is_size(value)
    ]
    problems += [
        f"{where}: {name}={value!r} is not allowed; give a list of whole numbers, 1 or above."
        for name, value in (lists or {}).items()
        if not isinstance(value, tuple | list) or not all(map(_is_size, value))
    ]
    raise_all(InputError, problems)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_parameters(where: str, parameters: int) -> None:
    """Refuse a model that is too large to be made from nothing."""
    if parameters > MOST_PARAMETERS:
        raise InputError(
            f"{where}: would have {parameters:,} parameters; allowed are {MOST_PARAMETERS:,}. Make it narrower or shallower."
        )
    needed, there = TRAINED * parameters, _memory()
    if there is not None and needed > there:
        raise MachineError(
            f"{where}: would have {parameters:,} parameters, and to train them needs {needed / 1e9:.1f} GB of memory; "
            f"this machine has {there / 1e9:.1f}. Make it narrower or shallower."
        )


def check_layers(where: str, layers: int) -> None:
    """Refuse a model that is too deep to be made from nothing."""
    if layers > MOST_LAYERS:
        raise InputError(f"{where}: would have {layers:,} layers; allowed are {MOST_LAYERS:,}. Make it shallower.")


def _memory() -> int | None:
    """Of this machine, in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
