"""No teacher: a made-up one that is nearly sure of the label."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.errors import InputError
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["tf_kd"]


def tf_kd(
    student: nn.Module,
    *,
    temperature: float = 20.0,
    correct: float = 0.99,
    alpha: float = 0.1,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels, and a made-up teacher's soft ones: :func:`understudy.losses.tf_kd`.

    .. math:: (1 - \alpha)\, \mathrm{CE}(s, y) + \alpha\, \mathrm{KL}(u \| \mathrm{softmax}(s))

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        temperature: T > 0, of the made-up teacher.
        correct: its probability of the label.
        alpha: its share, in [0, 1].
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or if alpha is out of range.
    Family: self.
    Source: Yuan et al. 2020, arXiv:1909.11723, the regularisation; numbers as its code has them for CIFAR-100.
    Differs: as the loss, which is free of the number of classes. Its self-training is :func:`kd` with a trained copy of the
        student as teacher.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"tf_kd: alpha {alpha!r} must be in [0, 1]: the share of the made-up teacher.")
    task = of_classes("tf_kd", task)
    loss = partial(losses.tf_kd, temperature=temperature, correct=correct)
    return Distillation(
        Term(task.label_loss, "student", label, weight=1 - alpha, mask=mask),
        Term(loss, "student", label, weight=alpha, mask=mask),
        student=student,
        **options,
    )
