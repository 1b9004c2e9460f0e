"""Addresses: strings that name a tensor. The grammar, parsed once and checked early.

::

    address = ["stop "] (model ["@" view] | "batch") ["." submodule ["#" call] ["<"] | ":" parameter] {"/" key}

``docs/addresses.md`` explains it with examples.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from understudy.errors import AddressError

__all__ = ["BATCH", "Address"]

BATCH = "batch"
GRAMMAR = '["stop "] (model ["@" view] | "batch") ["." submodule ["#" call] ["<"] | ":" parameter] {"/" key}'

_FORM = re.compile(
    r"""(?P<stop>stop[ ]+)?
        (?P<model>[A-Za-z_]\w*)
        (?:@(?P<view>[A-Za-z_]\w*))?
        (?:\.(?P<module>[^\s#:/@.<]+(?:\.[^\s#:/@.<]+)*)(?:\#(?P<call>\d{1,9}))?(?P<enters><)? | :(?P<parameter>[^\s#:/@]+))?
        (?P<keys>(?:/[^\s/]+)*)""",
    re.VERBOSE,
)
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # what `int` gives back as it was written; all else is a name


@dataclass(frozen=True)
class Address:
    """One parsed address. Make it with :meth:`parse`.

    ``module`` is a submodule's dotted path, or, in an address of the batch, a field's. ``call`` counts from 0. ``enters``
    says that what goes into the submodule is meant, and not what comes out of it.
    """

    model: str
    stop: bool = False
    view: str | None = None
    module: str | None = None
    call: int | None = None
    parameter: str | None = None
    keys: tuple[str | int, ...] = ()
    enters: bool = False

    @staticmethod
    def parse(text: str) -> Address:
        """Parse, or raise :class:`AddressError` that quotes the text and the grammar.

        >>> Address.parse("stop b.layer2#1/0")
        Address(model='b', stop=True, view=None, module='layer2', call=1, parameter=None, keys=(0,), enters=False)
        >>> str(Address.parse("teacher@weak:fc.weight"))
        'teacher@weak:fc.weight'
        """
        if not isinstance(text, str):
            raise AddressError(
                f"address {text!r}: is a {type(text).__name__}; an address is a string such as 'student.layer3'."
            )
        return Address._parse(text)

    @staticmethod
    @functools.cache
    def _parse(text: str) -> Address:
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise AddressError(f"address {text!r}: does not parse. Allowed: {GRAMMAR}")
        part = match.groupdict()
        if part["model"] == "stop":
            raise AddressError(f"address {text!r}: 'stop' wants an address behind it, as in 'stop student.layer4'.")
        if part["model"] == BATCH and (part["view"] or part["call"] or part["enters"] or part["parameter"]):
            raise AddressError(f"address {text!r}: a batch has fields only, as in 'batch.label' or 'batch/1'.")
        keys = tuple(int(k) if _INTEGER.fullmatch(k) else k for k in part["keys"].split("/")[1:])
        return Address(
            model=part["model"],
            stop=part["stop"] is not None,
            view=part["view"],
            module=part["module"],
            call=None if part["call"] is None else int(part["call"]),
            parameter=part["parameter"],
            keys=keys,
            enters=part["enters"] is not None,
        )

    @property
    def of_batch(self) -> bool:
        """Whether it names a field of the batch."""
        return self.model == BATCH

    @property
    def per_sample(self) -> bool:
        """Whether what it names has a row for every sample; a parameter has not."""
        return self.parameter is None

    @property
    def tap(self) -> str | None:
        """Where a model is tapped for it: the submodule, with ``<`` for what goes into it."""
        return f"{self.module}<" if self.enters else self.module

    def __str__(self) -> str:
        text = ("stop " if self.stop else "") + self.model + (f"@{self.view}" if self.view else "")
        if self.module is not None:
            text += f".{self.module}" + ("" if self.call is None else f"#{self.call}") + "<" * self.enters
        if self.parameter is not None:
            text += f":{self.parameter}"
        return text + "".join(f"/{key}" for key in self.keys)
