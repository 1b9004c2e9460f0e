"""Reading rows out of shards that lie in memory as the files they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import InputError, choices
from understudy.store.encoding import Field, chosen, decode, layout
from understudy.store.manifest import Manifest, label
from understudy.store.shard import Bytes, Shard, mapped

__all__ = ["Reader", "asked"]

MOST_MAPS = 256  # a map holds a file open, of which a process may have a thousand

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A tensor of a field: its name, its word within the field, and of one row its type, shape and bytes."""

    name: str
    word: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    width: int


def _parts(name: str, field: Field) -> list[Part]:
    return [
        Part(f"{name}/{word}", word, dtype, shape, math.prod(shape) * dtype.itemsize)
        for word, (dtype, shape) in layout(field).items()
    ]


class Reader:
    """Stored outputs by sample id and draw. :meth:`Store.reader` makes one.

    A file is mapped when a row of it is first asked for, once. A copy, or what another process is given, maps it again.

    Args:
        folder: of the store.
        manifest: of the store.
        shards: every shard's header, by number.
        temperatures: of each field that is read, the temperature at which ``topk:K`` is read; None for other encodings.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, shards: Mapping[int, Shard], temperatures: Mapping[str, float | None]
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards, self._temperatures = shards, temperatures
        self._maps: dict[int, dict[str, Bytes]] = {}
        self._parts = {name: _parts(name, field) for name, field in self.fields.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Reader, (self.folder, self.manifest, self._shards, self._temperatures)

    @property
    def fields(self) -> dict[str, Field]:
        """What is read."""
        return {name: self.manifest.fields[name] for name in self._temperatures}

    def rows(self, ids: Tensor, draw: int = 0) -> dict[str, Tensor]:
        """Each field's rows, float32 ``[N, *shape]`` on the CPU, in the order of the ids; an id may come twice.

        Raises: InputError for a sample or a draw that is not stored.
        """
        kept = self.encoded(ids, draw)
        return {name: decode(kept[name], field, self._temperatures[name]) for name, field in self.fields.items()}

    def encoded(self, ids: Tensor, draw: int = 0) -> dict[str, dict[str, Tensor]]:
        """The same as it is kept; see :func:`~understudy.store.encoding.layout`."""
        draw = int(draw)
        wanted = ids.detach().cpu().reshape(-1).to(torch.int64).numpy()
        self._check(wanted, draw)
        parts = self._gathered(wanted, draw * self.manifest.shards_a_draw)
        return {
            name: {p.word: parts[p.name].view(p.dtype).reshape(len(wanted), *p.shape) for p in mine}
            for name, mine in self._parts.items()
        }

    def close(self) -> None:
        """Let go of the files. Rows that were read stay; who reads on maps them again."""
        self._maps.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self, ids: Ids, draw: int) -> None:
        if not 0 <= draw < self.manifest.draws:
            raise InputError(f"{self.folder}: draw {draw} is not stored; there are {self.manifest.draws}, from 0.")
        if len(ids) and (ids.min() < 0 or ids.max() >= self.manifest.samples):
            bad = ids[(ids < 0) | (ids >= self.manifest.samples)][0]
            raise InputError(f"{self.folder}: sample {bad} is not among the {self.manifest.samples:,} that are stored.")

    def _gathered(self, ids: Ids, first: int) -> dict[str, Tensor]:
        """The bytes of the rows, of each tensor ``[N, bytes of a row]``: in a loop over shards, not over rows."""
        number, local = np.divmod(ids, self.manifest.rows)
        order = np.argsort(number, kind="stable")
        number = number[order]
        starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist()] if len(ids) else []
        spans = list(zip(number[starts].tolist(), starts, [*starts[1:], len(ids)][: len(starts)], strict=True))
        back = None
        if len(spans) > 1:
            local = local[order]
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
        found = {}
        for part in (p for parts in self._parts.values() for p in parts):
            taken = torch.empty(len(ids), part.width, dtype=torch.uint8)
            into = taken.numpy()
            for shard, start, end in spans:
                # "clip" spares numpy a copy; the ids have been looked at.
                held = self._map(first + shard)[part.name]
                held.take(local[start:end], axis=0, out=into[start:end], mode="clip")
            found[part.name] = taken if back is None else torch.from_numpy(into.take(back, axis=0))
        return found

    def _map(self, shard: int) -> dict[str, Bytes]:
        found = self._maps.get(shard)
        if found is None:
            while len(self._maps) >= MOST_MAPS:  # of an earlier draw, most likely
                self._maps.pop(next(iter(self._maps)), None)
            found = self._maps[shard] = mapped(self._shards[shard])
        return found


def asked(manifest: Manifest, names: Sequence[str] | None, temperature: float | None) -> dict[str, float | None]:
    """The fields that are read, all if none are named, each with its temperature if it needs one."""
    found: dict[str, float | None] = {}
    for name in manifest.fields if names is None else names:
        if name not in manifest.fields:
            told = choices(label(name), map(label, manifest.fields))
            raise InputError(f"store: {label(name)} is not stored. {told}")
        field = manifest.fields[name]
        found[name] = None if field.top is None else chosen(field, temperature)
    return found
