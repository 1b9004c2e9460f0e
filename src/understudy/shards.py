"""Tensors that ``fully_shard`` has spread over ranks: what each rank writes of them, and how any part is read back.

Each rank writes the parts that it holds to a file of its own; nobody gathers anything. A reader asks for a part by
where it begins and how long it is, and gets it from whichever files hold some of it. So the same ranks read their own
files alone, and other ranks, or a single process, what they need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from understudy.errors import CorruptError

__all__ = ["Part", "Spread", "described", "held", "own_file", "settled"]


def own_file(rank: int) -> str:
    """The name of a rank's file in a checkpoint's folder."""
    return f"rank-{rank:05d}.safetensors"


def settled(tensor: DTensor) -> Tensor:
    """A tensor as it is to be saved: still spread, if each rank can write its part; else whole.

    What is spread in another way than in contiguous parts is gathered: all ranks must call this.
    """
    if not _in_plain_parts(tensor):
        return tensor.full_tensor()
    return tensor if any(isinstance(p, Shard) for p in tensor.placements) else tensor.to_local()


def held(tensors: Mapping[str, Tensor]) -> dict[str, DTensor]:
    """The spread tensors of which this rank writes a part: not an empty one, nor what another rank has as well."""
    spread = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    return {name: tensor for name, tensor in spread.items() if tensor.to_local().numel() and _first_to_hold(tensor)}


def described(tensors: Mapping[str, DTensor], file: str) -> dict[str, dict[str, Any]]:
    """This rank's parts in words, for the manifest."""
    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "parts": [[file, _corner(tensor), list(tensor.to_local().shape)]],
        }
        for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class Part:
    """A file, and what it has of a tensor: from where on, and how much along each axis."""

    file: Path
    begin: tuple[int, ...]
    length: tuple[int, ...]

    def common(self, other: Part) -> tuple[slice, ...] | None:
        """What both have, as seen from the beginning of this one; None if that is nothing."""
        found = []
        for a, n, b, m in zip(self.begin, self.length, other.begin, other.length, strict=True):
            start, stop = max(a, b), min(a + n, b + m)
            if start >= stop:
                return None
            found.append(slice(start - a, stop - a))
        return tuple(found)


@dataclass(frozen=True)
class Spread:
    """A tensor on the disk, in parts, none of which is read before it is asked for."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    parts: tuple[Part, ...]

    @classmethod
    def found(cls, folder: Path, name: str, said: Mapping[str, Any]) -> Spread:
        """What the manifest says of it."""
        parts = tuple(Part(folder / file, tuple(begin), tuple(length)) for file, begin, length in said["parts"])
        return cls(name, getattr(torch, said["dtype"]), torch.Size(said["shape"]), parts)

    def whole(self) -> Tensor:
        """All of it."""
        return self.read([0] * len(self.shape), self.shape)

    def read(self, begin: Sequence[int], length: Sequence[int]) -> Tensor:
        """A part of it, from those files alone that have some of it; CorruptError if some of it is in none."""
        wanted = Part(Path(), tuple(begin), tuple(length))
        values, filled = torch.empty(wanted.length, dtype=self.dtype), 0
        for part in self.parts:
            here, there = wanted.common(part), part.common(wanted)
            if here is not None and there is not None:
                with safe_open(part.file, framework="pt") as file:
                    values[here] = file.get_slice(self.name)[there]
                filled += values[here].numel()
        if filled != values.numel():
            folder = self.parts[0].file.parent
            raise CorruptError(f"{folder}: {values.numel() - filled:,} elements of {self.name} are in no file.")
        return values

    def like(self, mine: Any) -> Tensor:
        """As this rank needs it in place of a tensor: its part, if that one is spread; else all."""
        if not isinstance(mine, DTensor) or mine.shape != self.shape:
            return self.whole()
        if not _in_plain_parts(mine):
            return distribute_tensor(self.whole().to(mine.device), mine.device_mesh, mine.placements)
        local = self.read(_corner(mine), mine.to_local().shape).to(mine.device)
        return DTensor.from_local(local, mine.device_mesh, mine.placements, shape=mine.shape, stride=mine.stride())


def _in_plain_parts(tensor: DTensor) -> bool:
    # By the very type: a kind of Shard that deals out every n-th row has no corner.
    return all(type(p) in (Shard, Replicate) for p in tensor.placements)


def _first_to_hold(tensor: DTensor) -> bool:
    return all(i == 0 or isinstance(p, Shard) for i, p in zip(_here(tensor), tensor.placements, strict=True))


def _here(tensor: DTensor) -> list[int]:
    """This rank's place in the tensor's mesh."""
    return list(tensor.device_mesh.get_coordinate() or [])


def _corner(tensor: DTensor) -> list[int]:
    """Where this rank's part begins, along each axis."""
    begin, length = [0] * tensor.ndim, list(tensor.shape)
    for i, many, placement in zip(_here(tensor), tensor.device_mesh.shape, tensor.placements, strict=True):
        if isinstance(placement, Shard):
            axis = placement.dim
            most = math.ceil(length[axis] / many)  # as torch.chunk: the last ones may have less, or nothing
            before = min(i * most, length[axis])
            begin[axis], length[axis] = begin[axis] + before, min(most, length[axis] - before)
    assert length == list(tensor.to_local().shape), (length, tensor.to_local().shape)
    return begin
