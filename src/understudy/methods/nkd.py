"""Cross-entropy to the teacher, the classes but the label's normalised."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["nkd"]


def nkd(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 1.0,
    gamma: float = 1.5,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and normalised soft ones: :func:`understudy.losses.nkd`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        temperature: T > 0, of the classes but the label's.
        gamma: weight of these.
        weight: of the soft labels: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: response.
    Source: Yang et al. 2023, arXiv:2303.13005; numbers as its code has them for ImageNet.
    Differs: nothing.
    """
    task = of_classes("nkd", task)
    soft, models = taught_by(teacher)
    loss = partial(losses.nkd, temperature=temperature, gamma=gamma)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight, mask=mask),
        Term(loss, "student", soft, label, weight=weight, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
