"""How a whole table is read: learnt from one file, and compared with another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from understudy.data.answers import KINDS, kind_of
from understudy.data.cells import Cells
from understudy.data.columns import learnt
from understudy.errors import InputError, choices, raise_all

__all__ = ["compare", "each", "schema_of"]

Given = TypeVar("Given")
Made = TypeVar("Made")


def schema_of(
    file: str,
    cells: Mapping[str, Cells],
    label: str | None,
    ignore: Sequence[str],
    categorical: Sequence[str],
    kind: str | None,
    classes: Sequence[str] | None,
    notes: list[str],
) -> dict[str, Any]:
    """What every column is, as plain data. Raises: InputError for what was asked for and is not there, or cannot be read."""
    asked = {"label": [] if label is None else [label], "ignore": list(ignore), "categorical": list(categorical)}
    problems = [
        f"{file}:1: {option}: there is no column {name!r}. {choices(name, cells)}"
        for option, names in asked.items()
        for name in names
        if name not in cells
    ]
    if kind not in (None, *KINDS):
        problems.append(f"{file}: kind={kind!r} is not allowed. {choices(kind, KINDS)}")
    raise_all(InputError, problems)
    inputs = [column for name, column in cells.items() if name != label and name not in ignore]
    found = each(inputs, lambda column: learnt(column, categorical))
    empty = [column.name for column, how in zip(inputs, found, strict=True) if how is None]
    notes += [f"{file}: {name!r} is empty, and left out." for name in empty]
    if len(empty) == len(inputs):
        raise InputError(f"{file}: has no column that could be an input.")
    return {
        "columns": [how for how in found if how],
        "label": None if label is None else kind_of(cells[label], kind, classes),
    }


def compare(file: str, cells: Mapping[str, Cells], reading: Mapping[str, Any], notes: list[str]) -> None:
    """Whether the other file has the columns of the one that was learnt from."""
    names = [column["name"] for column in reading["columns"]]
    label = reading["label"]["name"] if reading["label"] else None
    spare = [name for name in cells if name not in (*names, label)]
    absent = [name for name in names if name not in cells]
    raise_all(InputError, [f"{file}:1: there is no column {n!r}. {choices(n, spare or cells)}" for n in absent])
    if label is not None and label not in cells:
        notes.append(f"{file}:1: there is no column {label!r}: no sample has a label.")
    if spare:
        notes.append(f"{file}:1: left out, as the file that was learnt from has none: {', '.join(spare)}.")


def each(items: Iterable[Given], work: Callable[[Given], Made]) -> list[Made]:
    """The work on every item; what is wrong with any of them is raised at once."""
    made, problems = [], []
    for item in items:
        try:
            made.append(work(item))
        except InputError as error:
            problems.append(str(error))
    raise_all(InputError, problems)
    return made
