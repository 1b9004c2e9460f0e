"""One shard: a safetensors file that bears, in its header, what it is part of, the digest of each of its tensors and its errors.

All of it is one file, so that of two processes that make the same shard at the same time either one's is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import CorruptError
from understudy.store.encoding import layout
from understudy.store.fidelity import Error, Errors
from understudy.store.manifest import Manifest
from understudy.writing import bytes_of, save_tensors

__all__ = ["FOLDER", "Shard", "Words", "check_digests", "look", "mapped", "path_of", "publish"]

FOLDER = "shards"
KEY = "understudy"
LARGEST_HEADER = 2**24
WORDS = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int16: "I16",
    torch.int32: "I32",
}  # fmt: skip

Words = NDArray[np.void]


@dataclass(frozen=True)
class Shard:
    """A shard's header.

    Attributes:
        path: of the file.
        rows: how many it holds.
        spans: where each tensor's bytes are in the file.
        digests: SHA-256 of each tensor.
        errors: of each field.
    """

    path: Path
    rows: int
    spans: Mapping[str, tuple[int, int]]
    digests: Mapping[str, str]
    errors: Errors


def path_of(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / FOLDER / f"{shard:05d}.safetensors"


def publish(folder: Path, manifest: Manifest, shard: int, parts: Mapping[str, Tensor], errors: Errors) -> None:
    """Write a shard whole or not at all; ``parts`` are named field/part."""
    body = json.dumps(
        {
            "identity": manifest.identity,
            "shard": shard,
            "sha256": {name: _digest(bytes_of(t)) for name, t in sorted(parts.items())},
            "errors": {f: {n: [e.apart, e.whole] for n, e in found.items()} for f, found in sorted(errors.items())},
        }
    )
    # One word, because the order of several in a header is left to chance, and the same rows shall be the same file.
    save_tensors(path_of(folder, shard), parts, {KEY: f"{_seal(body)} {body}"})


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def look(folder: Path, manifest: Manifest, shard: int) -> Shard | None:
    """A shard by its header and size, without reading what it holds; None if it is not there.

    Raises: CorruptError that names the file and what is wrong.
    """
    path = path_of(folder, shard)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= LARGEST_HEADER else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptError(f"{path}: cannot be read: {error}") from error
    try:
        return _read(path, manifest, shard, json.loads(header), 8 + length, size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{path}: is damaged in its header: {error}") from error


def _read(path: Path, manifest: Manifest, shard: int, header: dict[str, Any], start: int, size: int) -> Shard:
    seal, _, body = header.pop("__metadata__")[KEY].partition(" ")
    if seal != _seal(body):
        raise CorruptError(f"{path}: is damaged in its header: its digest does not match.")
    told = json.loads(body)
    if told["identity"] != manifest.identity:
        raise CorruptError(f"{path}: belongs to another store, or to this one before it was made anew.")
    if told["shard"] != shard:
        raise CorruptError(f"{path}: is shard {told['shard']} under another name.")
    _, ids = manifest.place(shard)
    expected = {
        f"{name}/{part}": (WORDS[dtype], [len(ids), *shape], dtype.itemsize)
        for name, field in manifest.fields.items()
        for part, (dtype, shape) in layout(field).items()
    }
    found = {name: (e["dtype"], e["shape"]) for name, e in header.items()}
    if found != {name: (word, shape) for name, (word, shape, _) in expected.items()}:
        raise CorruptError(f"{path}: is damaged in its header: it does not hold what the store says.")
    spans = {}
    at = start
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        _, shape, itemsize = expected[name]
        end = at + int(np.prod(shape)) * itemsize
        if [at - start, end - start] != entry["data_offsets"]:
            raise CorruptError(f"{path}: is damaged in its header: the place of {name} is not as long as it is.")
        spans[name] = (at, end)
        at = end
    if size != at:
        raise CorruptError(f"{path}: has {size:,} bytes instead of {at:,}: it was cut short or appended to.")
    errors = {f: {n: Error(*e) for n, e in by.items()} for f, by in told["errors"].items()}
    return Shard(path, len(ids), spans, told["sha256"], errors)


def mapped(shard: Shard) -> dict[str, Words]:
    """Each tensor's rows, every one of them a word of so many bytes, mapped from the file and not read."""
    try:
        file = np.memmap(shard.path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise CorruptError(f"{shard.path}: cannot be read: {error}") from error
    if any(end > len(file) for _, end in shard.spans.values()):
        raise CorruptError(f"{shard.path}: was cut short after it was opened.")
    return {name: file[a:b].view(f"V{(b - a) // shard.rows}") for name, (a, b) in shard.spans.items()}


def check_digests(shard: Shard) -> None:
    """Read all of it; CorruptError names what has changed since it was written."""
    bad = [n for n, b in mapped(shard).items() if _digest(b.view(np.uint8).data) != shard.digests[n]]
    if bad:
        raise CorruptError(f"{shard.path}: is damaged in {len(bad)} of {len(shard.spans)} tensors: {', '.join(bad)}.")
