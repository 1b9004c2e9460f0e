"""Small real data sets, which scikit-learn ships, written as the files that readers take: something to try a recipe on."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.data.digits import digits
from understudy.data.order import permutation
from understudy.data.pixels import check_pillow
from understudy.errors import InputError, MissingExtra, choices
from understudy.writing import disk, sync, temporary

__all__ = ["ATTRIBUTES", "EXAMPLES", "write_example"]

EXAMPLES = {
    "breast-cancer": "CSV, classes: 569 tumours by 30 measured columns; the label `diagnosis` is malignant or benign",
    "diabetes": "CSV, values: 442 patients by 10 measured columns; the label `progression` is that of a year, in hundreds",
    "digits": "folders of pictures, 10 classes: 1,797 handwritten digits, grey, 8 by 8 pixels",
    "digits-attributes": "an .npz file, several labels: of 1,797 handwritten digits whether they are even, prime, closed, above four",
}
"""What can be written, by name."""

ATTRIBUTES = ("even", "prime", "closed", "above-four")
"""Labels of "digits-attributes", in their order; closed is what is drawn around a hole: 0, 6, 8 and 9."""

_OF_DIGITS = ({0, 2, 4, 6, 8}, {2, 3, 5, 7}, {0, 6, 8, 9}, {5, 6, 7, 8, 9})
_HELD_OUT = 100  # rows of a table for each of valid and test


def write_example(name: str, folder: Path) -> list[Path]:
    """Write a data set to a new folder; the same at every call.

    =====================  ======================================================================================
    name                   files
    =====================  ======================================================================================
    ``breast-cancer``      ``train.csv`` (369 rows), ``valid.csv`` (100), ``test.csv`` (100)
    ``diabetes``           ``train.csv`` (242), ``valid.csv`` (100), ``test.csv`` (100)
    ``digits``             folders ``train`` (1,000), ``valid`` (397) and ``test`` (400) with a sub-folder for each class
    ``digits-attributes``  ``digits.npz`` with ``x_train [1000, 1, 8, 8]``, ``y_train [1000, 4]``, and so on
    =====================  ======================================================================================

    Inputs are as they were measured: readers standardise the columns of a table. A regression wants labels of about unit
    size, and readers leave labels as they are: scikit-learn's measure of progression, 25 to 346, is written in hundreds.
    That is a change of unit and takes nothing from the held-out rows; an error of 0.5 is one of 50.

    Args:
        name: one of :data:`EXAMPLES`.
        folder: that is not there yet, or is empty.

    Returns: the files, sorted.
    Raises: InputError for another name, or for a folder that holds something; MachineError if it cannot be written;
        MissingExtra without scikit-learn, or without Pillow for "digits".
    Source: scikit-learn's data sets, from Wolberg et al. 1995 (UCI, breast cancer), Efron et al. 2004 (diabetes), and
        Alpaydin & Kaynak 1998 (UCI, digits).
    """
    if name not in _WRITE:
        raise InputError(f"there is no example {name!r}. {choices(name, EXAMPLES)}")
    target = Path(folder)
    with disk(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise InputError(f"{target}: is no folder. Give the name of a new one.")
        if target.is_dir() and any(target.iterdir()):
            raise InputError(f"{target}: holds files already. Give the name of a new folder.")
        if target.resolve() == Path.cwd():
            raise InputError(f"{target}: you are in it, and it would be replaced. Give the name of a new folder.")
        new = temporary(target.resolve())
        try:
            new.mkdir(parents=True)
            _WRITE[name](new)
            if target.is_dir():
                target.rmdir()  # it is empty; if it no longer is, this fails and nothing is lost
            new.rename(target.resolve())
            sync(target.resolve().parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return sorted(file for file in target.rglob("*") if file.is_file())


def _tumours(folder: Path) -> None:
    found = _sets().load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in found.feature_names]
    _tables(folder, [*names, "diagnosis"], found.data, [str(found.target_names[i]) for i in found.target])


def _patients(folder: Path) -> None:
    found = _sets().load_diabetes(scaled=False)
    _tables(folder, [*found.feature_names, "progression"], found.data, [_shortest(v / 100) for v in found.target])


def _tables(folder: Path, names: Sequence[str], rows: np.ndarray[Any, Any], labels: Sequence[str]) -> None:
    order = permutation(len(labels), 0, 0).tolist()
    ends = (_HELD_OUT, 2 * _HELD_OUT, len(order))
    for part, first, end in zip(("test", "valid", "train"), (0, *ends), ends, strict=False):
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([*map(_shortest, rows[i]), labels[i]] for i in order[first:end])


def _shortest(value: float) -> str:
    """The shortest text that is read as this very number."""
    return repr(float(value)).removesuffix(".0")


def _pictures(folder: Path) -> None:
    check_pillow("The digits as pictures")
    from PIL import Image

    for part, (images, labels) in _digits().items():
        shades = (images[:, 0] * 255).round().to(torch.uint8).numpy()
        for i, (shade, label) in enumerate(zip(shades, labels.tolist(), strict=True)):
            path = folder / part / str(label) / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shade).save(path)


def _attributes(folder: Path) -> None:
    arrays = dict[str, np.ndarray[Any, Any]]()
    for part, (images, labels) in _digits().items():
        arrays[f"x_{part}"] = images.numpy()
        answers = [[label in those for those in _OF_DIGITS] for label in labels.tolist()]
        arrays[f"y_{part}"] = np.array(answers, dtype=np.float32)
    np.savez(folder / "digits.npz", **arrays)  # type: ignore[arg-type]


def _digits() -> dict[str, Any]:
    found = digits()
    return {"train": found.train, "valid": found.valid, "test": found.test}


def _sets() -> Any:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise MissingExtra("The examples of data", "demo") from error
    return sklearn.datasets


_WRITE: dict[str, Callable[[Path], None]] = {
    "breast-cancer": _tumours,
    "diabetes": _patients,
    "digits": _pictures,
    "digits-attributes": _attributes,
}
