"""FSP: how features flow from one layer to the next."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import FSP
from understudy.method import Distillation
from understudy.methods.hinted import Layers, chosen, consecutive, hinted
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["fsp"]


def fsp(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 50.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the flow between neighbouring layers drawn to the teacher's.

    By :class:`understudy.losses.FSP`.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the flow between each pair of layers and the next: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found, or are fewer than two pairs.
    Family: feature.
    Source: Yim et al. 2017, CVPR, "A Gift from Knowledge Distillation"; the weight as in Tian et al. 2020.
    Differs: in one stage beside the labels; the paper learns the flow first, and then the labels alone. Where the
        channels differ the student's are projected.
    """
    terms = consecutive("fsp", FSP, chosen(student, teacher, layers, example, options, kind="maps"), weight)
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
