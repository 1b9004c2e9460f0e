"""What an encoding costs: how far what is read is from what was written, as the student feels it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.store.encoding import Field, decode

__all__ = ["RELATIVE", "TOLERANCE", "Error", "Errors", "at", "errors", "figures", "gather"]

TOLERANCE = 0.01
"""The largest error at which a store is written, if nothing else is said."""

RELATIVE = "relative"


def at(temperature: float) -> str:
    """The name of the error at a temperature."""
    return f"T={temperature:g}"


@dataclass(frozen=True)
class Error:
    """Two sums of squares over rows, so that errors of parts add up to that of the whole."""

    apart: float = 0.0
    whole: float = 0.0

    def __add__(self, other: Error) -> Error:
        return Error(self.apart + other.apart, self.whole + other.whole)

    @property
    def figure(self) -> float:
        """The error, 0 for none; infinite if something became of nothing."""
        if self.apart == 0:
            return 0.0
        return math.sqrt(self.apart / self.whole) if self.whole > 0 else math.inf


Errors = dict[str, dict[str, Error]]
"""By field, then by the error's name."""


def gather(into: dict[str, Error], found: Mapping[str, Error]) -> None:
    """Add errors of some rows to those of others."""
    for which, error in found.items():
        into[which] = into.get(which, Error()) + error


def figures(found: Errors) -> dict[str, dict[str, float]]:
    """Plain numbers."""
    return {name: {which: error.figure for which, error in by.items()} for name, by in found.items()}


def errors(values: Tensor, parts: Mapping[str, Tensor], field: Field) -> dict[str, Error]:
    """The errors of an encoding of these values, by name.

    Of logits, at each temperature T, the relative error of the gradient of KL (T) with respect to the logits of a student
    that knows nothing yet: ``||p' - p|| / ||u - p||`` over all rows, where p is softmax(values / T), p' that of what is
    read, and u uniform. As the student comes nearer to the teacher the same error weighs more, so this is the least of it.
    Of features: ``||values' - values|| / ||values||``.
    """
    values = values.detach().cpu().to(torch.float32)
    if not field.temperatures:
        return {RELATIVE: Error(_square(decode(parts, field) - values), _square(values))}
    read = None if field.top is not None else decode(parts, field)
    return {
        at(t): _gradient_error(values, decode(parts, field, t) if read is None else read, t) for t in field.temperatures
    }


def _gradient_error(values: Tensor, read: Tensor, temperature: float) -> Error:
    p = torch.softmax(values / temperature, -1)
    apart = torch.softmax(read / temperature, -1).sub_(p)
    return Error(_square(apart), _square(p.sub_(1 / p.shape[-1])))


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2  # in float32 1e20 squared is no number
