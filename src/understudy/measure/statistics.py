"""Figures over seeds: means with intervals, whether one is better than another, the share of a gap that is closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.errors import InputError

__all__ = ["Interval", "Paired", "gap_closed", "holm", "interval", "paired"]

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the series around the normal one.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z95 = 1.959964
_BETA_TERMS = 100


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


@dataclass(frozen=True)
class Paired:
    """What the seeds say of ``a - b``.

    Attributes:
        difference: its mean, with the 95 % t-interval.
        p_value: two-sided; None where nothing can be tested: a single seed, or a value that is not finite.
        better: True if ``a`` is higher, False if it is lower, None if that may be chance (p above 0.05, or no p).
    """

    difference: Interval
    p_value: float | None
    better: bool | None


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Whether ``a`` is higher than ``b``, seed by seed: Student's paired t-test. Swap them where lower is better.

    Where all differences are the same, there is no spread to judge them by, t is infinite and its p of 0 a fiction. What
    is left is the sign test: all n of them on one side happen by chance with p = 2^(1 - n); so five seeds are not enough.

    Args:
        a: a figure for each seed.
        b: the same figure of something else, for the same seeds in the same order.

    Raises: InputError if there is no value, or not as many of the one as of the other.

    >>> paired([0.97, 0.98, 0.96], [0.92, 0.94, 0.91]).better
    True
    """
    if len(a) != len(b) or not a:
        raise InputError(f"paired: {len(a)} and {len(b)} values; allowed: one of each for every seed, of at least one.")
    difference = interval([x - y for x, y in zip(a, b, strict=True)])
    p = _p_value(difference, max(map(abs, (*a, *b))))
    return Paired(difference, p, None if p is None or p > 0.05 else difference.mean > 0)


def _p_value(difference: Interval, scale: float) -> float | None:
    n, values = len(difference.values), difference.values
    if n == 1 or not all(map(math.isfinite, values)):
        return None
    deviation = math.sqrt(sum((v - difference.mean) ** 2 for v in values) / (n - 1))
    if deviation > 1e-12 * scale:  # else it is what rounding left of equal differences
        t = difference.mean / deviation * math.sqrt(n)
        return _beta_share((n - 1) / (n - 1 + t * t), (n - 1) / 2, 0.5)
    return 1.0 if abs(difference.mean) <= 1e-12 * scale else 2.0 ** (1 - n)


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b): Student's two-sided p at x = f / (f + t²), a = f / 2, b = 1 / 2.

    By its continued fraction (Abramowitz & Stegun 26.5.8), from the side on which that converges fast.
    """
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    fraction = 0.0
    for m in range(_BETA_TERMS, 0, -1):  # from the innermost outwards
        odd = (a + m - 1) * (a + b + m - 1) / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = -odd * x / (1 + even * x / (1 + fraction))
    power = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(power) / a / (1 + fraction)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values of several comparisons, each so raised that all of them together err as seldom as one would (Holm 1979).

    None, for what could not be tested, stays None and does not count.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = largest
    return adjusted


def gap_closed(teacher: Sequence[float], alone: Sequence[float], student: Sequence[float]) -> float | None:
    """Share of the gap between the teacher and the student alone that the student closes: 1 is all of it, below 0 is harm.

    None where there is no gap to close: where the teacher is not better than the student alone by more than the
    half-width of the interval of that difference, seed by seed.
    """
    gap = interval([t - a for t, a in zip(teacher, alone, strict=True)])
    if gap.mean <= (gap.half or 0.0):
        return None
    return (sum(student) / len(student) - sum(alone) / len(alone)) / gap.mean
