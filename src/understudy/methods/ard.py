"""Robustness from a robust teacher: its soft labels for what an attack makes of the inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import InputError
from understudy.losses import cross_entropy, kl
from understudy.losses.labels import labelled
from understudy.method import Distillation
from understudy.methods.attack import Attack, Attacked
from understudy.methods.taught import of_classes
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["ard"]


def ard(
    student: nn.Module,
    teacher: Any,
    *,
    alpha: float = 1.0,
    temperature: float = 30.0,
    eps: float = 8 / 255,
    steps: int = 10,
    stride: float = 2 / 255,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels of the inputs, and the teacher's soft labels of them for the student that sees them attacked.

    .. math:: (1 - \alpha)\, \mathrm{CE}(s(x), y) + \alpha\, T^2\, \mathrm{KL}(t(x) \,\|\, s(x')), \quad
              x' = \arg\max_{\|x' - x\|_\infty \le \epsilon} \mathrm{CE}(s(x'), y)

    The maximum is looked for by steps along the sign of the gradient, from a random place in the box.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: a frozen model to logits of the same classes, itself robust.
        alpha: share of the soft labels, in [0, 1]. With 0 nothing is attacked.
        temperature: T > 0.
        eps: how far an attack may move each number of an input.
        steps: of the attack.
        stride: of each of them.
        bounds: least and largest value of an input: (0, 1) for pictures that are not normalised, nothing for any.
        label: address of the hard labels ``[N]``; where one is missing, the attack is on the class that the teacher ranks first.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for options that are none, or where the inputs are not one tensor of real numbers.
    Family: robust.
    Source: Goldblum et al. 2020 (ARD), arXiv:1905.09747; all numbers as in its code.
    Differs: the divergence is added up over classes as in the paper, where the code takes the mean and so divides by their
        number; the attack runs in eval mode, as RSLAD's does, and leaves no trace in running statistics.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"ard: alpha {alpha!r} must be in [0, 1]: the share of the soft labels.")
    task = of_classes("ard", task)
    return Attacked(
        Term(partial(kl, temperature=temperature), "student@attacked", "teacher", weight=alpha),
        Term(task.label_loss, "student", label, weight=1 - alpha),
        attack=Attack(eps, steps, stride, "uniform", bounds, "ard"),
        loss=_of_labels,
        label=label,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student@attacked", "teacher")},
        **options,
    )


def _of_labels(student: Tensor, teacher: Tensor, label: Tensor | None) -> Tensor:
    best = teacher.argmax(-1)
    return cross_entropy(student, best if label is None else torch.where(labelled(label), label.long(), best))
