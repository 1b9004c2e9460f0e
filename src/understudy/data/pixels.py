"""A picture as a tensor. Shapes: C channels, H rows, W columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.errors import InputError, MissingExtra

__all__ = ["MODES", "check_pillow", "pixels", "shades", "wanted_size"]

MOST = 4096
"""Of a side: a hundred such pictures are 20 GB."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels, and what Pillow calls them."""


def check_pillow(purpose: str) -> None:
    """Raise MissingExtra where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtra(purpose, "images") from error


def wanted_size(where: str, size: Any, channels: Any) -> tuple[int, int] | None:
    """(rows, columns) from what the user gave; None where pictures keep their own.

    Raises: InputError for anything but one or two whole numbers above 0, or for channels other than 1, 3 and 4.
    """
    if channels not in MODES:
        raise InputError(f"{where}: channels={channels!r} is not allowed; 1 is grey, 3 colour, 4 colour with opacity.")
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else size
    whole = isinstance(sides, tuple | list) and all(
        isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides
    )
    if isinstance(size, bool) or not whole or len(sides) != 2 or max(sides) > MOST:
        raise InputError(
            f"{where}: size={size!r} is not allowed; give the side of a square, or (rows, columns), in pixels, up to {MOST:,}."
        )
    return sides[0], sides[1]


def pixels(image: Any, size: tuple[int, int] | None, channels: int) -> Tensor:
    """A Pillow image as float32 ``[C, H, W]`` in [0, 1]; see :func:`shades`."""
    array = shades(image, size, channels).astype(np.float32) / 255
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def shades(image: Any, size: tuple[int, int] | None, channels: int) -> np.ndarray[Any, Any]:
    """A Pillow image as bytes ``[H, W, C]``.

    It is turned upright as its camera says, scaled until it covers ``size``, and cut to it from the middle. What is
    transparent becomes white, unless opacity is asked for as the fourth channel.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would cut every value above 255 to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"its pixels are numbers without a known range (mode {image.mode}); save it with 8 or 16 bits."
        )
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(MODES[channels])
    if size is not None and image.size != (size[1], size[0]):
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array
