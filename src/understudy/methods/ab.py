"""Activation boundaries: which neurons fire."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.hinted import Layers, after, at, chosen, hinted, none, projector, scaled, until
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["ab"]


def ab(
    student: nn.Module,
    teacher: nn.Module,
    *,
    margin: float = 1.0,
    share: float = 0.125,
    weight: float | Curve = 0.003,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    project: nn.Module | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """The student's neurons put on the teacher's side of 0 first, then hard labels.

    By :func:`understudy.losses.ab`.

    Args:
        student: what learns.
        teacher: a frozen module.
        margin: by which a neuron should be on its side.
        share: of the run that is its first stage; above 0.
        weight: of the last pair in the first stage, halved for each one before it: a number, or a function of progress.
        label_weight: of the hard labels in the second stage.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        project: between the two, copied for each pair; if not given, a :class:`~understudy.projectors.ConvNorm` for maps and
            a :class:`~understudy.projectors.Linear` else, fitted by the dry run.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Heo et al. 2019, arXiv:1811.03233; 3/1000, the halves and 30 of 240 epochs as in the published code.
    Differs: layers that are chosen are read behind their activation, where the sign of the teacher is what it was
        before it; name those before it, such as ``layer3.1.bn2``, to have the student's as well.
    """
    loss = partial(losses.ab, margin=margin)
    found = chosen(student, teacher, layers, example, options)
    terms = [
        Term(
            loss,
            *at(pair),
            weight=until(share, scaled(weight, 0.5**halves)),
            project=projector(pair, project, norm=True),
        )
        for halves, pair in zip(reversed(range(len(found))), found, strict=True)
    ]
    hard = label_weight if none(weight) else after(share, label_weight)
    return hinted(student, teacher, *terms, label_weight=hard, label=label, task=task, options=options)
