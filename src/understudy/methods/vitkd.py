"""ViTKD: the first blocks imitated, the last one generated."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import ViTKD, squared_sum
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted
from understudy.progress import Curve
from understudy.projectors import Linear
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["vitkd"]


def vitkd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    ratio: float = 0.5,
    imitated: int = 2,
    generation_weight: float | Curve = 3e-6,
    weight: float | Curve = 3e-5,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, the student's first blocks drawn to the teacher's, and the teacher's last made from the student's.

    Args:
        student: what learns.
        teacher: a frozen module.
        ratio: share of the tokens that is hidden.
        imitated: how many of the first pairs of blocks are imitated.
        generation_weight: of the last pair: a number, or a function of progress.
        weight: of each imitated pair: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; the tokens that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found, or are fewer than two pairs.
    Family: feature.
    Source: Yang et al. 2022, arXiv:2209.02432, with :func:`understudy.losses.squared_sum` and :class:`understudy.losses.ViTKD`.
    Differs: the token of the class takes part in the first blocks.
    """
    found = chosen(student, teacher, layers, example, options, kind="tokens")
    if len(found) < 2:
        raise InputError(
            f"vitkd: {len(found)} pair of layers; give layers= with two or more, of which the last is generated."
        )
    *first, last = found
    terms = [Term(squared_sum, *at(pair), weight=weight, project=Linear()) for pair in first[:imitated]]
    terms.append(Term(ViTKD(ratio=ratio), *at(last), weight=generation_weight))
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
