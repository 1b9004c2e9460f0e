"""Random views of pictures, made a batch at a time.

A view is a pure function of (seed, sample's id, draw): numbers are hashed, and no generator is asked. So it is the same in
a batch and alone, in this process and in a worker, in a run and in one that is resumed; and it can be made again at any
time, without anything stored.

N samples, F flips (1 or 2), C channels, H rows, W columns, G planes: C of W numbers a row, or 1 of W * C.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from understudy.data.order import seed_of
from understudy.data.parts import Parts
from understudy.errors import InputError, raise_all

__all__ = ["Augment", "Layout", "Pictures", "Shades", "Streamed", "fitting", "hashed", "viewed"]

Layout = Literal["contiguous", "channels_last"]
Array = np.ndarray[Any, Any]

IN_MEMORY = 2 * 1024**3
"""Bytes up to which pictures are decoded once and kept, with their borders and flips."""

FLIP, ROW, COLUMN = 1, 2, 3
"""What a random number is for."""

# Of splitmix64: Steele et al. 2014, Fast splittable pseudorandom number generators.
_STEP = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST = 31


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is random in a view of a picture.

    Attributes:
        crop: so many pixels are put around the picture, and one of its own size is cut out somewhere; 4 is usual for 32x32.
        fill: what crop puts around: "zero" is black, "reflect" mirrors the picture at its border.
        flip: swap left and right in half of the views.
        shift: as crop, with the outermost pixels repeated: the picture is moved by up to so many pixels.
    Raises: InputError that lists every option that cannot be.
    """

    crop: int = 0
    fill: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        pixels = {"crop": self.crop, "shift": self.shift}
        problems = [
            f"augment: {name}={value!r} is not allowed; give a number of pixels, 0 or above."
            for name, value in pixels.items()
            if isinstance(value, bool) or not isinstance(value, int) or value < 0
        ]
        flip: object = self.flip
        if not isinstance(flip, bool):
            problems.append(f"augment: flip={flip!r} is not allowed; give True or False.")
        if self.fill not in ("zero", "reflect"):
            problems.append(f"augment: fill={self.fill!r} is not allowed; give 'zero' or 'reflect'.")
        if not problems and self.crop and self.shift:
            problems.append(
                f"augment: crop={self.crop} and shift={self.shift} both move the picture; give one of the two."
            )
        raise_all(InputError, problems)

    @property
    def random(self) -> bool:
        """Whether views differ at all."""
        return bool(self.crop or self.shift or self.flip)

    @property
    def border(self) -> int:
        """Pixels around a picture."""
        return self.crop or self.shift

    def bordered(self, pictures: Array, axes: tuple[int, int]) -> Array:
        """The pictures with what their views may reach."""
        if not self.border:
            return pictures
        width = [(self.border, self.border) if axis in axes else (0, 0) for axis in range(pictures.ndim)]
        if self.shift:
            return np.pad(pictures, width, mode="edge")
        return np.pad(pictures, width, mode="reflect") if self.fill == "reflect" else np.pad(pictures, width)


def hashed(ids: Array, seed: int, draw: int, purposes: Sequence[int]) -> Array:
    """A random number for each sample and purpose: uint64 ``[purposes, N]``, a pure function of all four.

    >>> hashed(np.arange(2), 0, 0, [FLIP]) % 100
    array([[99, 14]], dtype=uint64)
    """
    key = np.uint64(seed_of(seed, "view", draw))
    mixed = _mixed(np.asarray(ids).astype(np.uint64) * np.uint64(_STEP) + key)
    return _mixed(mixed + np.array(purposes, dtype=np.uint64)[:, None] * np.uint64(_STEP))


def _mixed(bits: Array) -> Array:
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    mixed: Array = bits ^ (bits >> np.uint64(_LAST))
    return mixed


