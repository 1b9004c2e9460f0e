"""A student that learns from the average of what it was."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import consistency
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve, Progress
from understudy.tasks import Task
from understudy.teachers.ema import Ema
from understudy.term import Term

__all__ = ["ema_teacher"]


def ema_teacher(
    student: nn.Module,
    *,
    decay: float = 0.999,
    weight: float = 100.0,
    warmup: int = 5,
    view: str | None = None,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels, and the predictions of a moving average of the student's own weights, for unlabelled samples too.

    .. math:: \mathrm{CE}(s, y) + w\, e^{-5 (1 - \min(e / 5, 1))^2}\, \frac{1}{C} \| \mathrm{softmax}(s) - \mathrm{softmax}(\bar s) \|^2
              \text{ in epoch } e = 0, 1, \dots

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        decay: of the average, in [0, 1): it looks back over about ``1 / (1 - decay)`` steps.
        weight: of the predictions' difference.
        warmup: epochs over which it rises to its full size; 0 for none.
        view: field of the batch with the inputs that the average sees, such as another augmentation; the student's if not given.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for a decay that is none, or for a warmup below 0.
    Family: self.
    Source: Tarvainen & Valpola 2017 (Mean Teacher), arXiv:1703.01780; numbers as in its code for CIFAR-10.
    Differs: the code's average begins with a shorter memory, and its inputs are two augmentations of the same sample: give the
        other one as ``view``. The average is in eval mode, the code's is not.
    """
    if warmup < 0:
        raise InputError(f"ema_teacher: warmup={warmup!r} is no number of epochs; allowed: 0 or more.")
    task = of_classes("ema_teacher", task)
    at = "average" if view is None else f"average@{view}"
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(consistency, "student", at, weight=_rising(weight, warmup) if weight and warmup else weight),
        student=student,
        average=Ema(student, decay),
        watch={"agreement": (task.agreement, "student", at)},
        **options,
    )


def _rising(weight: float, epochs: int) -> Curve:
    def curve(progress: Progress) -> float:
        return weight * math.exp(-5 * (1 - min(progress.epoch / epochs, 1.0)) ** 2)

    return curve
