"""The label column of a table: classes or measured values, and which samples have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data.cells import MISSING, TOLD, Cells, number
from understudy.errors import InputError, choices, raise_all
from understudy.losses.response import UNLABELLED

__all__ = ["KINDS", "kind_of", "read_label"]

KINDS = ("class", "value")
MOST_CLASSES = 100
"""Different whole numbers beyond which they may as well be measured."""

FEW = 20
"""Up to so many of them are classes even with gaps between them; more, such as ages, may as well be measured."""

WHOLE = re.compile(r"[-+]?\d+")


def kind_of(cells: Cells, kind: str | None, classes: Sequence[str] | None) -> dict[str, Any]:
    """Whether labels are classes (text, whole numbers) or values (numbers with a point), and which classes there are.

    Raises: InputError where it may be either, asking for ``kind``.
    """
    there = [text for text in cells.texts if text]
    if cells.share_of_numbers() >= 0.5:
        there = [text for text in there if text.lower() not in MISSING]
    if not there:
        raise InputError(f"{cells.file}: {cells.name!r} holds no label. Leave label= out to read inputs only.")
    kind = "class" if classes is not None else kind or _told_by(cells, there)
    found = sorted({_class(text) for text in there}, key=_order) if kind == "class" else None
    return {
        "name": cells.name,
        "kind": kind,
        "classes": found if classes is None else [_class(str(c)) for c in classes],
    }


def _told_by(cells: Cells, there: Sequence[str]) -> str:
    values = [number(text) for text in there]
    if None in values:
        if cells.share_of_numbers() >= 0.5:
            cells.numbers()  # names the first that is none
        return "class"
    which = f"Say kind='class' or kind='value' for {cells.name!r}."
    different = len(set(values))
    if all(WHOLE.fullmatch(text) for text in there):
        if different > MOST_CLASSES or (different > FEW and not _counted(values)):
            raise InputError(
                f"{cells.file}: {cells.name!r} has {different} different whole numbers: classes, or measured? {which}"
            )
        return "class"
    if different <= MOST_CLASSES and all(value == int(value) for value in values if value is not None):
        first = next(i for i, text in enumerate(cells.texts) if number(text) is not None)
        raise InputError(
            f"{cells.at(first)}: {cells.texts[first]!r} and all others are whole numbers with a point: classes, or measured? {which}"
        )
    return "value"


def _counted(values: Iterable[float | None]) -> bool:
    """Whether these are 0, 1, ... or 1, 2, ..., each of them, as classes are numbered."""
    found = {int(value) for value in values if value is not None}
    return min(found) in (0, 1) and len(found) == max(found) - min(found) + 1


def read_label(cells: Cells, label: dict[str, Any], notes: list[str]) -> Tensor:
    """int64 ``[N]`` with -100, or float32 ``[N]`` with NaN, where there is none.

    Raises: InputError, with the line, for what is no class or no number.
    """
    if label["kind"] == "value":
        found = torch.from_numpy(cells.numbers().astype(np.float32))
        unknown = found.isnan()
    else:
        found = _numbered(cells, label["classes"])
        unknown = found == UNLABELLED
        if label["classes"] != [str(i) for i in range(len(label["classes"]))] and all(
            map(WHOLE.fullmatch, label["classes"])
        ):
            notes.append(
                f"{cells.file}: {cells.name!r}: {', '.join(label['classes'][:8])} became 0, 1, ... in this order."
            )
    if unknown.any():
        notes.append(
            f"{cells.at(int(unknown.int().argmax()))} is missing here and in {int(unknown.sum())} of {len(found)} samples: unlabelled."
        )
    return found


def _numbered(cells: Cells, classes: Sequence[str]) -> Tensor:
    place = {name: i for i, name in enumerate(classes)}
    gone = MISSING if all(map(WHOLE.fullmatch, classes)) else {""}  # a class may be called "none", a number not
    found = [UNLABELLED if text.lower() in gone else place.get(_class(text)) for text in cells.texts]
    wrong = dict[str, int]()
    for sample, number_of_class in enumerate(found):
        if number_of_class is None:
            wrong.setdefault(cells.texts[sample], sample)
    told = [f"{cells.at(i)}: {text!r} is none of the classes. {choices(text, classes)}" for text, i in wrong.items()]
    raise_all(InputError, told[:TOLD])
    return torch.tensor(found)


def _class(text: str) -> str:
    """A whole number has one name, however it is written: many programs write 1.0 once a label in the column is missing."""
    value = number(text)
    return str(int(value)) if value is not None and value == int(value) else text


def _order(name: str) -> tuple[bool, int, str]:
    return (False, int(name), "") if WHOLE.fullmatch(name) else (True, 0, name)
