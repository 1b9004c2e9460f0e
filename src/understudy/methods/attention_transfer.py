"""Attention transfer: where the teacher's layers are active."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import nn

from understudy.losses import attention_map
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["attention_transfer"]


def attention_transfer(
    student: nn.Module,
    teacher: nn.Module,
    *,
    power: float = 2.0,
    form: Literal["code", "paper"] = "code",
    weight: float | Curve = 1000.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's maps of activity drawn to the teacher's.

    By :func:`understudy.losses.attention_map`.

    Args:
        student: what learns.
        teacher: a frozen module.
        power: of the activity.
        form: of the loss: ``"code"`` or ``"paper"``.
        weight: of each pair of layers: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: attention.
    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928; the weight as in Tian et al. 2020.
    Differs: the form is that of the published code, whose numbers later comparisons give; ``form="paper"`` is the
        paper's, with beta / 2 = 500 of its weights.
    """
    loss = partial(attention_map, power=power, form=form)
    found = chosen(student, teacher, layers, example, options)
    terms = [Term(loss, *at(pair), weight=weight) for pair in found]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
