"""Neuron selectivity transfer."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["nst"]


def nst(
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
    """Hard labels, and the channels' patterns drawn to the teacher's in distribution.

    By :func:`understudy.losses.nst`.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of each pair of layers: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Huang & Wang 2017, arXiv:1707.01219; the weight as in Tian et al. 2020.
    Differs: nothing.
    """
    found = chosen(student, teacher, layers, example, options, kind="maps")
    terms = [Term(losses.nst, *at(pair), weight=weight) for pair in found]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
