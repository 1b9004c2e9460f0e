"""What a recipe's ``search`` asks for: how long to try, and what, in which order."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from understudy.errors import InputError, choices
from understudy.recipe.problems import Problems
from understudy.recipe.resolved import Resolved
from understudy.recipe.text import Document, Place, Where, shown
from understudy.registry import entry

__all__ = ["KINDS", "Budget", "Change", "Tries", "brief", "check_tries", "laid", "read_budget"]

KINDS = ("temperature", "alpha", "lr", "data", "student", "ratio", "assistant")
"""What may be tried, in order of cost: to try it, and to whoever runs the student."""

DEFAULTS: dict[str, tuple[float, ...]] = {
    "temperature": (1, 2, 4, 8, 16),
    "alpha": (0.5, 0.9, 1.0),
    "lr": (1 / 3, 3),
}
"""What is tried where the recipe does not say; of lr they are factors. The other kinds have no default."""

UNITS = {"s": 1, "m": 60, "h": 3600}
DIGITS = 6  # of a learning rate that is worked out


@dataclass(frozen=True)
class Budget:
    """How much may be tried: one of the two is None."""

    seconds: float | None = None
    attempts: int | None = None

    def __str__(self) -> str:
        if self.seconds is None:
            return f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"
        return f"{self.seconds / 60:g} min" if self.seconds >= 60 else f"{self.seconds:g} s"

    def left(self, spent: float, made: int) -> bool:
        """Whether there is any, after so many seconds and attempts."""
        return spent < self.seconds if self.seconds is not None else made < (self.attempts or 0)


def read_budget(given: object, where: str = "search.budget") -> Budget:
    """A time, or a number of attempts. Raises: InputError for anything else.

    >>> read_budget("1h30m").seconds, read_budget(8).attempts
    (5400.0, 8)
    """
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return Budget(attempts=given)
    text = given.replace(" ", "").lower() if isinstance(given, str) else ""
    if text.isdecimal():
        return Budget(attempts=int(text))
    if re.fullmatch(r"(\d+(\.\d+)?[smh])+", text):
        return Budget(seconds=sum(float(n) * UNITS[u] for n, u in re.findall(r"([\d.]+)([smh])", text)))
    raise InputError(
        f"{where}: {shown(given)} is no budget. Write a time, such as 90s, 10m or 1h30m, or a number of attempts, such as 8."
    )


@dataclass(frozen=True)
class Change:
    """A value that is laid over a recipe's own."""

    where: Where
    value: Any
    place: Place

    @property
    def key(self) -> str:
        """As ``--set`` names it."""
        return ".".join(map(str, self.where))

    def __str__(self) -> str:
        return f"{self.key} {brief(self.value)}"


def laid(document: Document, recipe: Mapping[str, Any], changes: Sequence[Change]) -> Document:
    """A document with changes laid over it.

    Args:
        recipe: its values in full, from which comes what the document leaves to the defaults and a change is a part of.
    """
    made = Document(copy.deepcopy(document.value), dict(document.places), document.top)
    for change in changes:
        top = change.where[0]
        if len(change.where) > 1 and made.value.get(top) is None:
            made.value[top] = copy.deepcopy(recipe[top])
        made.set(change.where, copy.deepcopy(change.value), change.place)
    return made


