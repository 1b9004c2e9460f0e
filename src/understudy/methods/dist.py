"""Predictions that correlate with the teacher's, and need not equal them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.losses import dist_inter, dist_intra
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["dist"]


def dist(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    weight: float = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and correlation with the teacher within each sample and within each class.

    :func:`understudy.losses.dist_inter` and :func:`understudy.losses.dist_intra`, a term of its own each. The second is of
    the batch as a whole, so that a step of several micro-batches is not that of one large batch.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        temperature: T > 0; 4 for CIFAR-100 in the paper.
        beta: weight of the correlation within samples; 2 for CIFAR-100.
        gamma: weight of the correlation within classes; 2 for CIFAR-100.
        weight: of both.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: response.
    Source: Huang et al. 2022, arXiv:2205.10536; numbers as its code has them for ImageNet.
    Differs: as the losses.
    """
    task = of_classes("dist", task)
    soft, models = taught_by(teacher)
    inter, intra = (partial(loss, temperature=temperature) for loss in (dist_inter, dist_intra))
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight, mask=mask),
        Term(inter, "student", soft, weight=weight * beta, mask=mask),
        Term(intra, "student", soft, weight=weight * gamma, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
