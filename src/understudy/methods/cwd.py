"""Channel-wise distillation: where in the image each channel is active."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted, projector
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["cwd"]


def cwd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    temperature: float = 4.0,
    weight: float | Curve = 50.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    project: nn.Module | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and each channel's distribution over the image drawn to the teacher's.

    By :func:`understudy.losses.cwd`.

    Args:
        student: what learns.
        teacher: a frozen module.
        temperature: T > 0.
        weight: of each pair of layers: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; if not given, the last of those
            that :func:`understudy.matching.pairs` finds.
        example: a small batch, by which layers that are not given are chosen.
        project: between the two, copied for each pair; if not given, a :class:`~understudy.projectors.Conv1x1` for maps and
            a :class:`~understudy.projectors.Linear` else, fitted by the dry run.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Shu et al. 2021, arXiv:2011.13256; its numbers for features. On maps of class scores its weight is 3.
    Differs: nothing.
    """
    loss = partial(losses.cwd, temperature=temperature)
    found = chosen(student, teacher, layers, example, options, count=1)
    terms = [Term(loss, *at(pair), weight=weight, project=projector(pair, project)) for pair in found]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
