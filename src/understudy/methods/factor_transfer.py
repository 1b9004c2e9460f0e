"""Factor transfer: what the teacher's features come down to."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import FactorTransfer
from understudy.method import Distillation
from understudy.methods.hinted import Layers, after, at, chosen, hinted, none, until
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["factor_transfer"]


def factor_transfer(
    student: nn.Module,
    teacher: nn.Module,
    *,
    rate: float = 0.5,
    share: float = 0.125,
    weight: float | Curve = 500.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's factor drawn to the teacher's.

    By :class:`understudy.losses.FactorTransfer`.

    Args:
        student: what learns.
        teacher: a frozen module.
        rate: the factor's channels as a share of the teacher's.
        share: of the run in which the paraphraser learns before the student follows it.
        weight: of the factors: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; if not given, the last of those
            that :func:`understudy.matching.pairs` finds.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Kim et al. 2018, arXiv:1802.04977; k and the weight as in the published code.
    Differs: the paper trains the paraphraser before the student. Here the student has the labels alone meanwhile, and
        the paraphraser goes on learning to reconstruct at a rate of 1 to 500.
    """
    (pair,) = chosen(student, teacher, layers, example, options, count=1, kind="maps" if layers is None else None)
    factors = FactorTransfer(rate=rate)
    terms = [
        Term(factors, *at(pair), weight=after(share, weight)),
        Term(factors.reconstructed, f"teacher.{pair.teacher}", weight=0.0 if none(weight) else until(share, 1.0)),
    ]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
