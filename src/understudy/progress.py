"""Where a run is, and curves over it. Time is an argument, never hidden state."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from understudy.errors import InputError

__all__ = ["START", "Curve", "Progress", "constant", "cosine", "described", "linear", "steps_at", "warmed_up"]


@dataclass(frozen=True)
class Progress:
    """The optimizer step that is about to be made.

    Attributes:
        step: steps made so far, from 0.
        steps: steps in the whole run.
        epoch: passes over the data made so far, from 0.
    """

    step: int = 0
    steps: int = 1
    epoch: int = 0

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 at the first step and below 1 at the last."""
        return self.step / self.steps


START = Progress()

Curve = Callable[[Progress], float]
"""A number as a function of progress: a term's weight, or the factor on a learning rate."""


def described(curve: Curve) -> str:
    """A curve in four of its values and a digest of a thousand, so that curves which differ are told apart.

    >>> described(linear(1, 0))
    '[1, 0.75, 0.5, 0.25] #d7e2f326'
    """
    values = [f"{curve(Progress(i, 1000, i // 10)):.12g}" for i in range(1000)]
    digest = hashlib.blake2b(" ".join(values).encode(), digest_size=4).hexdigest()
    return f"[{', '.join(values[::250])}] #{digest}"


def constant(value: float) -> Curve:
    """The same throughout."""
    return lambda progress: value


def linear(start: float, end: float) -> Curve:
    """A straight line over the run.

    >>> linear(1, 0)(Progress(step=25, steps=100))
    0.75
    """
    return lambda progress: start + (end - start) * progress.fraction


def cosine(start: float, end: float) -> Curve:
    """Half a cosine wave over the run: flat at both ends (Loshchilov & Hutter 2017, arXiv:1608.03983, one cycle).

    >>> round(cosine(1, 0)(Progress(step=50, steps=100)), 6)
    0.5
    """
    return lambda progress: end + (start - end) * (1 + math.cos(math.pi * progress.fraction)) / 2


def steps_at(milestones: tuple[float, ...], factor: float = 0.1) -> Curve:
    """Start at 1 and multiply by ``factor`` at each milestone, given as a fraction of the run.

    >>> steps_at((0.5, 0.75))(Progress(step=60, steps=100))
    0.1
    """
    wrong = [m for m in milestones if not 0 < m < 1]
    if wrong:
        raise InputError(f"steps_at: milestones {wrong} are not fractions of the run; allowed: above 0 and below 1.")
    return lambda progress: float(factor ** sum(progress.fraction >= m for m in milestones))


def warmed_up(curve: Curve, warmup: float) -> Curve:
    """The curve, times a straight line from just above 0 to 1 over the first steps.

    ``warmup`` is a fraction of the run if below 1, else a number of steps. The first step is made at 1 / warmup, not
    at 0, which would waste it.
    """
    if warmup < 0:
        raise InputError(f"warmup {warmup!r}: allowed: 0 (none), a fraction of the run below 1, or a number of steps.")

    def factor(progress: Progress) -> float:
        steps = warmup * progress.steps if warmup < 1 else warmup
        return curve(progress) * min(1.0, (progress.step + 1) / steps if steps else 1.0)

    return factor
