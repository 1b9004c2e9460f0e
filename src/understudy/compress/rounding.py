"""Numbers as small integers: scales for weights, ranges for activations, and gradients straight through the rounding.

Weights are symmetric, with a scale for each output channel (or group of weights): ``w ~ scale * code``, codes in
``[-127, 127]``, or ``[-7, 7]`` at four bits. Activations are affine, with one scale for the whole tensor:
``x ~ scale * (code - zero)``, codes in ``[-128, 127]``, and zero is one of the values, since padding is made of zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["LEAST", "MOST", "affine", "codes", "largest", "pack", "rounded", "scales", "unpack"]

LEAST, MOST = -128, 127
"""The codes of an activation."""
TINY = 2.0**-40
"""Below any scale of use; what is constantly zero must have a scale too."""
SHRINK = [1 - step / 32 for step in range(17)]
"""Shares of the largest weight that are tried as the end of a coarse grid, the largest itself first."""


def largest(bits: int) -> int:
    """The largest code of a weight: 127 of 8 bits, 7 of 4."""
    return int(2 ** (bits - 1)) - 1


@torch.no_grad()
def scales(rows: Tensor, bits: int) -> Tensor:
    """A scale for each row of ``[R, K]``.

    At 8 bits the largest weight is the end of the grid. At 4 bits the squared error decides between this and grids down
    to half as wide: with seven steps to each side, one outlier would cost all the others their resolution.
    """
    rows = rows.detach().float()
    full = (rows.abs().amax(1) / largest(bits)).clamp_min(TINY)
    if bits >= 8:
        return full
    best, least = full, torch.full_like(full, torch.inf)
    for share in SHRINK:
        scale = full * share
        error = (codes(rows, scale, bits) * scale[:, None] - rows).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def codes(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The codes of ``[R, K]``, as floats."""
    return torch.round(rows / scale[:, None]).clamp(-largest(bits), largest(bits))


def pack(values: Tensor) -> Tensor:
    """Two codes of four bits in each byte: int8 ``[K]`` to uint8 ``[ceil(K / 2)]``."""
    shifted = (values + 8).to(torch.uint8)
    if len(shifted) % 2:
        shifted = torch.cat([shifted, shifted.new_zeros(1)])
    return shifted[0::2] + 16 * shifted[1::2]


def unpack(packed: Tensor, length: int) -> Tensor:
    """The inverse of :func:`pack`."""
    # Not by shifts, whose kind of byte ONNX's exporter mixes up.
    low = packed.remainder(16)
    pairs = torch.stack([low, (packed - low).div(16, rounding_mode="floor")], 1)
    return pairs.flatten()[:length].to(torch.int8) - 8


def affine(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (float32) and the code of zero (int32) for activations from ``low`` to ``high``, zero among them."""
    low, high = low.float().clamp_max(0), high.float().clamp_min(0)
    scale = ((high - low) / (MOST - LEAST)).clamp_min(TINY)
    return scale, (LEAST - torch.round(low / scale)).clamp(LEAST, MOST).to(torch.int32)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any, zero: Any, least: int, most: int) -> Tensor:
        at = torch.round(x / scale) + zero
        ctx.save_for_backward((at >= least) & (at <= most))
        made: Tensor = (at.clamp_(least, most) - zero) * scale
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


def rounded(x: Tensor, scale: Any, zero: Any = 0, least: int = LEAST, most: int = MOST) -> Tensor:
    """The values of the grid that are nearest. The gradient passes where ``x`` lies within the grid, and is zero outside.

    Source: Bengio et al. 2013, arXiv:1308.3432 (the straight-through estimator).
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.round(x / scale).add_(zero).clamp_(least, most).sub_(zero).mul_(scale)
    made: Tensor = _Straight.apply(x, scale, zero, least, most)  # type: ignore[no-untyped-call]
    return made
