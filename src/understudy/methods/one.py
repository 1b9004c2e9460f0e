"""A student with further branches, which learns from all of them together."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy import losses
from understudy.batch import call as plain_call
from understudy.method import Distillation
from understudy.methods.byot import own_layers
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["one"]


def one(
    student: nn.Module,
    *,
    branches: int = 2,
    layer: str | None = None,
    temperature: float = 3.0,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and a gated ensemble of the student with branches on one of its layers: :class:`understudy.losses.ONE`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``. It stays as it is; the branches are the loss's.
        branches: besides the student's own, 1 or more.
        layer: of the student, from which they grow, such as ``layer2``; the last stage but one if not given.
        temperature: T > 0.
        weight: of the branches' hard labels and of what all learn from the ensemble: a number, or a function of progress.
        label_weight: of the student's hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        task: classification, which it is if not given.
        example: a small batch, to find the layer by; not needed if it is given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or if there is neither ``layer`` nor ``example``.
    Family: online.
    Source: Lan et al. 2018 (ONE), arXiv:1806.04606; numbers as in its code.
    Differs: as the loss does.
    """
    task = of_classes("one", task)
    at = layer or own_layers("one", student, example, options.get("call", plain_call))[-2]
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(losses.ONE(branches=branches, temperature=temperature), "student", label, f"student.{at}", weight=weight),
        student=student,
        **options,
    )
