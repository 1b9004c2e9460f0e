"""A table in a CSV file as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from understudy.data.answers import read_label
from understudy.data.cells import Cells, read_cells
from understudy.data.columns import names_of, read
from understudy.data.schema import compare, each, schema_of
from understudy.errors import InputError

__all__ = ["Table", "csv_table", "tensors_of"]


class Table(TensorDataset):
    """Samples (float32 ``[F]``, label), or (float32 ``[F]``,) without a label column.

    Attributes:
        features: the names of the F inputs: "age", or "colour=red" of a categorical column.
        classes: a label's name; None where labels are values, or without a label column.
        reading: how the file was read, as plain data that JSON keeps: ``csv_table(other, like=reading)``.
        notes: what was filled in or left out, and where.
    """

    def __init__(self, tensors: Sequence[Tensor], reading: Mapping[str, Any], notes: Sequence[str]) -> None:
        super().__init__(*tensors)
        self.reading, self.notes = dict(reading), tuple(notes)
        self.features = tuple(name for column in reading["columns"] for name in names_of(column))
        classes = (reading["label"] or {}).get("classes")
        self.classes = None if classes is None else tuple(classes)


def csv_table(
    path: str | Path,
    *,
    label: str | None = None,
    like: Table | Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    kind: str | None = None,
    classes: Sequence[str] | None = None,
    delimiter: str | None = None,
) -> Table:
    """A CSV file whose first line names the columns.

    Columns of numbers are standardised; of text, they become one input for each value, 0 or 1. A number that is missing
    is replaced by the mean, a text that is missing or new gives 0 for every value, and ``notes`` tells of both. A label of
    text or whole numbers is a class, numbered in sorted order; one with a decimal point is a value, as it stands. An
    empty label is none.

    Args:
        path: of the file, in UTF-8.
        label: the label's column; without it, all columns are inputs.
        like: the table of the training file, or its ``reading``, whose label, means, values and classes are used.
        ignore: columns to leave out: names, numbers of rows.
        categorical: columns that are text although they look like numbers, such as postal codes.
        kind: "class" or "value", where the label could be either.
        classes: in the order of their labels.
        delimiter: ``,`` (the default, or else that of ``like``) or ``;`` or a tab.

    Raises: InputError, with file and line, for what cannot be read, all columns at once; CorruptError if it is no text.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pets.csv"
    >>> _ = path.write_text("weight,coat,pet\\n3,short,cat\\n5,long,cat\\n,short,dog\\n")
    >>> table = csv_table(path, label="pet")
    >>> table.features, table.classes
    (('weight', 'coat=long', 'coat=short'), ('cat', 'dog'))
    >>> table.tensors[0].tolist()
    [[-1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    path, notes = Path(path), list[str]()
    if like is None:
        cells = read_cells(path, delimiter or ",")
        reading = schema_of(str(path), cells, label, ignore, categorical, kind, classes, notes)
        reading["delimiter"] = delimiter or ","
    else:
        if label is not None or ignore or categorical or kind or classes is not None:
            raise InputError(
                f"{path}: like= says how to read it; leave label, ignore, categorical, kind and classes out."
            )
        reading = dict(like.reading if isinstance(like, Table) else like)
        if not {"columns", "label", "delimiter"} <= reading.keys():
            raise InputError(f"{path}: like= is no table, nor the `reading` of one.")
        cells = read_cells(path, delimiter or reading["delimiter"])
        compare(str(path), cells, reading, notes)
    return Table(tensors_of(cells, reading, notes), reading, notes)


def tensors_of(cells: Mapping[str, Cells], reading: Mapping[str, Any], notes: list[str]) -> list[Tensor]:
    """Inputs float32 ``[N, F]``, and labels where the reading has them; what was filled in goes to the notes."""
    blocks = each(reading["columns"], lambda column: read(cells[column["name"]], column, notes))
    inputs = torch.from_numpy(np.concatenate(blocks, 1).astype(np.float32))
    label = reading["label"]
    if label is None:
        return [inputs]
    if label["name"] not in cells:
        return [inputs, read_label(Cells("", label["name"], [""] * len(inputs), range(len(inputs))), label, [])]
    return [inputs, read_label(cells[label["name"]], label, notes)]
