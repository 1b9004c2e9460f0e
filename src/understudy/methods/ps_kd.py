"""A student that learns from what it said an epoch ago."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy import losses
from understudy.errors import InputError
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve, linear
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["ps_kd"]


def ps_kd(
    student: nn.Module,
    *,
    samples: int | None = None,
    alpha: float = 0.8,
    label: str = "batch.label",
    index: str = "batch.index",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels, ever more softened by what the student said of the sample in the epoch before.

    .. math:: (1 - \alpha_t)\, \mathrm{CE}(s, y) + \alpha_t\, H(p_{t-1}, q), \quad \alpha_t = \alpha\, t / T

    The predictions of all samples are kept by :class:`understudy.losses.PSKD`, and saved with the run.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        samples: how many the training set has. Needed.
        alpha: share of the earlier prediction at the end of the run, in [0, 1].
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        index: address of the samples' numbers, which the engine adds to every batch.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for a share that is none, or without ``samples``.
    Family: self.
    Source: Kim et al. 2021 (PS-KD), arXiv:2006.12000, equations 3 and 4; alpha as in its code.
    Differs: alpha grows with the step and not with the epoch.
    """
    if samples is None:
        raise InputError("ps_kd: give samples=, how many the training set has: a prediction of each is kept.")
    if not 0 <= alpha <= 1:
        raise InputError(f"ps_kd: alpha={alpha!r} must be in [0, 1]: the share of the earlier prediction at the end.")
    task = of_classes("ps_kd", task)
    share: tuple[float | Curve, float | Curve] = (linear(1.0, 1 - alpha), linear(0.0, alpha)) if alpha else (1.0, 0.0)
    return Distillation(
        Term(task.label_loss, "student", label, weight=share[0]),
        Term(losses.PSKD(samples=samples), "student", label, index, weight=share[1]),
        student=student,
        **options,
    )
