"""Files that stand there whole or not at all: after a kill, a full disk or a power cut as well. And reading them back.

Each is written under another name, forced to the disk, and renamed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from understudy.errors import CorruptError, MachineError

__all__ = [
    "bytes_of",
    "disk",
    "load_tensors",
    "make_folder",
    "plain",
    "read_json",
    "save_tensors",
    "strict",
    "sweep",
    "sync",
    "temporary",
    "write_json",
    "write_text",
]


@contextmanager
def disk(path: Path, need: int | None = None) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into a MachineError that names the path and, if known, the bytes needed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = str(error) if need is None or not _is_full(error) else _told(path, need)
        raise MachineError(f"{path}: cannot be written: {what}. What was saved before is intact.") from error


def _is_full(error: Exception) -> bool:
    words = ("No space left", "File too large", "quota exceeded")  # safetensors gives no errno
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in codes or any(word in str(error) for word in words)


def _told(path: Path, need: int) -> str:
    free = shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free
    return f"the disk is full: {need:,} bytes are needed, {free:,} are free. Free some space and resume"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that is there stays as it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder}: cannot be made: {error}. Choose another place.") from error


def temporary(path: Path) -> Path:
    """A name beside the path that nobody else uses, and that :func:`sweep` knows."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def sweep(folder: Path) -> None:
    """Delete what a killed process left half written. For the folder's owner only: it spares nobody's work."""
    for debris in folder.glob(".*." + "[0-9a-f]" * 32):
        if debris.is_dir():
            shutil.rmtree(debris, ignore_errors=True)
        else:
            debris.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _replacing(path: Path, need: int) -> Iterator[Path]:
    """A name to write to; what is written there takes the path's place at the end."""
    new = temporary(path)
    with disk(path, need):
        try:
            yield new
            sync(new)
            new.replace(path)
            sync(path.parent)
        finally:
            new.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    data = text.encode()
    with _replacing(path, len(data)) as new:
        new.write_bytes(data)


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write strict JSON, with null for what JSON has no word for; see :func:`strict`."""
    write_text(path, json.dumps(strict(value), indent=indent, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote; CorruptError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last of brackets without end
        raise CorruptError(f"{path}: is damaged: {error}") from error


def strict(value: Any) -> Any:
    """A value as JSON can say it: null in place of NaN and infinity, and lists for tuples.

    >>> strict({"loss": float("nan"), "lr": (0.1, 1.0)})
    {'loss': None, 'lr': [0.1, 1.0]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: strict(v) for k, v in value.items()}
    return [strict(v) for v in value] if isinstance(value, (list, tuple)) else value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all; ``metadata`` are words for its header."""
    with _replacing(Path(path), sum(t.nbytes for t in tensors.values())) as new:
        safetensors.torch.save_file(plain(tensors), new, metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; CorruptError if it is none."""
    try:
        return dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise CorruptError(f"{path}: is not a readable safetensors file: {error}") from error


def bytes_of(tensor: Tensor) -> memoryview:
    """What a digest is made of."""
    raw: memoryview = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return raw


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: on the CPU, and views of one storage as tensors of their own."""
    held: dict[int, str] = {}
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        shared = held.setdefault(storage.data_ptr(), name) != name or storage.nbytes() != tensor.nbytes
        found[name] = tensor.clone() if shared else tensor
    return found
