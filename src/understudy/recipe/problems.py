"""Problems, collected with their places in the recipe, to be told at once."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import understudy
from understudy.errors import InputError, MachineError, UnderstudyError
from understudy.recipe.complaints import dotted
from understudy.recipe.text import Document, Where

__all__ = ["Problems"]

MOST = 30
"""Problems that are told at once."""

LONG = 1000
"""Characters of a problem: some quote what was typed, and that may be the whole recipe."""

Made = TypeVar("Made")

_HOME = Path(understudy.__file__).parent

_SECTIONS: dict[str, Where] = {
    "student": ("student",), "teacher": ("teacher",), "teacher_epochs": ("teacher", "epochs"), "teacher_data": ("teacher", "data"),
    "train": ("data",), "valid": ("data",), "test": ("data",), "classes": ("data",), "data": ("data",), "accept": ("accept",), "deadline_ms": ("deadline_ms",),
    "Optim": ("optimizer",), "settings: device": ("device",), "with_unlabelled": ("data", "unlabelled"),
}  # fmt: skip
"""Which key of a recipe is meant by what errors begin with."""


class Problems:
    """What is wrong with a document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: dict[tuple[int, str], type[UnderstudyError]] = {}

    def add(self, where: Where, told: str, kind: type[UnderstudyError] = InputError) -> None:
        """One, unless it is known already."""
        place = self.document.place(where)
        told = told if len(told) <= LONG else f"{told[: LONG - 200]} ... {told[-200:]}"
        self.found.setdefault((place.line, f"{place}: {told}"), kind)

    def attempt(self, where: Where, make: Callable[[], Made]) -> Made | None:
        """What is made; None, and problems, where it cannot be."""
        try:
            return make()
        except UnderstudyError as error:
            for line in str(error).split("\n"):
                told = re.sub(r"`(\w+)=(\w+)\(\)`", r"`\1: \2`", line)  # as a recipe says it
                self.add(self._place(where, line), told, _kind(error))
        except Exception as error:
            if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
                told = "needs more memory than this machine has. Make models, pictures or batches smaller."
                self.add(where, f"{dotted(where)}: {told}", MachineError)
                return None
            if _is_ours(error):
                raise
            # Of a plugin, or of the library below a model or a data set.
            self.add(where, f"{dotted(where)}: fails: {type(error).__name__}: {error}")
        return None

    def tell(self) -> None:
        """Raise one error with all of them, in the order of the lines; do nothing where there is none."""
        if not self.found:
            return
        lines = [told for _, told in sorted(self.found)]
        more = [f"... and {len(lines) - MOST} more."] if len(lines) > MOST else []
        kinds = set(self.found.values())
        raise (kinds.pop() if len(kinds) == 1 else InputError)("\n".join(lines[:MOST] + more))

    def _place(self, where: Where, line: str) -> Where:
        """More closely: the part that the error names, or the option that it names or whose value it quotes."""
        if not where:
            section = max((s for s in _SECTIONS if line.startswith(s)), key=len, default=None)  # the most that fits
            where = ("method",) if section is None else _SECTIONS[section]
        if (found := re.match(r"terms\[(\d+)\]", line)) and "terms" in self.document.value and where == ("method",):
            return ("terms", int(found[1]))
        value: Any = self.document.value
        for part in where:
            value = value.get(part) if isinstance(value, dict) else value[part] if isinstance(value, list) else None
        options = {k: v for k, v in value.items() if k != "name"} if isinstance(value, Mapping) else {}
        named = [k for k in options if re.search(rf"(?<!\w){re.escape(k)}=", line)]
        quoted = named or [k for k, v in options.items() if isinstance(v, str) and v in line]
        return (*where, quoted[0]) if len(quoted) == 1 else where


def _kind(error: UnderstudyError) -> type[UnderstudyError]:
    return next(kind for kind in type(error).__mro__ if kind.__bases__[0] is UnderstudyError)


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by a line of ours, so that it is a bug."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(_HOME)
