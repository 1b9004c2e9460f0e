"""What methods of inner layers share: hard labels, terms between layers that go together, and stages of the run."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.matching import Kind, Pair, pairs
from understudy.method import Distillation
from understudy.progress import Curve, Progress
from understudy.projectors import Conv1x1, ConvNorm
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["Layers", "after", "at", "chosen", "consecutive", "hinted", "none", "projector", "scaled", "until"]

Layers = Sequence[tuple[str, str]]
"""Layers of the student and of the teacher that go together."""


def chosen(
    student: nn.Module,
    teacher: Any,
    layers: Layers | None,
    example: Any,
    options: dict[str, Any],
    *,
    count: int | None = None,
    kind: Kind | None = None,
) -> list[Pair]:
    """Layers that go together, in the order of the forward, unless the user named them."""
    call = options.get("call", plain_call)
    return pairs(student, teacher, example, call=call, count=count, kind=kind, layers=layers)


def at(pair: Pair) -> tuple[str, str]:
    """The addresses of both."""
    return f"student.{pair.student}", f"teacher.{pair.teacher}"


def projector(pair: Pair, given: nn.Module | None, *, norm: bool = False) -> nn.Module:
    """A copy of the user's projector; if there is none, one that the dry run fits, for maps with BatchNorm if wanted."""
    if given is not None:
        return copy.deepcopy(given)
    own = pair.projector()
    return ConvNorm() if norm and isinstance(own, Conv1x1) else own


def consecutive(method: str, loss: Callable[[], nn.Module], found: Sequence[Pair], weight: float | Curve) -> list[Term]:
    """A term for each pair of layers and the next, of the student's two and then the teacher's two."""
    if len(found) < 2:
        raise InputError(
            f"{method}: {len(found)} pair of layers has no flow; give layers= with two or more, from shallow to deep."
        )
    terms = []
    for pair, later in itertools.pairwise(found):
        addresses = [f"student.{p.student}" for p in (pair, later)] + [f"teacher.{p.teacher}" for p in (pair, later)]
        terms.append(Term(loss(), *addresses, weight=weight))
    return terms


def hinted(
    student: nn.Module,
    teacher: Any,
    *terms: Term,
    label_weight: float | Curve,
    label: str,
    task: Task | None,
    options: dict[str, Any],
) -> Distillation:
    """Hard labels and these terms."""
    task = task or TASKS["classification"]
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        *terms,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


# -- stages ------------------------------------------------------------------------------------------------------------


def until(share: float, weight: float | Curve) -> float | Curve:
    """The weight in the first share of the run, and 0 after it."""
    _check(share)
    if none(weight) or share == 0:
        return 0.0
    return lambda progress: _now(weight, progress) if progress.fraction < share else 0.0


def after(share: float, weight: float | Curve) -> float | Curve:
    """0 in the first share of the run, and the weight after it, whose curve then runs from its beginning to its end."""
    _check(share)
    if none(weight) or share == 0:
        return weight
    return lambda progress: _now(weight, _rest(progress, share)) if progress.fraction >= share else 0.0


def scaled(weight: float | Curve, factor: float) -> float | Curve:
    """The weight times a factor."""
    return (lambda progress: factor * weight(progress)) if callable(weight) else factor * weight


def none(weight: float | Curve) -> bool:
    """Whether the weight is 0 throughout."""
    return not callable(weight) and weight == 0


def _now(weight: float | Curve, progress: Progress) -> float:
    return weight(progress) if callable(weight) else weight


def _rest(progress: Progress, share: float) -> Progress:
    """The same place, seen from the end of the first stage."""
    first = min(math.ceil(share * progress.steps), progress.steps - 1)
    return Progress(max(progress.step - first, 0), progress.steps - first, progress.epoch)


def _check(share: float) -> None:
    if not 0 <= share < 1:
        raise InputError(f"first stage: share {share!r} of the run is not allowed; give a number from 0 to below 1.")
