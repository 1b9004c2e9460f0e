"""The label's class and the others, taught apart."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.errors import InputError
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.progress import Curve, Progress
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["dkd"]


def dkd(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight: float = 1.0,
    label_weight: float = 1.0,
    warmup: int = 20,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels, and decoupled soft ones: :func:`understudy.losses.dkd`.

    .. math:: \mathrm{CE}(s, y) + \min(e / 20, 1)\, T^2 \left( \alpha\, \mathrm{TCKD} + \beta\, \mathrm{NCKD} \right)
              \text{ in epoch } e = 1, 2, \dots

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        temperature: T > 0.
        alpha: weight of the label's class against all others.
        beta: weight of what is between the others; the paper takes 0.5 to 10, more for a surer teacher.
        weight: of both.
        label_weight: of the hard labels.
        warmup: epochs over which the weight rises to its full size; 0 for none.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or for a warmup below 0.
    Family: response.
    Source: Zhao et al. 2022, arXiv:2203.08679; numbers as its code has them for CIFAR-100.
    Differs: nothing.
    """
    if warmup < 0:
        raise InputError(f"dkd: warmup={warmup!r} is no number of epochs; allowed: 0 or more.")
    task = of_classes("dkd", task)
    soft, models = taught_by(teacher)
    loss = partial(losses.dkd, temperature=temperature, alpha=alpha, beta=beta)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight, mask=mask),
        Term(loss, "student", soft, label, weight=_rising(weight, warmup) if weight and warmup else weight, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )


def _rising(weight: float, epochs: int) -> Curve:
    def curve(progress: Progress) -> float:
        return weight * min((progress.epoch + 1) / epochs, 1.0)

    return curve
