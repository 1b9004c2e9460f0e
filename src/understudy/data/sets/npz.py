"""Arrays in files of numpy."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.data.arrays import npz as arrays
from understudy.data.augment import Augment, viewed
from understudy.data.parts import Parts
from understudy.data.shares import check_classes, groups_of, held_out, shares_of
from understudy.errors import InputError

__all__ = ["npz"]

PART = "{part}"


def npz(
    *,
    train: Path,
    inputs: str | Sequence[str] | Mapping[str, str] | None = None,
    label: str = "label",
    valid: Path | float | None = None,
    test: Path | float | None = None,
    unlabelled: Path | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    augment: Augment | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Parts:
    """Arrays that numpy saved in `.npz` files, one row a sample.

    One file may hold all parts: ``inputs="x_{part}"`` and ``label="y_{part}"`` read ``x_train`` and ``y_train``, and where
    the file has them ``x_valid``, ``x_test`` and ``x_unlabelled``. Arrays come as they are: numbers that a model can
    compute with, pictures as ``[N, C, H, W]`` of floats. With ``augment``, or with
    ``mean`` and ``std``, pictures may be bytes, and ``[N, H, W, C]`` or ``[N, H, W]``. Nothing is ever unpickled.

    Args:
        train: the training file.
        inputs: which arrays models are called with: one name; several, which keep their names; or a mapping from the
            model's names to the arrays'. By default all but the label.
        label: which array is the label: classes as whole numbers from 0, values as floats, or a yes or no for each of several.
        valid: a file; or the share of train's labelled rows to hold out, of every class alike. By default the file's own
            part, or else a fifth.
        test: a file or a share, as for valid; by default the file's own part, or else none.
        unlabelled: a file of more rows; by default the file's own part, or else none.
        classes: names, in the order of their labels.
        seed: of which rows are held out.
        augment: what is random in the views of a training picture: crop and shift (pixels), fill ("zero" or "reflect") and
            flip, as in ``{crop: 4, flip: true}``; by default nothing.
        mean: subtracted from every picture's channels (in [0, 1] where they are bytes); by default nothing is.
        std: by which every picture's channels are divided.

    Raises: InputError for files and arrays that are not there, or do not go together; CorruptError for a damaged file.
    """
    path, notes = Path(train), list[str]()
    where = f"npz {path}"
    if (PART in label) != (PART in str(inputs)):
        raise InputError(
            f"{where}: inputs={inputs!r} and label={label!r}: {PART} must be in both, as in 'x_{PART}' and 'y_{PART}', or in neither."
        )
    given = {"valid": valid, "test": test, "unlabelled": unlabelled}
    shares = shares_of(where, path, given)
    fields = {"train": arrays(path, inputs=_of("train", inputs), label=_of("train", label))}
    for part, value in given.items():
        if part not in shares and (value is not None or _has(path, part, inputs)):
            answer = None if part == "unlabelled" else _of(part, label)
            fields[part] = arrays(path if value is None else Path(str(value)), inputs=_of(part, inputs), label=answer)
    if "valid" not in fields and valid is None:
        shares["valid"] = 0.2
    whole = fields["train"]
    if shares:
        samples = held_out(where, groups_of(whole["label"]), shares, seed, notes)
        fields |= {part: {name: t[ids] for name, t in whole.items()} for part, ids in samples.items()}
    labels = {part: found["label"] for part, found in fields.items() if part != "unlabelled"}
    check_classes(where, labels, classes, "unlabelled" in fields)
    names = None if classes is None else tuple(classes)
    found = Parts(fields["train"], fields["valid"], fields.get("test"), names, fields.get("unlabelled"), tuple(notes))
    return viewed(found, augment, mean, std)


def _of(part: str, names: Any) -> Any:
    """The same names of arrays, for one part."""
    if isinstance(names, str):
        return names.replace(PART, part)
    if isinstance(names, Mapping):
        return {field: name.replace(PART, part) for field, name in names.items()}
    return names if names is None else [name.replace(PART, part) for name in names]


def _has(path: Path, part: str, names: Any) -> bool:
    """Whether a file that holds several parts holds this one."""
    wanted = _of(part, names)
    if wanted == names:
        return False
    with zipfile.ZipFile(path) as file:
        there = {name.removesuffix(".npy") for name in file.namelist()}
    found = [wanted] if isinstance(wanted, str) else wanted.values() if isinstance(wanted, Mapping) else wanted
    return there.issuperset(found)
