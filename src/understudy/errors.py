"""What can go wrong, for whom, and with which exit code.

::

    UnderstudyError
    ├── InputError            2  what the user gave cannot be used (also a ValueError)
    │   ├── AddressError         an address that does not parse, or names nothing
    │   ├── ShapeError           tensors whose shapes do not go together
    │   ├── TapError             a submodule that was asked for did not run, or ran in an unexpected way
    │   └── NonFiniteError       a loss or a gradient is NaN or infinite
    ├── CorruptError          3  a file is damaged or is not what it claims to be
    ├── MachineError          4  disk, memory, network, a missing package
    │   ├── MissingExtra         an optional package is needed (also an ImportError)
    │   └── PeerLost             another process of this run has died
    └── Interrupted           5  stopped by a signal; the run can be resumed

Exit code 1 is left to Python: an exception of any other kind is a bug of ours.

Every message says where, what was wrong with the value that was given, what is allowed, and the likely fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AddressError",
    "CorruptError",
    "InputError",
    "Interrupted",
    "MachineError",
    "MissingExtra",
    "NonFiniteError",
    "PeerLost",
    "ShapeError",
    "TapError",
    "UnderstudyError",
    "choices",
    "raise_all",
]


class UnderstudyError(Exception):
    """Root of every error that understudy raises on purpose."""

    exit_code = 1


class InputError(UnderstudyError, ValueError):
    """What the user gave cannot be used."""

    exit_code = 2


class AddressError(InputError):
    """An address does not parse, or names something that does not exist."""


class ShapeError(InputError):
    """Tensors do not go together."""


class TapError(InputError):
    """A submodule that an address names did not run, or ran more often than the address allows."""


class NonFiniteError(InputError):
    """A loss or gradient is NaN or infinite; the weights are those from before the step."""


class CorruptError(UnderstudyError):
    """A file is damaged, or is not what it claims to be."""

    exit_code = 3


class MachineError(UnderstudyError):
    """The machine cannot do it: disk, memory, network, packages."""

    exit_code = 4


class MissingExtra(MachineError, ImportError):
    """An optional package is not installed."""

    def __init__(self, purpose: str, extra: str = "", *, fix: str = "") -> None:
        fix = fix or f"pip install 'understudy[{extra}]'"
        super().__init__(f"{purpose} needs a package that is not installed. Fix: {fix}")


class PeerLost(MachineError):
    """Another process of this run has died."""


class Interrupted(UnderstudyError):
    """A signal stopped the run at a step boundary; it can be resumed."""

    exit_code = 5


def choices(given: object, allowed: Iterable[object], most: int = 12) -> str:
    """A sentence with the name nearest to what was given, in whichever case, or all that is allowed.

    >>> choices("layr4", ["layer3", "layer4"])
    "Did you mean 'layer4'?"
    >>> choices("ADAM", ["SGD", "Adam"])
    "Did you mean 'Adam'?"
    >>> choices("x", ["layer3", "layer4"])
    'Allowed: layer3, layer4.'
    """
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(given).casefold(), [name.casefold() for name in names], n=1, cutoff=0.7)
    if near:
        alike = [name for name in names if name.casefold() == near[0]]
        return f"Did you mean {difflib.get_close_matches(str(given), alike, n=1, cutoff=0)[0]!r}?"
    if not names:
        return "Nothing is allowed here."
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return f"Allowed: {', '.join(names[:most])}{more}."


def raise_all(kind: type[UnderstudyError], problems: list[str]) -> None:
    """Raise one error that lists every problem; do nothing where there is none."""
    if problems:
        raise kind("\n".join(problems))
