"""A folder of pictures, of which the sub-folders' names are the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from understudy.data.pixels import check_pillow, pixels, shades, wanted_size
from understudy.errors import CorruptError, InputError, choices, raise_all
from understudy.losses.response import UNLABELLED

__all__ = ["ImageFolder", "image_folder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
NO_CLASS = "unlabelled"
Decoded = TypeVar("Decoded")


@dataclass(frozen=True, eq=False)
class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Pictures on the disk, each decoded when it is asked for: (float32 ``[C, H, W]`` in [0, 1], label).

    Attributes:
        root: the folder.
        files: relative to it, in the order of the samples' ids.
        labels: of each file; -100 for none.
        classes: a label's name.
        size: (rows, columns).
        channels: 1, 3 or 4.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, sample: int) -> tuple[Tensor, int]:
        return self._decoded(sample, pixels), self.labels[sample]

    def shades(self, sample: int) -> np.ndarray[Any, Any]:
        """A picture as bytes ``[H, W, C]``."""
        return self._decoded(sample, shades)

    def _decoded(self, sample: int, as_: Callable[[Any, tuple[int, int], int], Decoded]) -> Decoded:
        from PIL import Image

        path = self.root / self.files[sample]
        try:
            with Image.open(path) as image:
                return as_(image, self.size, self.channels)
        except Exception as error:  # decoders raise whatever a damaged file leads them to
            raise CorruptError(
                f"{path}: cannot be read as a picture: {type(error).__name__}: {error}. Repair it, or take it out of the folder."
            ) from error


def image_folder(
    path: str | Path, *, size: int | tuple[int, int], channels: int = 3, classes: Sequence[str] | None = None
) -> ImageFolder:
    """A folder of pictures as a Dataset: the label is the name of the sub-folder.

    ::

        pets/cat/1.png    label 0 ("cat")
        pets/dog/a/2.png  label 1 ("dog")
        pets/unlabelled/3.png, pets/4.png   no label (-100)

    Ids follow the sorted paths, so that they are the same on every machine. Files that are no pictures by their suffix,
    and hidden ones, are passed over. Transforms come on top, in a Dataset of yours.

    Args:
        path: of the folder.
        size: the side of a square, or (rows, columns): a picture is scaled until it covers this, and cut from the middle.
        channels: 1 for grey, 3 for colour, 4 with opacity.
        classes: in the order of their labels, for a folder that goes with another: ``classes=train.classes``. By default
            the sub-folders' names, sorted as text.

    Raises: InputError if the folder is not there, has no picture, has an empty class, or one that is not in ``classes``;
        MissingExtra without Pillow. A picture that is broken raises CorruptError with its path when it is its turn.
    """
    root = Path(path)
    where = f"image_folder {root}"
    check_pillow(where)
    sides = wanted_size(where, size, channels)
    if sides is None:
        raise InputError(f"{where}: needs a size: the side of a square, or (rows, columns), in pixels.")
    if not root.is_dir():
        near = sorted(p.name for p in root.parent.glob("*") if p.is_dir()) if root.parent.is_dir() else []
        raise InputError(f"{where}: there is no such folder. {choices(root.name, near) if near else ''}".rstrip())
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    named = tuple(name for name in folders if name != NO_CLASS)
    files = _pictures(root, folders)
    known = named if classes is None else tuple(classes)
    raise_all(InputError, [*_problems(where, root, files, named, known)])
    numbers = {name: number for number, name in enumerate(known)}
    labels = tuple(numbers.get(f.parts[0], UNLABELLED) if len(f.parts) > 1 else UNLABELLED for f in files)
    return ImageFolder(root, files, labels, known, sides, channels)


def _pictures(root: Path, folders: Sequence[str]) -> tuple[Path, ...]:
    # Each sub-folder by itself, because rglob does not go into one that is a link.
    found = [p for part in (root.glob("*"), *((root / name).rglob("*") for name in folders)) for p in part]
    shown = [p.relative_to(root) for p in found if p.suffix.lower() in SUFFIXES and p.is_file()]
    return tuple(sorted((p for p in shown if not any(n.startswith(".") for n in p.parts)), key=lambda p: p.as_posix()))


def _problems(where: str, root: Path, files: Sequence[Path], named: Sequence[str], known: Sequence[str]) -> list[str]:
    if len(set(known)) < len(known):
        return [f"{where}: classes={list(known)} has a name twice."]
    if not files:
        return [f"{where}: holds no picture; read are {' '.join(SUFFIXES)}."]
    filled = {f.parts[0] for f in files if len(f.parts) > 1}
    problems = [f"{root / name}: holds no picture. Fill it or remove it." for name in named if name not in filled]
    problems += [
        f"{root / name}: {name!r} is none of the classes. {choices(name, known)} "
        f"Pictures without a label belong into {NO_CLASS!r}."
        for name in named
        if name not in known
    ]
    return problems
