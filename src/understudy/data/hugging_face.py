"""Data sets of the Hugging Face library `datasets`, from memory or from this machine's disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from understudy.data.arrays import Names, fields_of, tensor
from understudy.data.labels import absent
from understudy.data.pixels import check_pillow, pixels, wanted_size
from understudy.data.saved import saved_rows
from understudy.errors import InputError, choices

__all__ = ["HuggingFace", "hugging_face"]


class HuggingFace(Dataset[Any]):
    """Rows as samples: (input, label) where one column is the input, else a mapping of fields.

    Attributes:
        rows: the `datasets.Dataset`.
        fields: a field's column.
        classes: a label's name, where the label's column has names.
    """

    def __init__(self, rows: Any, fields: Mapping[str, str], size: tuple[int, int] | None, channels: int) -> None:
        # What a transform needs is its own affair; otherwise columns that nobody reads are not decoded.
        plain = (getattr(rows, "format", None) or {}).get("type") != "custom"
        self.rows = rows.select_columns(sorted(set(fields.values()))) if plain else rows
        self.fields, self.size, self.channels = dict(fields), size, channels
        label: Any = rows.features.get(fields["label"]) if "label" in fields else None
        self.classes = tuple(label.names) if hasattr(label, "names") else None
        self.nothing = self._nothing() if plain and "label" in fields else torch.tensor(-100)
        self.shapes = {name: value.shape for name, value in self._sample(0).items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, sample: int) -> Any:
        found = self._sample(sample)
        for name, value in found.items():
            if value.shape != self.shapes[name]:
                raise InputError(
                    f"row {sample}: {self.fields[name]!r} has shape {list(value.shape)}, and row 0 has {list(self.shapes[name])}. "
                    "Give all one shape: pictures with size=..., text with padding='max_length' in its tokenizer."
                )
        return tuple(found.values()) if set(found) <= {"input", "label"} else found

    def labels(self) -> Tensor:
        """Those of all rows, without reading what models are called with."""
        column = self.fields["label"]
        rows = self.rows.select_columns([column])
        return torch.stack([self._value(i, column, rows[i][column], True) for i in range(len(rows))])

    def _sample(self, sample: int) -> dict[str, Tensor]:
        row = self.rows[sample]
        return {
            field: self._value(sample, column, row[column], field == "label") for field, column in self.fields.items()
        }

    def _value(self, sample: int, column: str, value: Any, is_label: bool) -> Tensor:
        where = f"row {sample}: {column!r}"
        if isinstance(value, Tensor):
            return value
        if value is None and is_label:
            return self.nothing
        if hasattr(value, "convert") and hasattr(value, "mode"):
            check_pillow(where)
            return pixels(value, self.size, self.channels)
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(f"{where}: its lists are of unequal lengths. Pad them.") from error
        if array.dtype.kind in "biuf":
            return tensor(where, array, is_label)
        advice = (
            "rows.class_encode_column(...) makes numbers of classes"
            if is_label
            else "rows.map(tokenizer) makes numbers of text"
        )
        raise InputError(
            f"{where} {'is empty' if value is None else f'holds {value!r:.40}'}; allowed: numbers and pictures; {advice}."
        )

    def _nothing(self) -> Tensor:
        """What stands for a label that is not there, after the first that is."""
        column = self.fields["label"]
        found = next((row[column] for row in self.rows.select_columns([column]) if row[column] is not None), -100)
        return absent(self._value(0, column, found, True))


def hugging_face(
    dataset: Any,
    *,
    inputs: Names,
    label: str | None = None,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
) -> HuggingFace:
    """A data set of the library `datasets`, which is in memory or on this machine: nothing is fetched.

    Pictures become float32 ``[C, H, W]`` in [0, 1]. A label that is missing becomes -100, or NaN where others have a point.

    Args:
        dataset: a ``datasets.Dataset``; a folder that ``save_to_disk`` made; or a ``.parquet``, ``.json``, ``.jsonl`` or
            ``.csv`` file.
        inputs: which columns models are called with: one name; several, such as ``["input_ids", "attention_mask"]``,
            which keep their names; or a mapping of the names that the model's forward has to columns.
        label: the label's column; without it, no sample has a label.
        split: which part, where there are several.
        size: of pictures: the side of a square, or (rows, columns). By default they keep theirs.
        channels: of pictures: 1 for grey, 3 for colour, 4 with opacity.

    Raises: InputError for what is not there, or neither a number nor a picture; CorruptError for a damaged file;
        MissingExtra without `datasets`.
    """
    rows, where = (
        (saved_rows(Path(dataset)), f"hugging_face {dataset}")
        if isinstance(dataset, str | Path)
        else (dataset, "hugging_face")
    )
    if isinstance(rows, Mapping):
        if split not in rows:
            raise InputError(
                f"{where}: has several parts; say which: split={split!r} is not one. {choices(split, rows)}"
            )
        rows = rows[split]
    elif split not in (None, str(getattr(rows, "split", None))):
        raise InputError(f"{where}: is one part, and has no split={split!r}. Leave it out.")
    if not all(hasattr(rows, name) for name in ("features", "select_columns", "__getitem__", "__len__")):
        raise InputError(f"{where}: a {type(rows).__name__} has no rows by number; load it with streaming=False.")
    if not len(rows):
        raise InputError(f"{where}: has no row.")
    return HuggingFace(
        rows, fields_of(where, list(rows[0]), inputs, label), wanted_size(where, size, channels), channels
    )
