"""KDSVD: which channels go together, from one layer to the next."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.losses import KDSVD
from understudy.method import Distillation
from understudy.methods.hinted import Layers, chosen, consecutive, hinted
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["kdsvd"]


def kdsvd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 1.0,
    vectors: int = 1,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and first singular vectors that change from a layer to the next as the teacher's do.

    By :class:`understudy.losses.KDSVD`.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of each pair of layers and the next: a number, or a function of progress.
        vectors: of each layer, 1 or more.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found, or are fewer than two pairs.
    Family: feature.
    Source: Lee et al. 2018 (SSKD-SVD), arXiv:1807.06819; one vector and the weight as in the code of Zhao et al. 2022.
    Differs: gradients of the two terms are added up as they are, where the paper clips that of the vectors to the labels'.
        Where the channels differ the student's are projected.
    """
    terms = consecutive(
        "kdsvd",
        partial(KDSVD, vectors=vectors),
        chosen(student, teacher, layers, example, options, kind="maps"),
        weight,
    )
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