def _below(bits: Array, count: int) -> Array:
    """Whole numbers from 0 to ``count - 1``, all alike."""
    return (((bits >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.intp)


class _Lens:
    """From pictures as they are to batches as models take them."""

    def __init__(
        self,
        augment: Augment | None,
        mean: Any,
        std: Any,
        layout: Layout,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        if augment is not None and not isinstance(augment, Augment):
            raise InputError(f"pictures: augment={augment!r} is no Augment, such as Augment(crop=4, flip=True).")
        self.augment, self.layout = augment or Augment(), layout
        self.channels, self.rows, self.columns = shape
        if layout not in ("contiguous", "channels_last"):
            raise InputError(f"pictures: layout={layout!r} is not allowed; give 'contiguous' or 'channels_last'.")
        if self.augment.fill == "reflect" and self.augment.crop >= min(self.rows, self.columns):
            raise InputError(
                f"pictures: crop={self.augment.crop} cannot reflect pictures of {self.rows} by {self.columns}; give less than their sides."
            )
        self.planes, self.step = (1, self.channels) if layout == "channels_last" else (self.channels, 1)
        self.bytes = dtype == np.uint8
        self.scale = self.offset = None
        statistics = _statistics(mean, std, self.channels)
        if statistics is not None:
            self.scale = self._spread(1 / (statistics[1] * (255 if self.bytes else 1)))
            self.offset = self._spread(-statistics[0] / statistics[1])

    def stored(self, pictures: Array) -> Array:
        """Pictures ``[N, C, H, W]`` as they are kept: with borders, both flips, in the layout that is wanted."""
        whole = self.augment.bordered(pictures, (2, 3))
        kept = np.empty((len(whole), 1 + self.augment.flip, *whole.shape[1:]), whole.dtype)
        kept[:, 0] = whole
        if self.augment.flip:
            kept[:, 1] = whole[..., ::-1]
        wanted = kept.transpose(0, 1, 3, 4, 2) if self.layout == "channels_last" else kept
        return np.ascontiguousarray(wanted).reshape(*kept.shape[:2], self.planes, whole.shape[2], -1)

    def views(self, stored: Array, at: Array, ids: Array, draw: int, seed: int) -> Tensor:
        """The views of the samples ``ids``, which lie at ``at``: float32 ``[N, C, H, W]``."""
        flips, top, left = self._places(ids, draw, seed)
        cut = np.ascontiguousarray(self._windows(stored)[at, flips, top, left])
        views = self._scaled(torch.from_numpy(cut))
        if self.layout == "contiguous":
            return views.view(-1, self.channels, self.rows, self.columns)
        return views.view(-1, self.rows, self.columns, self.channels).permute(0, 3, 1, 2)

    def _places(self, ids: Array, draw: int, seed: int) -> tuple[Array, Array, Array]:
        """Whether each view is flipped, and where it begins."""
        if not self.augment.random:
            nothing = np.zeros(len(ids), np.intp)
            return nothing, nothing, nothing
        flip, row, column = hashed(ids, seed, draw, (FLIP, ROW, COLUMN))
        places = 2 * self.augment.border + 1
        return _below(flip, 1 + self.augment.flip), _below(row, places), _below(column, places)

    def _windows(self, stored: Array) -> Array:
        """Every view that there is, as a picture of its own, of which nothing is copied: ``[N, F, top, left, G, H, W]``."""
        places, (sample, flip, plane, row, one) = 2 * self.augment.border + 1, stored.strides
        shape = (*stored.shape[:2], places, places, self.planes, self.rows, self.columns * self.step)
        strides = (sample, flip, row, one * self.step, plane, row, one)
        return np.lib.stride_tricks.as_strided(stored, shape, strides, writeable=False)

    def _scaled(self, cut: Tensor) -> Tensor:
        # A multiplication and an addition, each rounded by itself: a fused one would round a batch's last numbers differently.
        views = cut.to(torch.float32)
        if self.scale is None or self.offset is None:
            return views.div_(255) if self.bytes else views
        return views.mul_(self.scale).add_(self.offset)

    def _spread(self, values: Array) -> Tensor:
        """A value for each channel, as a picture: torch is slow where only the three channels lie side by side."""
        whole = np.broadcast_to(values[:, None, None], (self.channels, self.rows, self.columns))
        wanted = whole.transpose(1, 2, 0) if self.layout == "channels_last" else whole
        return torch.from_numpy(wanted.reshape(self.planes, self.rows, -1).astype(np.float32))


def _statistics(mean: Any, std: Any, channels: int) -> tuple[Array, Array] | None:
    """Mean and deviation of each channel; None where there are none."""
    if mean is None and std is None:
        return None
    given = {"mean": mean, "std": std}
    problems = [
        f"pictures: {name} is missing; give both mean and std." for name, value in given.items() if value is None
    ]
    raise_all(InputError, problems)
    made = {}
    for name, value in given.items():
        try:
            numbers = np.asarray(value, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):  # which cannot be numbers
            numbers = np.empty(0)
        numbers = np.repeat(numbers, channels) if len(numbers) == 1 else numbers
        if len(numbers) != channels or not np.isfinite(numbers).all() or (name == "std" and (numbers <= 0).any()):
            more = ", above 0" if name == "std" else ""
            problems.append(
                f"pictures: {name}={value!r} is not allowed; give one number, or one for each of {channels} channels{more}."
            )
        made[name] = numbers
    raise_all(InputError, problems)
    return made["mean"], made["std"]


class Pictures(Dataset[Any]):
    """Pictures in memory, of which each draw of a sample gives another view.

    The pixels of a view depend on (seed, sample's id, draw) alone. What is kept is the pictures with their borders, twice
    where they are flipped: 9.6 kB for a picture of 32x32x3 bytes with ``crop=4, flip=True``.

    Args:
        data: (pictures, labels, ...), or a mapping with ``input``, as tensors or arrays. Pictures are bytes or floats,
            ``[N, C, H, W]``, ``[N, H, W, C]`` or ``[N, H, W]``. All else is passed on as it is.
        augment: what is random; None for nothing.
        mean: for each channel, of pixels in [0, 1] where they are bytes: subtracted.
        std: for each channel: divided by.
        layout: how a batch lies in memory: "channels_last" is what convolutions in bf16 are fastest on.
        channels: which axis they are, "first" or "last"; by default the last if it alone is as long as channels are: 1, 3, 4.

    Attributes:
        random: whether views differ.
        stored: the pictures as they are kept.
    Raises: InputError for pictures and options that do not go together.

    >>> pictures = Pictures((torch.zeros(2, 1, 4, 4), torch.tensor([3, 7])), augment=Augment(crop=1))
    >>> images, labels = pictures.batch(torch.tensor([1, 0]), draw=5, seed=0)
    >>> images.shape, labels.tolist()
    (torch.Size([2, 1, 4, 4]), [7, 3])
    """

    def __init__(
        self,
        data: Tensor | Array | tuple[Any, ...] | Mapping[str, Any],
        *,
        augment: Augment | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        layout: Layout = "contiguous",
        channels: Literal["first", "last"] | None = None,
    ) -> None:
        self.named = isinstance(data, Mapping)
        data = (data,) if isinstance(data, (Tensor, np.ndarray)) else data
        if not isinstance(data, (tuple, list, Mapping)) or not data:
            raise InputError(f"pictures: {data!r} is no data; give (pictures, labels), or a mapping with 'input'.")
        columns = dict(data) if isinstance(data, Mapping) else dict(enumerate(data))
        self.columns = {name: _column(name, value) for name, value in columns.items()}
        self.field = _field(self.columns) if self.named else 0
        pictures = _channels_first(self.columns[self.field], channels)
        sizes = {len(column) for column in self.columns.values()}
        if len(sizes) > 1:
            raise InputError(f"pictures: columns of {sorted(sizes)} samples; they must have equally many.")
        self.lens = _Lens(augment, mean, std, layout, pictures.shape[1:], pictures.dtype)
        self.random = self.lens.augment.random
        self.stored = self.lens.stored(pictures)
        self.columns[self.field] = torch.empty(len(pictures), 0)  # so that they are not held twice

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, sample: int) -> Any:
        """One sample, of draw 0 and seed 0."""
        if not -len(self) <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        made = self.batch(torch.tensor([sample % len(self)]), 0, 0)
        return {name: t[0] for name, t in made.items()} if self.named else tuple(t[0] for t in made)

    def batch(self, ids: Tensor, draw: int, seed: int) -> Any:
        """These samples at one draw, in the form in which the data was given."""
        ids = torch.as_tensor(ids)
        at = ids.numpy()
        views = self.lens.views(self.stored, at, at, draw, seed)
        made = {name: views if name == self.field else column[ids] for name, column in self.columns.items()}
        return made if self.named else tuple(made.values())


class Shades(Protocol):
    """Pictures that are decoded one by one, such as :class:`~understudy.data.images.ImageFolder`."""

    labels: Sequence[int]
    size: tuple[int, int]
    channels: int

    def shades(self, sample: int) -> Array:
        """One of them: bytes ``[H, W, C]``."""


class Streamed(Dataset[Any]):
    """The same views of pictures that are decoded whenever they are asked for: for more than memory holds, with workers.

    Args:
        pictures: where they are.
        augment: as for :class:`Pictures`, and so are the others.
    """

    def __init__(
        self,
        pictures: Shades,
        *,
        augment: Augment | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        layout: Layout = "contiguous",
    ) -> None:
        self.pictures, self.labels = pictures, torch.tensor(list(pictures.labels))
        self.lens = _Lens(augment, mean, std, layout, (pictures.channels, *pictures.size), np.dtype(np.uint8))
        self.random = self.lens.augment.random

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, sample: int) -> tuple[Tensor, Tensor]:
        """One sample, of draw 0 and seed 0."""
        if not -len(self) <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        images, labels = self.batch(torch.tensor([sample % len(self)]), 0, 0)
        return images[0], labels[0]

    def batch(self, ids: Tensor, draw: int, seed: int) -> tuple[Tensor, Tensor]:
        """These samples at one draw."""
        ids = torch.as_tensor(ids)
        read = np.stack([self.pictures.shades(i) for i in ids.tolist()]).transpose(0, 3, 1, 2)
        return self.lens.views(self.lens.stored(read), np.arange(len(ids)), ids.numpy(), draw, seed), self.labels[ids]


def fitting(
    pictures: Shades,
    *,
    augment: Augment | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Pictures | Streamed:
    """Pictures decoded once and kept, where :data:`IN_MEMORY` has room for them; else streamed. Their views are equal."""
    chosen = augment or Augment()
    sides = math.prod(side + 2 * chosen.border for side in pictures.size)
    if len(pictures.labels) * sides * pictures.channels * (1 + chosen.flip) > IN_MEMORY:
        return Streamed(pictures, augment=augment, mean=mean, std=std)
    whole = np.empty((len(pictures.labels), *pictures.size, pictures.channels), np.uint8)
    for sample in range(len(whole)):
        whole[sample] = pictures.shades(sample)
    labels = torch.tensor(list(pictures.labels))
    return Pictures((whole, labels), augment=augment, mean=mean, std=std, channels="last")


def viewed(parts: Parts, augment: Augment | None, mean: Any, std: Any) -> Parts:
    """The same parts with views of what is trained on, and the others with the same numbers; as they are where nothing is asked for."""
    if augment is None and mean is None and std is None:
        return parts

    def made(part: Any, changes: Augment | None) -> Any:
        if part is None:
            return None
        make = fitting if hasattr(part, "shades") else Pictures
        return make(part, augment=changes, mean=mean, std=std)

    train, more = made(parts.train, augment), made(parts.unlabelled, augment)
    return dataclasses.replace(
        parts, train=train, valid=made(parts.valid, None), test=made(parts.test, None), unlabelled=more
    )


def _column(name: Any, value: Any) -> Tensor:
    try:
        # A view that runs backwards is one that torch cannot take.
        found = torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError) as error:
        raise InputError(f"pictures: column {name!r} cannot be a tensor of numbers: {error}") from error
    if not found.ndim:
        raise InputError(f"pictures: column {name!r} is a single number; it must have one for each picture.")
    return found


def _field(columns: Mapping[Any, Tensor]) -> Any:
    """Which column the pictures are."""
    found = [name for name, c in columns.items() if name not in ("label", "labels") and c.ndim in (3, 4)]
    if "input" in found:
        return "input"
    if len(found) != 1:
        told = ", ".join(f"{name} {list(c.shape)}" for name, c in columns.items())
        raise InputError(f"pictures: which of the fields are they? Call them 'input'. Given: {told}.")
    return found[0]


def _channels_first(given: Tensor, channels: str | None) -> Array:
    """Pictures as ``[N, C, H, W]`` of bytes or float32."""
    if not given.is_floating_point() and given.dtype != torch.uint8:
        raise InputError(f"pictures: are numbers of {given.dtype}; give bytes (torch.uint8) or floats.")
    pictures: Array = (given.detach().float() if given.is_floating_point() else given).cpu().numpy()
    if not pictures.size:
        raise InputError(f"pictures: have shape {list(pictures.shape)}, in which there is no picture.")
    if channels not in (None, "first", "last"):
        raise InputError(f"pictures: channels={channels!r} is not allowed; give 'first' or 'last', or leave it out.")
    if pictures.ndim == 3:
        return pictures[:, None]
    if pictures.ndim != 4:
        raise InputError(f"pictures: have shape {list(pictures.shape)}; give [N, C, H, W], [N, H, W, C] or [N, H, W].")
    if channels is None:
        first, last = (pictures.shape[axis] in (1, 3, 4) for axis in (1, 3))
        channels = "last" if last and not first else "first"
    return pictures if channels == "first" else pictures.transpose(0, 3, 1, 2)
