"""Reading rows out of shards that lie in memory as the files they are."""

from __future__ import annotations

import itertools
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
from understudy.store.shard import Shard, Words, mapped

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
        self._maps: dict[int, dict[str, Words]] = {}
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
        held = self._gathered(self._wanted(ids), draw)
        return {
            name: {p.word: held[p.name].view(p.dtype).view(-1, *p.shape) for p in parts}
            for name, parts in self._parts.items()
        }

    def close(self) -> None:
        """Let go of the files. Rows that were read stay; who reads on maps them again."""
        self._maps.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wanted(self, ids: Tensor) -> Ids:
        wanted: Ids = ids.detach().cpu().reshape(-1).to(torch.int64).numpy()
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.manifest.samples):
            bad = wanted[(wanted < 0) | (wanted >= self.manifest.samples)][0]
            raise InputError(f"{self.folder}: sample {bad} is not among the {self.manifest.samples:,} that are stored.")
        return wanted

    def _gathered(self, ids: Ids, draw: int) -> dict[str, Tensor]:
        """The bytes of the rows, of each tensor ``[N, bytes of a row]``: in a loop over shards, not over rows."""
        draw = int(draw)
        if not 0 <= draw < self.manifest.draws:
            raise InputError(f"{self.folder}: draw {draw} is not stored; there are {self.manifest.draws}, from 0.")
        first = draw * self.manifest.shards_a_draw
        spans = self._spans(ids)
        found = {}
        for part in (p for parts in self._parts.values() for p in parts):
            taken = torch.empty(len(ids), part.width, dtype=torch.uint8)
            into = taken.numpy().view(f"V{part.width}")[:, 0]
            for shard, local, places in spans:
                held = self._map(first + shard)[part.name]
                # "clip" spares numpy a copy; the ids have been looked at.
                if places is None:
                    held.take(local, out=into, mode="clip")
                else:
                    into.put(places, held.take(local, mode="clip"), mode="clip")
            found[part.name] = taken
        return found

    def _spans(self, ids: Ids) -> list[tuple[int, Ids, Ids | None]]:
        """Of each shard that is touched its number, its rows, and their places in the batch; None if it is the only one."""
        if self.manifest.shards_a_draw == 1:
            return [(0, ids, None)]
        number, local = np.divmod(ids, self.manifest.rows)
        order = np.argsort(number, kind="stable")
        bounds = np.searchsorted(number[order], np.arange(self.manifest.shards_a_draw + 1)).tolist()
        return [
            (shard, local[order[a:b]], order[a:b]) for shard, (a, b) in enumerate(itertools.pairwise(bounds)) if b > a
        ]

    def _map(self, shard: int) -> dict[str, Words]:
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
