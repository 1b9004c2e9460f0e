"""Figures over seeds: means with intervals, and the share of a gap that is closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.errors import InputError

__all__ = ["Interval", "gap_closed", "interval"]

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the series around the normal one.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with half the width of its 95 % t-interval; ``half`` is None for a single seed."""

    mean: float
    half: float | None
    values: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ± {self.half:.3f}"


def interval(values: Sequence[float]) -> Interval:
    """The mean and its 95 % t-interval.

    >>> str(interval([0.9, 0.92, 0.94]))
    '0.920 ± 0.050'
    """
    if not values:
        raise InputError("interval: there is no value; give at least one.")
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return Interval(mean, None, tuple(values))
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return Interval(mean, _t95(n - 1) * deviation / math.sqrt(n), tuple(values))


def _t95(freedom: int) -> float:
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def gap_closed(teacher: Sequence[float], alone: Sequence[float], student: Sequence[float]) -> float | None:
    """Share of the gap between the teacher and the student alone that the student closes: 1 is all of it, below 0 is harm.

    None where there is no gap to close: where the teacher is not better than the student alone by more than the
    half-width of the interval of that difference, seed by seed.
    """
    gap = interval([t - a for t, a in zip(teacher, alone, strict=True)])
    if gap.mean <= (gap.half or 0.0):
        return None
    return (sum(student) / len(student) - sum(alone) / len(alone)) / gap.mean
