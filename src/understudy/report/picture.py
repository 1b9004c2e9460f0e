"""A picture as a data URI: what a page without a network can show."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

from understudy.errors import InputError

__all__ = ["LARGEST", "data_uri", "is_small"]

LARGEST = 256
"""Pixels of the longer side; what is larger is thinned out, so that a page of photographs stays small."""

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # channels to the PNG format's number for them


def data_uri(image: Any, where: str = "image") -> str:
    """A PNG, as the text that goes into ``src``.

    Args:
        image: ``[H][W]``, ``[C][H][W]`` or ``[H][W][C]`` with 1, 3 or 4 channels; of another number, the first is shown.
            Values in [0, 1], or whole numbers up to 255; any other range is stretched from its least to its greatest.
        where: the name of this image in an error.
    Raises: InputError for what is not a picture.
    """
    pixels = _bytes(_channels_last(image, where))
    step = -(-max(pixels.shape[:2]) // LARGEST)
    return "data:image/png;base64," + base64.b64encode(_png(pixels[::step, ::step])).decode()


def is_small(image: Any) -> bool:
    """Whether the picture has so few pixels that they should be seen as squares."""
    return all(side <= LARGEST // 4 for side in np.shape(image)[-2:])


def _channels_last(image: Any, where: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(image, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: is not a picture; rows of numbers are allowed, all of one length.") from error
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{where}: has shape {list(array.shape)}; allowed: height x width, or with channels first or last."
        )
    if array.ndim == 2:
        return array[:, :, None]
    if array.shape[0] in _COLOUR_TYPES or array.shape[-1] not in _COLOUR_TYPES:
        array = np.moveaxis(array, 0, -1)
    return array if array.shape[-1] in _COLOUR_TYPES else array[:, :, :1]


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255 and bool((finite == finite.round()).all()):
        low, high = 0.0, 255.0
    scaled = (np.nan_to_num(array, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
    return np.asarray((scaled * 255).round(), dtype=np.uint8)


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))  # each row starts with "no filter"
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
