"""What a model's files weigh: raw, and compressed as an app's package or a download is."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import InputError, choices

__all__ = ["COMPRESSED_BY", "SUFFIXES", "files_of", "holds_int8", "model_file", "size_bytes", "size_compressed_bytes"]

SUFFIXES = {".onnx": "onnxruntime", ".xml": "openvino", ".pte": "executorch", ".pt2": "torch.export"}
"""The runtime of a file, by how its name ends."""

ZLIB_LEVEL = 9
COMPRESSED_BY = f"zlib level {ZLIB_LEVEL}"
CHUNK = 1 << 20
SIGNS = (b"QuantizeLinear", b"MatMulInteger", b"quantize_per_", b"FakeQuantize", b'element_type="i8"')
"""What stands in a file that computes in int8: names of operators of ONNX, torch and OpenVINO."""


def model_file(path: str | Path) -> Path:
    """The file itself, or the one in an exported folder.

    Raises: InputError where there is none, or of a kind that nothing here can run.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise InputError(
                f"{path}: one model is looked for in a folder, and there is {names}. Name the file itself."
            )
        return found[0]
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: its name does not end as that of a model that can be run here. {choices(path.suffix, SUFFIXES)}"
        )
    if not path.is_file():
        near = sorted(str(f) for f in path.parent.glob("*") if f.suffix in SUFFIXES) if path.parent.is_dir() else []
        raise InputError(f"{path}: there is no such file.{' ' + choices(path, near) if near else ''}")
    return path


def files_of(file: Path) -> list[Path]:
    """The file, and those beside it that hold its weights."""
    beside = {".onnx": [f"{file.name}.data"], ".xml": [f"{file.stem}.bin"]}.get(file.suffix, [])
    return [file, *(other for name in beside if (other := file.with_name(name)).is_file())]


def size_bytes(files: Sequence[Path]) -> int:
    """Of all files together."""
    return sum(file.stat().st_size for file in files)


def size_compressed_bytes(files: Sequence[Path]) -> int:
    """Of all files together, each compressed by zlib at level 9."""
    total = 0
    for file in files:
        packer = zlib.compressobj(ZLIB_LEVEL)
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                total += len(packer.compress(chunk))
        total += len(packer.flush())
    return total


def holds_int8(file: Path) -> bool:
    """Whether it computes in int8, by the operators that it names, or else by its own name or its folder's."""
    if any(re.search(r"(?<![a-z])int8", part.lower()) for part in file.absolute().parts[-2:]):  # no checkpoint8
        return True
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            return any(_signed(parts.read(name)) for name in parts.namelist() if name.endswith(".json"))
    return _signed(file.read_bytes())


def _signed(content: bytes) -> bool:
    return any(sign in content for sign in SIGNS)
