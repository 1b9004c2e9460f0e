"""Tables in CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from understudy.data.answers import KINDS, kind_of, read_label
from understudy.data.cells import Cells, read_cells
from understudy.data.parts import Parts
from understudy.data.schema import compare, schema_of
from understudy.data.shares import check_classes, groups_of, held_out, shares_of
from understudy.data.table import Table, csv_table, tensors_of

__all__ = ["csv"]


def csv(
    *,
    train: Path,
    label: str,
    valid: Path | float = 0.2,
    test: Path | float | None = None,
    unlabelled: Path | None = None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    kind: Literal["class", "value"] | None = None,
    classes: Sequence[str] | None = None,
    delimiter: Literal[",", ";", "\t"] | None = None,
    seed: int = 0,
) -> Parts:
    """A table: CSV files in UTF-8 whose first line names the columns.

    Columns of numbers are standardised; of text, they become one input for each value, 0 or 1. Means, deviations, values
    and classes are those of the training rows; held-out rows and other files are read with them. Labels that are values
    stay in their unit: bring them to about unit size (metres in place of millimetres) before a model is to learn them.

    Args:
        train: the training file. A row without a label is trained on with the teacher's answer alone.
        label: the label's column.
        valid: a file; or the share of train's labelled rows to hold out, of every class alike.
        test: a file or a share, as for valid; by default there is none.
        unlabelled: a file of more rows, whose labels are not looked at.
        ignore: columns to leave out: names, numbers of rows.
        categorical: columns that are text although they look like numbers, such as postal codes.
        kind: "class" or "value", where the label could be either.
        classes: in the order of their labels; by default those of the training rows, sorted.
        delimiter: what parts the cells: a comma by default, or a semicolon or a tab.
        seed: of which rows are held out.

    Raises: InputError for what cannot be read, with file and line; CorruptError if a file is no text.
    """
    path = Path(train)
    where = f"csv {path}"
    shares = shares_of(where, path, {"valid": valid, "test": test, "unlabelled": unlabelled}, needed=["valid"])
    cells, notes = read_cells(path, delimiter or ","), list[str]()
    parts = {"train": cells}
    if label in cells and kind in (None, *KINDS):  # else the schema says so, with all else that is wrong
        told = kind_of(cells[label], kind, classes)
        kind = told["kind"]  # of all rows: the training rows of a measured label may all be whole numbers
        groups = groups_of(read_label(cells[label], told, []))
        samples = held_out(where, groups, shares, seed, notes)
        parts = {part: {name: column.rows(ids) for name, column in cells.items()} for part, ids in samples.items()}
    reading = schema_of(str(path), parts["train"], label, ignore, categorical, kind, classes, notes)
    reading["delimiter"] = delimiter or ","
    tables = {part: _table(rows, reading, notes) for part, rows in parts.items()}
    for part, file in (("valid", valid), ("test", test)):
        if file is not None and part not in tables:
            tables[part] = csv_table(Path(str(file)), like=reading, delimiter=delimiter)
            notes += tables[part].notes
    more = None if unlabelled is None else _inputs(Path(unlabelled), reading, label, delimiter, notes)
    names = tables["train"].classes
    raw = {"kind": "csv", "columns": reading["columns"], "delimiter": reading["delimiter"]}
    check_classes(where, {p: t.tensors[1] for p, t in tables.items()}, names, unlabelled is not None)
    return Parts(tables["train"], tables["valid"], tables.get("test"), names, more, tuple(dict.fromkeys(notes)), raw)


def _table(cells: Mapping[str, Cells], reading: Mapping[str, Any], notes: list[str]) -> Table:
    told = list[str]()
    table = Table(tensors_of(cells, reading, told), reading, told)
    notes += told
    return table


def _inputs(path: Path, reading: Mapping[str, Any], label: str, delimiter: str | None, notes: list[str]) -> Table:
    """The rows of a file without labels, whatever they are there."""
    cells = {name: column for name, column in read_cells(path, delimiter or ",").items() if name != label}
    reading = {**reading, "label": None}
    compare(str(path), cells, reading, notes)
    return _table(cells, reading, notes)
