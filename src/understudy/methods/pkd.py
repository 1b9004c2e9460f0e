"""PKD: features that are compared by their correlation."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted, projector
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["pkd"]


def pkd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 6.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    project: nn.Module | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's features drawn to the teacher's on one scale.

    By :func:`understudy.losses.pkd`.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of each pair of layers: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        project: between the two, copied for each pair; if not given, a :class:`~understudy.projectors.Conv1x1` for maps and
            a :class:`~understudy.projectors.Linear` else, fitted by the dry run.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Cao et al. 2022, arXiv:2207.02039; the weight as in its published configurations for detectors.
    Differs: there is always a projector; the paper has none where the channels are the same.
    """
    found = chosen(student, teacher, layers, example, options)
    terms = [Term(losses.pkd, *at(pair), weight=weight, project=projector(pair, project)) for pair in found]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
