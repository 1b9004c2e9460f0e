"""Who takes part in a comparison: a method on a recipe, with a factor on its weight, and what a few steps of it show."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple, cast

from torch import nn

from understudy.data.order import preserved
from understudy.engine import train
from understudy.material import Material
from understudy.method import Distillation, Method
from understudy.progress import Curve, Progress
from understudy.rehearsal import Clock, memory_of_step
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["Contender", "Rehearsed", "can_be_tuned", "rehearsed"]

REHEARSED = 4  # steps of every method, before any is trained


@dataclass(frozen=True)
class Contender:
    """A method on this recipe.

    Attributes:
        material: whose plan names it.
        factor: on its distillation weight.
    """

    name: str
    material: Material
    factor: float = 1.0

    @property
    def label(self) -> str:
        """The name of its folder."""
        return self.name if self.factor == 1 else f"{self.name}-x{self.factor:g}"

    def method(self, student: nn.Module, teacher: Any, seed: int | None = None) -> Method:
        """It, of these models."""
        made = self.material.method(student, teacher, seed)
        for term in _distilling(made, self.material.task) if self.factor != 1 else ():
            term.weight = _times(self.factor, term.weight)
        return made


class Rehearsed(NamedTuple):
    """What was seen of a method in a few steps."""

    first_seconds: float
    step_seconds: float
    memory_mb: float


def can_be_tuned(contender: Contender, teacher: Any) -> bool:
    """Whether there is something to weigh the teacher against: where all terms grow alike, optimizers see no difference."""
    method = contender.method(contender.material.student(), teacher)
    distilling = _distilling(method, contender.material.task)
    terms = cast("list[Term]", list(method.terms)) if isinstance(method, Distillation) else []
    return bool(distilling) and any(term.weight != 0 for term in terms if term not in distilling)


def rehearsed(material: Material, stage: str, make: Callable[[nn.Module], Method]) -> Rehearsed:
    """Some steps with a student that is thrown away."""
    with preserved():
        method, clock, began = make(material.student()), Clock(), time.perf_counter()
        steps = material.stages[stage].steps
        settings = dataclasses.replace(material.settings(material.stages[stage], 0), steps=min(steps, REHEARSED))
        train(method, material.stages[stage].data.source, settings, callbacks=[clock])
        first = clock.times[0] - began
        pace = median(b - a for a, b in pairwise(clock.times)) if clock.times[1:] else first
        memory = memory_of_step(material, method, Progress(steps // 2, steps, material.plan.epochs // 2))
    return Rehearsed(first, pace, memory / 1e6)


def _distilling(method: Method, task: Task) -> list[Term]:
    """The terms that are not the loss of the hard labels."""
    terms = cast("list[Term]", list(method.terms)) if isinstance(method, Distillation) else []
    return [term for term in terms if term.loss is not task.label_loss]


def _times(factor: float, weight: float | Curve) -> float | Curve:
    if callable(weight):
        curve = weight
        return lambda progress: factor * curve(progress)
    return factor * weight
