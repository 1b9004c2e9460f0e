"""Samples as they come, a CSV file, a picture or a folder of pictures, in the form that the model takes.

Needs numpy, and Pillow for pictures. What is done is what was done in training; it stands in preprocessing.json.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")


class Opened(io.BytesIO):
    """Samples as a .npy file in memory, float32; and what each is called: a line of the CSV file, or a picture's path."""

    def __init__(self, array: np.ndarray, names: list[str]) -> None:
        super().__init__()
        np.save(self, array)
        self.seek(0)
        self.names = names


def opened(path: Path, raw: Any) -> Opened:
    """The samples of a CSV file, a picture, or a folder of pictures."""
    return Opened(*(table(path, raw) if raw["kind"] == "csv" else pictures(path, raw)))


def table(path: Path, raw: Any) -> tuple[np.ndarray, list[str]]:
    """The rows of a CSV file, with the means and values of the training rows."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=raw["delimiter"], skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    names, samples = rows[0][1] if rows else [], rows[1:]
    lacking = [column["name"] for column in raw["columns"] if column["name"] not in names]
    if lacking or not samples or any(len(row) != len(names) for _, row in samples):
        told = f"it has no column {', '.join(lacking)}" if lacking else "it has no sample, or lines of other lengths"
        raise SystemExit(f"{path}: cannot be read like the training file: {told}.")
    blocks = [one(path, [(at, row[names.index(c["name"])]) for at, row in samples], c) for c in raw["columns"]]
    return np.concatenate(blocks, 1).astype(np.float32), [f"line {at}" for at, _ in samples]


def one(path: Path, cells: list[tuple[int, str]], column: Any) -> np.ndarray:
    """The inputs that come of a column."""
    if "values" in column:  # a text that is missing or new gives 0 for every value
        return np.array([[text == value for value in column["values"]] for _, text in cells], np.float64)
    for at, text in cells:
        if text.lower() not in MISSING and not number(text):
            raise SystemExit(f"{path}:{at}: {column['name']!r}: {text!r} is not a number.")
    found = np.array([column["mean"] if text.lower() in MISSING else float(text) for _, text in cells])
    scaled: np.ndarray = (found - column["mean"]) / (column["std"] or 1.0)
    return scaled[:, None]


def number(text: str) -> bool:
    """Whether it is a finite number."""
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def pictures(path: Path, raw: Any) -> tuple[np.ndarray, list[str]]:
    """A picture, or all in a folder and below it in the order of their paths."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise SystemExit("Pictures need Pillow (pip install pillow); or give samples as .npy.") from None
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in raw["suffixes"]) if path.is_dir() else [path]
    if not found:
        raise SystemExit(f"{path}: holds no picture.")
    made = [pixels(ImageOps.exif_transpose(Image.open(p)), raw, Image, ImageOps) for p in found]
    array = np.stack(made).transpose(0, 3, 1, 2).astype(np.float32) / 255
    if raw["mean"] is not None:
        mean, std = (np.array(raw[k], np.float32).reshape(-1, 1, 1) for k in ("mean", "std"))
        array = (array - mean) / std
    return np.ascontiguousarray(array), [str(p) for p in found]


def pixels(image: Any, raw: Any, kinds: Any, ops: Any) -> np.ndarray:
    """Bytes [H, W, C]: scaled until it covers the size, and cut from the middle; what is transparent becomes white."""
    if image.mode.startswith("I;16"):
        image = kinds.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if raw["channels"] != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = kinds.alpha_composite(kinds.new("RGBA", image.size, "white"), image)
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[raw["channels"]])
    image = ops.fit(image, raw["size"][::-1], kinds.Resampling.BILINEAR)
    return np.array(image).reshape(*raw["size"], raw["channels"])
