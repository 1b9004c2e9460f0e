"""What a table's columns are, learnt from one file and kept as plain data, so that another file is read alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from understudy.data.cells import MISSING, Cells
from understudy.errors import InputError

__all__ = ["learnt", "names_of", "read"]

MOST_VALUES = 100
"""Different texts that a column may have before it must be called categorical by name: one-hot columns are many."""


def learnt(cells: Cells, categorical: Collection[str]) -> dict[str, Any] | None:
    """How to read a column: its mean and deviation, or its values; None if it is empty.

    Raises: InputError if it is mostly numbers, but not all; or if it is text with very many different values.
    """
    share = cells.share_of_numbers()
    if cells.name not in categorical and share >= 0.5:
        return _of_numbers(cells, share)
    values = sorted({text for text in cells.texts if text})
    if cells.name in categorical or all(text.lower() in MISSING for text in values):
        values = values if cells.name in categorical else []
    elif len(values) > MOST_VALUES:
        comma = " Are these numbers with a comma? Write them with a point." * bool(
            re.fullmatch(r"[-+]?\d+,\d+", values[0])
        )
        raise InputError(
            f"{cells.file}: {cells.name!r} is text with {len(values)} different values ({values[0]!r}, {values[1]!r}, ...).{comma} "
            f"Leave it out with ignore=[{cells.name!r}], or keep each value as a column with categorical=[{cells.name!r}]."
        )
    return {"name": cells.name, "values": values} if values else None


def _of_numbers(cells: Cells, share: float) -> dict[str, Any]:
    try:
        numbers = cells.numbers()
    except InputError as error:
        raise InputError(
            f"{error} Of the others {share:.0%} are numbers; if they are names, say categorical=[{cells.name!r}]."
        ) from error
    return {"name": cells.name, "mean": float(np.nanmean(numbers)), "std": float(np.nanstd(numbers))}


def names_of(column: Mapping[str, Any]) -> list[str]:
    """What the model's inputs from this column are.

    >>> names_of({"name": "colour", "values": ["blue", "red"]})
    ['colour=blue', 'colour=red']
    """
    return [f"{column['name']}={value}" for value in column["values"]] if "values" in column else [column["name"]]


def read(cells: Cells, column: Mapping[str, Any], notes: list[str]) -> np.ndarray[Any, Any]:
    """float64 ``[N, 1]``, or one-hot ``[N, values]``; what was not as it should be goes to the notes.

    Raises: InputError, with the line, if a column of numbers holds something else.
    """
    if "values" in column:
        return _one_hot(cells, column["values"], notes)
    values, mean, std = cells.numbers(), column["mean"], column["std"]
    missing = np.isnan(values)
    if missing.any():
        first, count = int(missing.argmax()), int(missing.sum())
        notes.append(
            f"{cells.at(first)} is missing here and in {count} of {len(values)} samples: the mean {mean:.6g} stands in."
        )
    if not std:
        notes.append(
            f"{cells.file}: {cells.name!r} was {mean:.6g} in every sample that it was learnt from, and tells nothing."
        )
    return np.asarray((np.where(missing, mean, values) - mean) / (std or 1.0))[:, None]


def _one_hot(cells: Cells, values: Sequence[str], notes: list[str]) -> np.ndarray[Any, Any]:
    place = {value: i for i, value in enumerate(values)}
    hot = np.zeros((len(cells.texts), len(values)))
    for sample, text in enumerate(cells.texts):
        if text in place:
            hot[sample, place[text]] = 1
    for what, wrong in (("missing", lambda t: not t), ("new", lambda t: t and t not in place)):
        count = sum(map(bool, map(wrong, cells.texts)))
        if count:
            first = cells.first(wrong)
            shown = f" ({cells.texts[first]!r})" * bool(cells.texts[first])
            notes.append(
                f"{cells.at(first)} is {what}{shown} here and in {count} of {len(cells.texts)} samples: all its inputs are 0."
            )
    return hot
