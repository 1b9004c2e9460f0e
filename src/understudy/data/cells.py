"""The text in a CSV file, by column, with the line of every cell."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import CorruptError, InputError, MachineError, choices, raise_all

__all__ = ["Cells", "number", "read_cells"]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for a number that is not there, in any case."""

TOLD = 5
"""Problems of one kind in an error."""


@dataclass(frozen=True)
class Cells:
    """A column as it stands in the file.

    Attributes:
        file: its path, for errors.
        name: of the column.
        texts: one a sample, without white space around.
        lines: where each stands in the file.
    """

    file: str
    name: str
    texts: Sequence[str]
    lines: Sequence[int]

    def at(self, sample: int) -> str:
        """Where a cell is, as an error begins."""
        return f"{self.file}:{self.lines[sample]}: {self.name!r}"

    def rows(self, samples: Sequence[int]) -> Cells:
        """Some of the samples, each with its line."""
        return Cells(self.file, self.name, [self.texts[i] for i in samples], [self.lines[i] for i in samples])

    def first(self, wrong: Callable[[str], bool]) -> int:
        """The first sample whose text is such; -1 if none is."""
        return next((i for i, text in enumerate(self.texts) if wrong(text)), -1)

    def numbers(self) -> np.ndarray[Any, Any]:
        """float64, NaN where none is there. Raises: InputError with the line of the first text that is no number."""
        values = [math.nan if text.lower() in MISSING else number(text) for text in self.texts]
        for i, value in enumerate(values):
            if value is None:
                raise InputError(f"{self.at(i)}: {self.texts[i]!r} is not a number. Mend it, or leave the cell empty.")
        return np.array(values, dtype=np.float64)

    def share_of_numbers(self) -> float:
        """How many of the texts that are there are numbers, from 0 to 1; 0 if none is there."""
        there = [text for text in self.texts if text.lower() not in MISSING]
        return sum(number(text) is not None for text in there) / len(there) if there else 0.0


def number(text: str) -> float | None:
    """A finite number, or None.

    >>> number("1e3"), number("1_000"), number("inf"), number("3 km")
    (1000.0, None, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def read_cells(path: Path, delimiter: str) -> dict[str, Cells]:
    """The columns of a CSV file in UTF-8 whose first line names them.

    Raises: InputError, with file and line, if there is no such file, if it has no samples, if columns are without a
        name or share one, or if lines have other numbers of cells; CorruptError if it is not text in UTF-8.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        raise InputError(f"{path}: there is no such file. {choices(path.name, near) if near else ''}".rstrip())
    if len(delimiter) != 1:
        raise InputError(f"{path}: delimiter={delimiter!r} is not allowed; it is one character: ',' or ';' or '\\t'.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            numbered = list(_rows(csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True), path))
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path}: is not text in UTF-8 (byte {error.start}). Save it in UTF-8.") from error
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror}.") from error
    if len(numbered) < 2:
        raise InputError(f"{path}: holds {'only the names of columns' if numbered else 'nothing'}, and no sample.")
    (_, names), *rows = numbered
    raise_all(InputError, _problems(path, names, rows, delimiter))
    lines = [line for line, _ in rows]
    return {name: Cells(str(path), name, [row[i] for _, row in rows], lines) for i, name in enumerate(names)}


def _rows(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty with its line; that of a row over several lines is its last."""
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            line = getattr(reader, "line_num", 0)
            raise InputError(
                f"{path}:{line}: {error}. Is a quote left open, or a quote within a cell not doubled?"
            ) from error
        if row is None:
            return
        if row:
            yield getattr(reader, "line_num", 0), [cell.strip() for cell in row]


def _problems(path: Path, names: list[str], rows: list[tuple[int, list[str]]], delimiter: str) -> list[str]:
    if len(names) == 1 and (other := next((d for d in ";\t|," if d != delimiter and d in names[0]), None)):
        return [f"{path}:1: has one column, {names[0]!r}. Are they parted by {other!r}? Say delimiter={other!r}."]
    problems = [
        f"{path}:1: column {i} has no name. Name it; if it numbers the rows, remove it."
        for i, n in enumerate(names, 1)
        if not n
    ]
    problems += [
        f"{path}:1: two columns are called {n!r}. Rename one." for n in sorted(set(names)) if n and names.count(n) > 1
    ]
    wrong = [(line, len(row)) for line, row in rows if len(row) != len(names)]
    problems += [
        f"{path}:{line}: has {cells} cells; the first line names {len(names)}." for line, cells in wrong[:TOLD]
    ]
    return problems + [f"{path}: ... and {len(wrong) - TOLD} more lines like these."] * (len(wrong) > TOLD)
