"""When a student is good enough: conditions on the figures of a run, written before it.

::

    accept={"accuracy": ">= 0.97 * teacher", "latency_ms_p50": "<= 2", "loss_nats": "< alone"}

    condition = (">=" | "<=" | ">" | "<") limit
    limit     = NUMBER | [NUMBER "*"] ("teacher" | "alone") [("+" | "-") NUMBER]

``teacher`` and ``alone`` are the same figure of the teacher, and of the student that was trained without one. The unit
of a figure is in its name, so that a limit is a bare number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.errors import InputError, choices, raise_all

__all__ = ["Condition", "parse"]

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
MODELS = ("teacher", "alone")

_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CONDITION = re.compile(
    rf"""(?P<op> >= | <= | > | < ) \s*
    (?: (?P<number> [+-]? {_PLAIN})
      | (?: (?P<factor> {_PLAIN}) \s* \* \s*)? (?P<model> [A-Za-z_]\w*)
        (?: \s* (?P<sign> [+-]) \s* (?P<offset> {_PLAIN}))? )""",
    re.VERBOSE,
)
_FORM = "Allowed: >=, <=, > or <, then a number, or such as 'teacher', '0.97 * teacher', 'alone + 0.02'."

# What people write instead, and what is wrong with it; the first that fits is said.
_SLIPS = (
    (r"$", "is empty"),
    (r".*(\band\b|&|[<>].*[\w\s].*[<>])", "holds several conditions; a figure has one"),
    (r"(?![<>])", "does not begin with >=, <=, > or <"),
    (rf"[<>]=?\s*{_PLAIN}\s*%", "has a percentage; a share is a number, such as 0.97 for 97 %"),
    (r"[<>]=?\s*\d+,\d", "has a comma; decimals follow a point"),
    (rf"[<>]=?\s*{_PLAIN}\s*({'|'.join(MODELS)})\b", "has no '*' between factor and model"),
    (rf"[<>]=?\s*({'|'.join(MODELS)})\s*[*]", "has its factor behind the model"),
    (rf"[<>]=?\s*[+-]?{_PLAIN}\s*[A-Za-zµ]\w*$", "has a unit; that is in the figure's name, as in latency_ms_p50"),
    (r"", "is not a condition"),
)


@dataclass(frozen=True)
class Condition:
    """``factor * model + offset`` as the limit of a figure, ``offset`` by itself where ``model`` is None."""

    name: str
    op: str
    model: str | None
    factor: float
    offset: float
    limit: str  # in the user's own figures

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.limit}"

    def check(self, value: float | None, teacher: float | None = None, alone: float | None = None) -> tuple[bool, str]:
        """Whether the student's figure meets it, and a sentence that says why.

        What was not measured, or is not a number, does not meet anything.

        >>> parse({"accuracy": ">= 0.97 * teacher"})[0].check(0.971, teacher=0.99)
        (True, 'accuracy 0.971 >= 0.97 * teacher = 0.960: met')
        """
        reference = {None: 0.0, "teacher": teacher, "alone": alone}[self.model]
        if value is None or math.isnan(value):
            return False, f"{self}: not met, for there is no {self.name} of the student"
        if reference is None or math.isnan(reference):
            return False, f"{self}: not met, for there is no {self.name} of {self.model}"
        limit = self.factor * reference + self.offset
        # 0.1 * 3 is above 0.3 only in binary: what differs by no more than that is equal.
        met = bool(OPERATORS[self.op](limit if math.isclose(value, limit, rel_tol=1e-12) else value, limit))
        shown, against = _told_apart(value, limit)
        equals = f" = {against}" if self.model else ""
        return met, f"{self.name} {shown} {self.op} {self.limit}{equals}: {'met' if met else 'not met'}"

    def lack(self, value: float | None, teacher: float | None = None, alone: float | None = None) -> str | None:
        """By how much the student's figure misses it, in words; None if it is met.

        >>> parse({"accuracy": ">= 0.97 * teacher"})[0].lack(0.931, teacher=0.99)
        'accuracy 0.931 is 0.0293 below 0.97 * teacher = 0.960'
        """
        met, told = self.check(value, teacher, alone)
        reference = {None: 0.0, "teacher": teacher, "alone": alone}[self.model]
        if met or value is None or reference is None or math.isnan(value - reference):
            return None if met else told
        limit = self.factor * reference + self.offset
        shown, against = _told_apart(value, limit)
        by, equals = abs(value - limit), f" = {against}" if self.model else ""
        side = "below" if self.op in (">=", ">") else "above"
        return f"{self.name} {shown} is {by:.{min(_decimals(by), 12)}f} {side} {self.limit}{equals}"


def parse(accept: Mapping[str, Any] | None, known: Collection[str] = ()) -> list[Condition]:
    """Every condition, or one error with all that is wrong with any of them.

    Args:
        accept: the limit of each figure, by its name; None is no condition.
        known: the figures that the run will give; names are not checked if there are none.

    Raises: InputError that lists every problem.

    >>> [str(c) for c in parse({"size_mb": "<=1"})]
    ['size_mb <= 1']
    """
    conditions, problems = [], []
    for name, text in (accept or {}).items():
        if known and name not in known:
            problems.append(f"accept: {name!r} is not a figure of this run. {_nearest(name, known)}")
        read = _read(name, text)
        if isinstance(read, Condition):
            conditions.append(read)
        else:
            problems.append(f"accept[{name!r}]: {read}")
    raise_all(InputError, problems)
    return conditions


def _read(name: str, text: object) -> Condition | str:
    """The condition, or what is wrong with it."""
    if not isinstance(text, str):
        return f"{text!r} is not a condition. Write a string such as '>= {text}'."
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        slip = next(told for pattern, told in _SLIPS if re.match(pattern, text.strip()))
        return f"{text!r} {slip}. {_FORM}"
    op, model, sign = found["op"], found["model"], found["sign"] or "+"
    if model is not None and model not in MODELS:
        return f"{text!r}: {model!r} is not a model to compare with. {choices(model, MODELS)}"
    offset = float(found["number"] or sign + (found["offset"] or "0"))
    factor = float(found["factor"] or bool(model))
    if math.isinf(offset + factor):
        return f"{text!r}: a number is too large."
    parts = (found["number"], found["factor"], found["factor"] and "*", model, found["sign"], found["offset"])
    return Condition(name, op, model, factor, offset, " ".join(part for part in parts if part))


def _nearest(name: str, known: Collection[str]) -> str:
    """A figure that is asked for without its unit or its quantile, or mistyped."""
    longer = [f"'{k}'" for k in known if k.startswith(f"{name}_")]
    return f"Did you mean {' or '.join(longer)}?" if longer else choices(name, known)


def _told_apart(value: float, limit: float) -> tuple[str, str]:
    """Both in a few digits, and in as many more as it takes to see which one is larger."""
    for more in range(16):
        shown = tuple(f"{x:.{_decimals(x) + more}f}" for x in (value, limit))
        if shown[0] != shown[1] or math.isclose(value, limit, rel_tol=1e-12):
            break
    return shown[0], shown[1]


def _decimals(number: float) -> int:
    if not math.isfinite(number) or abs(number) >= 1000:
        return 0
    return max(3, 2 - math.floor(math.log10(abs(number)))) if number else 3
