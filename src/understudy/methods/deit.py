"""The teacher's answer as a hard label, for a head of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import hard_label
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["deit"]


def deit(
    student: nn.Module,
    teacher: Any,
    *,
    alpha: float = 0.5,
    output: str = "student",
    token: str | None = None,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels, and as hard the class that the teacher ranks first: :func:`understudy.losses.hard_label`.

    .. math:: (1 - \alpha)\, \mathrm{CE}(s, y) + \alpha\, \mathrm{CE}(d, \arg\max_c t_c)

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``, or to those of two heads.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        alpha: share of the teacher, in [0, 1]. With 1 no label is needed.
        output: address of the logits s that learn from labels, such as ``student/0`` for a student that gives two.
        token: address of the logits d of the distillation token, such as ``student/1`` or ``student/distillation_logits``;
            if not given, the same as learn from labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or if alpha is out of range.
    Family: response.
    Source: Touvron et al. 2021, arXiv:2012.12877, equation 3.
    Differs: the paper's student answers with the mean of both heads; ours answers as its forward does in eval mode.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"deit: alpha {alpha!r} must be in [0, 1]: the share of the teacher.")
    task = of_classes("deit", task)
    hard, models = taught_by(teacher)
    token = token or output
    return Distillation(
        Term(task.label_loss, output, label, weight=1 - alpha, mask=mask),
        Term(hard_label, token, hard, weight=alpha, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, token, hard)},
        **models,
        **options,
    )
