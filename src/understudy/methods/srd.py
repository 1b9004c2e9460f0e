"""Simple recipe distillation: a projector, a normalisation and a soft maximum."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.batch import call as plain_call
from understudy.losses import SRD
from understudy.matching import Pair, penultimate
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted
from understudy.progress import Curve
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["srd"]


def srd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    power: float = 4.0,
    weight: float | Curve = 2.0,
    soft_weight: float | Curve = 1.0,
    temperature: float = 1.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard and soft labels, and the features before the last layer.

    By :class:`understudy.losses.SRD`.

    Args:
        student: what learns.
        teacher: a frozen module.
        power: of the differences, of which a larger one looks more at the largest.
        weight: of the features: a number, or a function of progress.
        soft_weight: of the soft labels: a number, or a function of progress.
        temperature: T of the soft labels.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("pool", "pool")]``; if not given, what goes into the last
            linear layer of each.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Miles & Mikolajczyk 2024, arXiv:2303.11098; the weights of its published code for ImageNet.
    Differs: nothing but what is said of the loss.
    """
    call = options.get("call", plain_call)
    if layers is None:
        ours, theirs = (penultimate(model, example, call=call) for model in (student, teacher))
        found = [Pair(ours, theirs)]
    else:
        found = chosen(student, teacher, layers, example, options)
    task = task or TASKS["classification"]
    terms = [Term(SRD(power=power), *at(pair), weight=weight) for pair in found]
    soft = Term(task.soft_loss(temperature), "student", "teacher", weight=soft_weight)
    return hinted(student, teacher, *terms, soft, label_weight=label_weight, label=label, task=task, options=options)
