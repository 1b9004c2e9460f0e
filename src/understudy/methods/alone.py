"""No distillation: what every method is compared with."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import cross_entropy
from understudy.method import Distillation
from understudy.term import Term

__all__ = ["alone"]


def alone(student: nn.Module, *, label: str = "batch.label", **options: Any) -> Distillation:
    """The student on hard labels only; also how a teacher is trained.

    Args:
        student: a module from a batch's inputs to logits ``[*N, C]``.
        label: address of the labels; -100 is unlabelled.
        **options: of :class:`~understudy.Distillation`.
    """
    return Distillation(Term(cross_entropy, "student", label), student=student, **options)
