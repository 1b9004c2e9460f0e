"""ReviewKD: a student's layers, fused from deep to shallow."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import ReviewKD
from understudy.method import Distillation
from understudy.methods.hinted import Layers, chosen, hinted, none
from understudy.progress import Curve, constant, warmed_up
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["review_kd"]


def review_kd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    warmup: float = 1 / 12,
    width: int = 512,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's fused levels drawn to the teacher's.

    By :class:`understudy.losses.ReviewKD`.

    Args:
        student: what learns.
        teacher: a frozen module.
        warmup: share of the run in which the weight grows from 0.
        width: channels of the fusion, at most.
        weight: of the review: a number, or a function of progress; .6 to 8 by the pair of models in the paper.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Chen et al. 2021, arXiv:2104.09044; the published code's weight, its 20 of 240 epochs of warming up, and
        its width.
    Differs: the levels are the stages that are chosen; the published code adds the pooled feature as one more.
    """
    found = chosen(student, teacher, layers, example, options, kind="maps" if layers is None else None)
    addresses = [f"student.{pair.student}" for pair in found] + [f"teacher.{pair.teacher}" for pair in found]
    grown = weight if none(weight) else warmed_up(weight if callable(weight) else constant(weight), warmup)
    terms = [Term(ReviewKD(width=width), *addresses, weight=grown)]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
