"""A table's cells: how a value is written, what it is sorted by, and which one is the best."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.report.words import left_out

__all__ = ["ROWS", "cells"]

ROWS = 500

_MINUS = "\u2212"  # the sign of mathematics, not the hyphen
# "0.93 ± 0.01" and "85 %" are numbers too; "3 layers" is not.
_NUMBER = re.compile(r"\s*([-+\u2212]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?:%|±\s*[\d.,eE+-]+\s*%?)?\s*")


def cells(columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Headings and rows of cells, for the template; None without any. A column without a single value is left out."""
    shown = rows[:ROWS]
    columns = [column for column in columns if any(row.get(column["key"]) is not None for row in shown)]
    if not columns:
        return None
    filled = [_column(column, [row.get(column["key"]) for row in shown]) for column in columns]
    return {
        "heads": [head for head, _ in filled],
        "rows": list(zip(*(column for _, column in filled), strict=True)),
        "marked": any(cell["best"] for _, column in filled for cell in column),
        "note": left_out(len(shown), len(rows), "rows"),
    }


def _column(column: Mapping[str, Any], values: Sequence[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    there = [value for value in values if value is not None]
    numbers = [_number(value) for value in there]
    numeric = bool(there) and None not in numbers
    better = column.get("better")
    finite = [n for n in numbers if n is not None and math.isfinite(n)]
    best = _best(finite, better, column.get("above")) if numeric else None
    form = column.get("form") or "{}"
    head = {"title": column["title"], "numeric": numeric, "better": better if numeric else None}
    return head, [_cell(value, form, numeric, best) for value in values]


def _cell(value: Any, form: str, numeric: bool, best: float | None) -> dict[str, Any]:
    if value is None:
        return {"text": None, "key": None, "best": False}
    text, number = _written(value, form), _number(value)
    if not numeric:
        return {"text": text, "key": text, "best": False}
    key = repr(number) if number is not None and math.isfinite(number) else None
    return {"text": text, "key": key, "best": best is not None and number == best}


def _written(value: Any, form: str) -> str:
    if isinstance(value, Mapping):
        mean = _written(value["mean"], form)
        return mean if value.get("half") is None else f"{mean} ± {_written(value['half'], form)}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        return form.format(value)
    except (ValueError, TypeError):  # a text in a column of numbers
        return str(value)


def _number(value: Any) -> float | None:
    """What a cell is sorted by, if it is a number: of "0.93 ± 0.01" the mean."""
    if isinstance(value, Mapping):
        return _number(value.get("mean"))
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value)
        return float(found[1].replace(",", "").replace(_MINUS, "-")) if found else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _best(numbers: Sequence[float], better: str | None, above: float | None) -> float | None:
    """The best of the numbers, where there is a choice, and where it is good at all."""
    if better not in ("max", "min") or len(set(numbers)) < 2:
        return None
    best = max(numbers) if better == "max" else min(numbers)
    return best if above is None or best > above else None
