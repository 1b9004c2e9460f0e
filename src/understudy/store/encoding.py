"""How a teacher's outputs are written down: exactly, in half the bytes, in a quarter, or only the largest of them.

Shapes: N samples, L lines of a sample, W values of a line. Of logits (a field with temperatures) a line is the class axis;
of features it is the whole sample.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError, choices

__all__ = ["ENCODINGS", "Field", "decode", "encode", "layout", "sample_bytes"]

ENCODINGS = ("fp32", "fp16", "bf16", "uint8", "topk:K")
FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_HALF = 65504.0
SMALL_INDEX = 2**15  # classes that an int16 can count

Rows = Callable[[int], str]
"""What a message calls the row at this place."""


@dataclass(frozen=True)
class Field:
    """One output of the teacher, and how it is kept.

    Attributes:
        shape: of one sample's output, without the batch axis.
        encoding: ``fp32`` is exact; ``fp16`` and ``bf16`` take two bytes a value; ``uint8`` one, with a scale and an offset
            for each line; ``topk:K`` keeps the K largest logits of a line and, for each temperature, the exact mass of the rest.
        temperatures: at which losses soften these logits, the classes on the last axis; none for what is not softened.

    Raises: InputError for an encoding that there is not, or that does not go with the shape or the temperatures.
    """

    shape: tuple[int, ...]
    encoding: str = "fp16"
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "temperatures", tuple(sorted({float(t) for t in self.temperatures})))
        if any(n < 1 for n in self.shape):
            raise InputError(f"store: a field of shape {list(self.shape)} holds nothing; every axis must be 1 or more.")
        if not all(0 < t < math.inf for t in self.temperatures):
            raise InputError(f"store: temperatures {list(self.temperatures)}: allowed: above 0.")
        if self.temperatures and not self.shape:
            raise InputError(
                "store: a field with temperatures needs an axis of classes; this one has a number a sample."
            )
        if self.encoding not in FLOATS and self.encoding != "uint8":
            self._check_top()

    def _check_top(self) -> None:
        kind, _, count = self.encoding.partition(":")
        if kind != "topk" or not count.isdecimal() or int(count) < 1:
            raise InputError(f"store: encoding {self.encoding!r}: {choices(self.encoding, ENCODINGS)}")
        if not self.temperatures:
            raise InputError(
                f"store: {self.encoding} is for logits that are softened. Give temperatures, or take fp16."
            )
        if int(count) >= self.width:
            raise InputError(f"store: {self.encoding} of {self.width} classes leaves none out. Take fp16.")

    @functools.cached_property
    def top(self) -> int | None:
        """K of ``topk:K``, else None."""
        return int(self.encoding.partition(":")[2]) if self.encoding.startswith("topk:") else None

    @functools.cached_property
    def width(self) -> int:
        """Values of a line."""
        return self.shape[-1] if self.temperatures else math.prod(self.shape)

    @functools.cached_property
    def lines(self) -> int:
        """Lines of a sample."""
        return math.prod(self.shape) // self.width

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"shape": list(self.shape), "encoding": self.encoding, "temperatures": list(self.temperatures)}


def layout(field: Field) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Of each tensor that an encoding makes of a field: its type, and the shape that a sample has in it.

    >>> layout(Field((1000,), "uint8", (4.0,)))
    {'levels': (torch.uint8, (1, 1000)), 'range': (torch.float32, (1, 2))}
    """
    lines, width = field.lines, field.width
    if field.encoding in FLOATS:
        return {"values": (FLOATS[field.encoding], (lines, width))}
    if field.top is None:
        return {"levels": (torch.uint8, (lines, width)), "range": (torch.float32, (lines, 2))}
    index = torch.int16 if width <= SMALL_INDEX else torch.int32
    return {
        "values": (torch.float16, (lines, field.top)),
        "index": (index, (lines, field.top)),
        "peak": (torch.float32, (lines, 1)),
        "rest": (torch.float32, (lines, len(field.temperatures))),
    }


def sample_bytes(field: Field) -> int:
    """What a sample takes on the disk.

    >>> sample_bytes(Field((1000,), "uint8", (4.0,)))
    1008
    """
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout(field).values())


def _row(place: int) -> str:
    return f"row {place}"


def encode(values: Tensor, field: Field, row: Rows = _row) -> dict[str, Tensor]:
    """The tensors of :func:`layout` with a first axis of samples.

    Args:
        values: ``[N, *shape]`` of any floating type.
        field: shape and encoding.
        row: what a message calls a row.

    Raises: ShapeError for other shapes; InputError for NaN, infinity, and what the encoding cannot hold.
    """
    lines = _lined(values, field, row)
    if field.encoding == "uint8":
        return _levels(lines, row)
    if field.top is not None:
        return _top(lines, field)
    found = lines.to(FLOATS[field.encoding])
    if field.encoding != "fp32" and (bad := _unfit(found)) is not None:
        raise InputError(
            f"{row(bad)} holds {lines[bad].abs().max():.3g}, which {field.encoding} cannot"
            f"{f' (its largest is {LARGEST_HALF:,.0f})' if field.encoding == 'fp16' else ''}. Take fp32."
        )
    return {"values": found}


