"""Folders of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from understudy.data.augment import Augment, viewed
from understudy.data.images import SUFFIXES, ImageFolder, image_folder
from understudy.data.parts import Parts
from understudy.data.shares import groups_of, held_out, shares_of
from understudy.errors import InputError

__all__ = ["images"]


def images(
    *,
    train: Path,
    size: int | tuple[int, int],
    valid: Path | float = 0.2,
    test: Path | float | None = None,
    unlabelled: Path | None = None,
    channels: Literal[1, 3, 4] = 3,
    seed: int = 0,
    augment: Augment | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Parts:
    """Pictures in folders: each sub-folder is a class, and its name the label.

    Pictures without a label lie in a sub-folder called "unlabelled", or beside the sub-folders. They are trained on with
    the teacher's answer alone. With ``augment``, or with ``mean`` and ``std``, pictures are decoded once and stay in memory if
    they fit in 2 GB; else whenever they are asked for, which wants workers. The views are the same.

    Args:
        train: the training folder.
        size: the side of a square, or (rows, columns): a picture is scaled until it covers this, and cut from the middle.
        valid: a folder; or the share of train's labelled pictures to hold out, of every class alike.
        test: a folder or a share, as for valid; by default there is none.
        unlabelled: a folder of more pictures, whose sub-folders are not looked at.
        channels: 1 for grey, 3 for colour, 4 with opacity.
        seed: of which pictures are held out.
        augment: what is random in the views of a training picture: crop and shift (pixels), fill ("zero" or "reflect") and
            flip, as in ``{crop: 4, flip: true}``; by default nothing.
        mean: subtracted from every picture's channels in [0, 1]; by default nothing is.
        std: by which every picture's channels are divided.

    Raises: InputError for folders that are not there, are empty or have other classes; MissingExtra without Pillow.
    """
    path = Path(train)
    where = f"images {path}"
    shares = shares_of(where, path, {"valid": valid, "test": test, "unlabelled": unlabelled}, needed=["valid"])
    whole, notes = image_folder(path, size=size, channels=channels), list[str]()
    if not whole.classes:
        raise InputError(f"{where}: has no sub-folder for a class. Sort the pictures into one for each, named as it.")
    groups = groups_of(torch.tensor(whole.labels))
    parts = {part: _some(whole, ids) for part, ids in held_out(where, groups, shares, seed, notes).items()}
    for part, folder in (("valid", valid), ("test", test)):
        if folder is not None and part not in parts:
            parts[part] = image_folder(Path(str(folder)), size=size, channels=channels, classes=whole.classes)
    more = None if unlabelled is None else image_folder(Path(unlabelled), size=size, channels=channels)
    raw: dict[str, Any] = {
        "kind": "pictures",
        "size": list(whole.size),
        "channels": channels,
        "suffixes": list(SUFFIXES),
    }
    raw |= {"mean": mean, "std": std}
    found = Parts(parts["train"], parts["valid"], parts.get("test"), whole.classes, more, tuple(notes), raw)
    return viewed(found, augment, mean, std)


def _some(folder: ImageFolder, samples: list[int]) -> ImageFolder:
    files, labels = (tuple(all_of[i] for i in samples) for all_of in (folder.files, folder.labels))
    return dataclasses.replace(folder, files=files, labels=labels)  # type: ignore[arg-type]
