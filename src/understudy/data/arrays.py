"""Arrays in a file of numpy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.errors import CorruptError, InputError, choices, raise_all

__all__ = ["fields_of", "npz", "tensor"]

Names = str | Sequence[str] | Mapping[str, str] | None


def npz(path: str | Path, *, inputs: Names = None, label: str | None = None) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file as named tensors, one row a sample.

    float64 becomes float32, and whole numbers in the label int64; other dtypes stay. Nothing is ever unpickled.

    Args:
        path: of the file.
        inputs: which arrays models are called with. One name, which becomes the field ``input``; several, which keep
            their names; or a mapping of fields to arrays' names. By default the file's arrays under their own names.
        label: which array becomes the field ``label``.

    Raises: InputError if there is no such file or array, or if arrays have unequal numbers of rows or hold no numbers;
        CorruptError if the file is damaged, is no ``.npz``, or holds pickled objects.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "digits.npz"
    >>> np.savez(path, x_train=np.zeros((5, 8, 8)), y_train=np.arange(5), x_test=np.zeros((2, 8, 8)))
    >>> {name: list(t.shape) for name, t in npz(path, inputs="x_train", label="y_train").items()}
    {'input': [5, 8, 8], 'label': [5]}
    """
    path = Path(path)
    where = f"npz {path}"
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.npz")) if path.parent.is_dir() else []
        raise InputError(f"{where}: there is no such file. {choices(path.name, near) if near else ''}".rstrip())
    try:
        if not zipfile.is_zipfile(path):
            raise CorruptError(
                f"{where}: is not what numpy.savez writes. Write it anew: np.savez(path, input=x, label=y)."
            )
        with np.load(path, allow_pickle=False) as file:
            fields = fields_of(where, file.files, inputs, label)
            arrays = {field: np.asanyarray(file[name]) for field, name in fields.items()}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        if isinstance(error, InputError):  # which is a ValueError too
            raise
        hint = " Arrays of objects are pickles, which are never loaded; save numbers." * ("pickle" in str(error))
        raise CorruptError(f"{where}: cannot be read: {error}.{hint}") from error
    found = {field: tensor(f"{where}: {fields[field]}", array, field == "label") for field, array in arrays.items()}
    rows = {field: t.shape[0] if t.ndim else 0 for field, t in found.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{fields[field]} has {count}" for field, count in rows.items())
        raise InputError(f"{where}: arrays of unequal numbers of rows: {listed}. Choose with inputs= and label=.")
    return found


def fields_of(where: str, columns: Sequence[str], inputs: Names, label: str | None) -> dict[str, str]:
    """Which column becomes which field; see :func:`npz`.

    Raises: InputError for columns that are not there, all at once, and for none at all.
    """
    if inputs is None:
        fields = {name: name for name in columns if name != label}
    elif isinstance(inputs, str):
        fields = {"input": inputs}
    else:
        fields = dict(inputs) if isinstance(inputs, Mapping) else {name: name for name in inputs}
    if label is not None:
        fields["label"] = label
    unknown = [name for name in fields.values() if name not in columns]
    raise_all(InputError, [f"{where}: there is no {name!r}. {choices(name, columns)}" for name in unknown])
    if not set(fields) - {"label"}:
        raise InputError(f"{where}: has nothing that a model could be called with. Say which: inputs=...")
    return fields


def tensor(where: str, array: np.ndarray[Any, Any], is_label: bool = False) -> Tensor:
    """An array of numbers as a tensor of its own, in a dtype that models and losses take."""
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{where}: is an array of {array.dtype}, not of numbers. Save classes as whole numbers from 0."
        )
    if array.dtype.kind in "iu" and (is_label or (array.dtype.kind == "u" and array.dtype.itemsize > 1)):
        array = array.astype(
            np.int64
        )  # torch computes with no wider unsigned number, and uint8 has no -100 for no label
    kind = np.float32 if array.dtype.kind == "f" and array.dtype.itemsize > 4 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=kind))