def _lined(values: Tensor, field: Field, row: Rows) -> Tensor:
    """float32 ``[N, L, W]`` on the CPU, all of it finite."""
    if tuple(values.shape[1:]) != field.shape or not values.ndim:
        raise ShapeError(f"outputs {list(values.shape)} are not [N, {', '.join(map(str, field.shape))}].")
    if not values.is_floating_point():
        raise InputError(f"outputs of {values.dtype}: a store holds real numbers.")
    lines = values.detach().cpu().to(torch.float32).reshape(len(values), field.lines, field.width)
    if (bad := _unfit(lines)) is not None:
        raise InputError(f"{row(bad)} holds NaN or infinity, which no student can learn from.")
    return lines


def _unfit(lines: Tensor) -> int | None:
    """The first sample that is not finite."""
    # The sum of a line is finite only if all of it is; the other way round it may overflow, and then all are looked at.
    if bool(lines.sum(dtype=torch.float32).isfinite()):
        return None
    bad = ~lines.isfinite().flatten(1).all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def _levels(lines: Tensor, row: Rows) -> dict[str, Tensor]:
    low, high = lines.aminmax(dim=-1, keepdim=True)
    scale = (high - low) / 255
    if (bad := _unfit(scale)) is not None:
        raise InputError(
            f"{row(bad)} spans {low[bad].min():.3g} to {high[bad].max():.3g}, too wide for uint8. Take fp32."
        )
    # A line that is constant has no scale, and one that is almost has one that is no number: both are their offset.
    steps = torch.where(scale > 0, scale, 1.0)
    levels = ((lines - low) / steps).round_().clamp_(0, 255).to(torch.uint8)
    return {"levels": levels, "range": torch.cat([scale, low], -1)}


def _top(lines: Tensor, field: Field) -> dict[str, Tensor]:
    assert field.top is not None
    largest, index = lines.topk(field.top, dim=-1)
    peak = largest[..., :1]
    # From the peak down, because near it half precision is fine and there most of the mass lies.
    others = (lines - peak).scatter_(-1, index, -math.inf)
    rest = torch.cat([torch.logsumexp(others / t, -1, keepdim=True) for t in field.temperatures], -1)
    return {
        "values": (largest - peak).clamp_(min=-LARGEST_HALF).to(torch.float16),
        "index": index.to(layout(field)["index"][0]),
        "peak": peak,
        "rest": rest,
    }


def decode(parts: Mapping[str, Tensor], field: Field, temperature: float | None = None) -> Tensor:
    """float32 ``[N, *shape]``.

    Of ``topk:K``, at the temperature, the K largest are what they were, and the others share equally what mass they had
    together: the exact one, from the logsumexp of the rest that is kept. (With that of the K largest it gives the one of
    all.) They are logits for this temperature and for no other.

    Args:
        parts: what :func:`encode` made.
        field: shape and encoding.
        temperature: at which ``topk:K`` is read.

    Raises: InputError if a temperature is needed and none is given, or one at which nothing was kept.
    """
    rows = len(next(iter(parts.values())))
    lines = torch.empty(rows, field.lines, field.width)
    if field.encoding == "uint8":
        scale, low = parts["range"].split(1, -1)
        lines.copy_(parts["levels"]).mul_(scale).add_(low)
    elif field.top is not None:
        _dense(parts, field, chosen(field, temperature), lines)
    else:
        lines.copy_(parts["values"])
    return lines.view(rows, *field.shape)


def _dense(parts: Mapping[str, Tensor], field: Field, temperature: float, lines: Tensor) -> None:
    assert field.top is not None
    at = field.temperatures.index(temperature)
    peak = parts["peak"]
    share = parts["rest"][..., at : at + 1] - math.log(field.width - field.top)
    lines.copy_(temperature * share + peak)
    lines.scatter_(-1, parts["index"].long(), parts["values"].to(torch.float32).add_(peak))


def chosen(field: Field, temperature: float | None) -> float:
    """The temperature at which ``topk:K`` is to be read."""
    if temperature is None and len(field.temperatures) == 1:
        return field.temperatures[0]
    if temperature is None or float(temperature) not in field.temperatures:
        asked = "read without a temperature" if temperature is None else f"read at temperature {temperature:g}"
        raise InputError(
            f"store: {field.encoding} cannot be {asked}: it was kept at {', '.join(f'{t:g}' for t in field.temperatures)}. "
            "Read it at one of these, or build the store anew."
        )
    return float(temperature)
