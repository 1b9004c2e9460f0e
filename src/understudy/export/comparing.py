"""How far what a file says is from what its model says."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from understudy.errors import InputError

__all__ = ["FLOOR", "ROUNDED", "difference", "figures", "passed"]

FLOOR = 0.9
"""The least share of samples on which a file that rounds to 8 bits must rank the same output first as its model does."""
ROUNDED = 0.1
"""The largest error of a single output that counts as agreement in such a file."""


def passed(name: str, found: Tensor, alone: Tensor, expected: Tensor, tolerance: float | None) -> dict[str, float]:
    """The figures of a file that says what its model says.

    Args:
        name: of the model.
        found: what the file says.
        alone: what it says of the first sample by itself.
        expected: what the model says.
        tolerance: the largest error; None for a file that rounds to 8 bits, whose error is told and whose agreement counts.

    Raises: InputError if it does not say that.
    """
    allowed = sys.float_info.max if tolerance is None else tolerance
    if problem := difference(found, expected, allowed) or difference(alone, expected[:1], allowed):
        raise InputError(f"export of {name}: what was written is not the model and is not kept: {problem}.")
    told = figures(found, expected, ROUNDED if tolerance is None else tolerance)
    if tolerance is None and told["agreement"] < FLOOR:
        raise InputError(
            f"export of {name}: in 8 bits it agrees with the model on {told['agreement']:.0%} of {told['samples']} samples, "
            f"where {FLOOR:.0%} is the least, and is not kept. Calibrate it with more samples, of the kind that it will "
            "meet; or train the model with the rounding in it (compress: qat); or export it without 8 bits."
        )
    return told


def difference(found: Tensor, expected: Tensor, tolerance: float) -> str:
    """In words; empty if there is none."""
    if found.shape != expected.shape:
        return (
            f"outputs of {len(expected)} samples have the shape {list(found.shape)} instead of {list(expected.shape)}"
        )
    error = float(_errors(found, expected).max())
    if error <= tolerance:
        return ""
    return f"outputs differ by up to {error:.3g} of a sample's largest, and {tolerance:g} is allowed"


def _errors(found: Tensor, expected: Tensor) -> Tensor:
    a, b = found.double().reshape(len(found), -1), expected.double().reshape(len(expected), -1)
    apart = torch.where(a == b, 0.0, (a - b).abs())  # a masked class is -inf in both
    largest = torch.where(b.isfinite(), b.abs(), 0.0).amax(1).clamp(min=1)
    return apart.amax(1) / largest


def figures(found: Tensor, expected: Tensor, tolerance: float) -> dict[str, float]:
    """Number of samples, largest error and agreement: see :func:`~understudy.export.check_onnx`."""
    errors = _errors(found, expected)
    same = found.argmax(-1) == expected.argmax(-1) if expected[0].numel() > 1 else errors <= tolerance
    return {"samples": len(expected), "max_error": float(errors.max()), "agreement": float(same.double().mean())}
