"""What ``understudy tune`` tries: a range of numbers, or names, for a key of the recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import InputError
from understudy.recipe.text import Place, Where, shown
from understudy.recipe.tries import Change
from understudy.registry import entry

__all__ = ["SHORT", "Range", "change_of", "defaults", "read_range"]

SHORT: dict[str, Where] = {
    "temperature": ("method", "temperature"),
    "alpha": ("method", "alpha"),
    "lr": ("optimizer", "lr"),
}
"""Keys that may be named without what holds them."""

SHARED = ("temperature",)
"""Options that say the same in each method that has them."""

NAME: Where = ("method", "name")


@dataclass(frozen=True)
class Range:
    """From low to high, or one of some names.

    Attributes:
        where: the key.
        whole: whether only whole numbers are drawn.
        log: whether ratios count, and not differences.
        names: what is chosen from; low and high are nothing then.
    """

    where: Where
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    names: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """As ``--set`` names it."""
        return ".".join(map(str, self.where))

    @property
    def place(self) -> Place:
        """For errors."""
        return Place(f"--over {self}", 0, Path())

    @property
    def of_method(self) -> bool:
        """Whether it is an option of the method, of which another method may have none."""
        return self.where[0] == "method" and self.where != NAME

    @property
    def ends(self) -> list[Any]:
        """The values of it that are checked."""
        return list(self.names) or [int(v) if self.whole else v for v in (self.low, self.high)]

    def __str__(self) -> str:
        if self.names:
            return f"{self.key}={','.join(str(n).lower() if isinstance(n, bool) else str(n) for n in self.names)}"
        return f"{self.key}={self.low!r}:{self.high!r}{':log' if self.log else ''}"

    def own(self, recipe: Mapping[str, Any]) -> Any:
        """The value that a recipe has, if it is in the range; None else."""
        at: Any = recipe
        for part in self.where:
            at = at[part] if isinstance(at, list) and isinstance(part, int) and part < len(at) else (at or {}).get(part)
        if self.names:
            return at if at in self.names else None
        number = isinstance(at, (int, float)) and not isinstance(at, bool) and self.low <= at <= self.high
        return at if number and (not self.whole or at == int(at)) else None

    def fits(self, values: Mapping[Where, Any]) -> bool:
        """Whether it is a value of what was drawn before: an option that the method has."""
        method = values.get(NAME)
        return not self.of_method or method is None or self.where[1] in entry("method", method).options

    def drawn(self, trial: Any) -> Any:
        """A value, by Optuna."""
        if self.names:
            return trial.suggest_categorical(self.key, list(self.names))
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def read_range(text: str) -> Range:
    """``key=low:high``, ``key=low:high:log`` or ``key=a,b,c``.

    Raises: InputError for anything else.

    >>> read_range("temperature=1.0:20:log").where, read_range("method.name=kd,dkd").names
    (('method', 'temperature'), ('kd', 'dkd'))
    """
    key, equals, given = (part.strip() for part in text.partition("="))
    wrong = f"--over {shown(text, 60)}: is not of the form key=low:high, key=low:high:log or key=a,b,c, such as temperature=1:20:log"
    if not equals or not key or not all(key.split(".")):
        raise InputError(f"{wrong}.")
    where = SHORT.get(key) or tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if ":" not in given:
        names = tuple(_value(name.strip()) for name in given.split(","))
        if len({*names}) < 2 or "" in names:
            raise InputError(f"{wrong}; give two values or more.")
        return Range(where, names=names)
    low, high, *more = given.split(":")
    if more not in ([], ["log"]):
        raise InputError(f"{wrong}.")
    ends = [_value(low), _value(high)]
    if not all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends):
        raise InputError(f"{wrong}; {shown(given)} has an end that is no number.")
    if not ends[0] < ends[1] or (more and ends[0] <= 0):
        why = (
            "the lower end of a logarithmic range must be above 0" if ends[0] < ends[1] else "the lower end comes first"
        )
        raise InputError(f"{wrong}; {why}.")
    # Whole only where the option is: a temperature of 1:20 is a real number.
    return Range(where, ends[0], ends[1], _is_whole(where, ends), bool(more))


def _is_whole(where: Where, ends: Sequence[Any]) -> bool:
    return all(isinstance(end, int) for end in ends) and where not in SHORT.values()


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def defaults(recipe: Mapping[str, Any]) -> list[Range]:
    """Temperature, alpha and learning rate, where the recipe has them. Raises: InputError where it has none."""
    method = recipe.get("method")
    known = entry("method", method["name"]).options if method else {}
    found = [Range(SHORT["temperature"], 1, 20, log=True)] if "temperature" in known else []
    found += [Range(SHORT["alpha"], 0.1, 1)] if "alpha" in known else []
    if lr := (recipe.get("optimizer") or {}).get("lr"):
        found.append(Range(SHORT["lr"], lr / 10, lr * 10, log=True))
    if not found:
        raise InputError(
            "tune: this recipe has neither temperature nor alpha nor learning rate. Say what to try: --over."
        )
    return found


def change_of(recipe: Mapping[str, Any], values: Mapping[Where, Any], ranges: Sequence[Range]) -> list[Change]:
    """Values laid over a recipe; another method without the options that it does not have."""
    place = {each.where: each.place for each in ranges}
    name = values.get(NAME)
    if name is None:
        return [Change(where, value, place[where]) for where, value in values.items()]
    known = entry("method", name).options
    before = recipe.get("method") or {}
    kept = before if before.get("name") == name else {k: v for k, v in before.items() if k in known and k in SHARED}
    own = {where[1]: value for where, value in values.items() if where[0] == "method"}
    others = [Change(where, value, place[where]) for where, value in values.items() if where[0] != "method"]
    return [Change(("method",), {**kept, **own, "name": name}, place[NAME]), *others]
