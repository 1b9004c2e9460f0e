"""Masked generative distillation."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from understudy.losses import MGD
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["mgd"]


def mgd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    mask: Literal["channels", "positions"] = "channels",
    ratio: float = 0.15,
    weight: float | Curve = 7e-5,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the teacher's features made from a part of the student's.

    By :class:`understudy.losses.MGD`.

    Args:
        student: what learns.
        teacher: a frozen module.
        mask: what is hidden as a whole.
        ratio: share of them that is hidden, from 0 to below 1.
        weight: of the generation: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; if not given, the last of those
            that :func:`understudy.matching.pairs` finds.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Yang et al. 2022, arXiv:2205.01529; its numbers for classification. For detection 2e-5, ``"positions"``, .65.
    Differs: nothing.
    """
    found = chosen(student, teacher, layers, example, options, count=1, kind="maps")
    terms = [Term(MGD(mask=mask, ratio=ratio), *at(pair), weight=weight) for pair in found]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