def brief(value: Any) -> str:
    """A value of a recipe on a short line.

    >>> brief({"name": "digits", "labelled": 500}), brief(0.0099999)
    ('{name: digits, labelled: 500}', '0.0099999')
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {brief(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(brief, value))}]"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value) if isinstance(value, str) else shown(value)


@dataclass(frozen=True)
class Tries:
    """What a search tries.

    Attributes:
        document: the recipe.
        resolved: its values in full.
    """

    document: Document
    resolved: Resolved

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """As a run writes them down, so that one which is gone on with from its folder tries the same."""
        return self.resolved.plain()

    @property
    def asked(self) -> Mapping[str, Any]:
        """What stands under ``search``; of a budget alone, which is short for it, a mapping of that."""
        found = self.recipe["search"]
        return found if isinstance(found, Mapping) else {"budget": found}

    @property
    def budget(self) -> Budget:
        """Of the attempts after the recipe's own."""
        return read_budget(self.asked["budget"])

    @property
    def kinds(self) -> list[str]:
        """What is tried, in its order: what the recipe has values for or there are defaults of, and the method can take."""
        order = self.asked.get("order") or KINDS
        return [kind for kind in order if self._values(kind) and self._at(kind) is not None]

    @property
    def passed_over(self) -> list[str]:
        """What was asked for or goes without saying, and cannot be tried here; a sentence for each."""
        order = self.asked.get("order") or KINDS
        return [
            f"search: {kind} is passed over: {self._lacks(kind)}."
            for kind in order
            if self._values(kind) and self._at(kind) is None
        ]

    def changes(self, kind: str, base: Mapping[str, Any]) -> list[Change]:
        """Every value of a kind but that which it has, as a change of a recipe whose values in full are given."""
        where = self._at(kind)
        assert where is not None  # of the kinds that are tried
        now: Any = base
        for part in where if kind != "assistant" else ():
            now = now[part] if isinstance(now, list) else (now or {}).get(part)
        values = [float(f"{now * f:.{DIGITS}g}") for f in self._values(kind)] if kind == "lr" else self._values(kind)
        places = [self.document.place(("search", kind, i)) for i in range(len(values))]
        return [Change(where, v, p) for v, p in zip(values, places, strict=True) if kind == "assistant" or v != now]

    def told(self, change: Change) -> str:
        """A change in few words: of an entry, what is other than in the recipe."""
        kind = change.where[-1] if change.where[-1] in KINDS else change.where[0]
        own = self.recipe.get(kind)
        if not isinstance(change.value, Mapping) or not isinstance(own, Mapping) or own["name"] != change.value["name"]:
            return f"{kind} {brief(change.value)}"
        others = [f"{k}: {brief(v)}" for k, v in change.value.items() if own.get(k) != v]
        return f"{kind} {', '.join(others)}"

    def _values(self, kind: str) -> list[Any]:
        found = self.asked.get(kind)
        return list(DEFAULTS.get(kind, ()) if found is None else found)

    def _at(self, kind: str) -> Where | None:
        """Where a recipe has it; None where it has no such thing."""
        method = self.recipe.get("method")
        if kind in ("temperature", "alpha"):
            known = entry("method", method["name"]).options if method else {}
            return ("method", kind) if kind in known else None
        if kind == "lr":
            return ("optimizer", "lr") if "lr" in (self.recipe.get("optimizer") or {}) else None
        if kind == "ratio":
            steps = enumerate(self.recipe.get("compress") or ())
            return next((("compress", i, "ratio") for i, s in steps if "ratio" in _options(s)), None)
        return (kind,)

    def _lacks(self, kind: str) -> str:
        if kind == "lr":
            return "the optimizer has no learning rate"
        if kind == "ratio":
            return "no compression of this recipe has a ratio"
        method = self.recipe.get("method")
        return f"the method {method['name']} has no such option" if method else "terms have options of their own"


def _options(step: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry("compression", step["name"]).options


def check_tries(problems: Problems, resolved: Resolved) -> None:
    """Collect what is wrong with a recipe's search."""
    tries, recipe = Tries(problems.document, resolved), resolved.value
    asked = tries.asked
    if not recipe.get("accept"):
        told = "search: there is nothing to search for without accept. Say what is enough, such as accept: {accuracy: '>= 0.97 * teacher'}."
        problems.add(("search",), told)
    problems.attempt(("search", "budget") if "budget" in asked else ("search",), lambda: tries.budget)
    for i, kind in enumerate(asked.get("order") or ()):
        if kind not in KINDS:
            problems.add(("search", "order", i), f"search.order: {shown(kind)} cannot be tried. {choices(kind, KINDS)}")
        elif kind not in DEFAULTS and not asked.get(kind):
            problems.add(("search", "order", i), f"search.order: {kind}: nothing of it is given. Add {kind}: [...].")
        elif kind in (asked.get("order") or ())[:i]:
            problems.add(("search", "order", i), f"search.order: {kind} is there twice. Remove one.")
    if "optimizer" in recipe and {*(asked.get("order") or ())} <= {*KINDS} and not tries.kinds:
        told = " ".join(["search: there is nothing to try.", *tries.passed_over, f"Give {', '.join(KINDS[3:])} or lr."])
        problems.add(("search",), told)
