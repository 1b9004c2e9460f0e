"""Contrast with thousands of other samples."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import CRD
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["crd"]


def crd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    samples: int | None = None,
    weight: float | Curve = 0.8,
    negatives: int = 16384,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
    seed: int = 0,
    index: str = "batch.index",
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and features that tell a sample's of the other model from those of thousands of other samples.

    The banks of :class:`understudy.losses.CRD` hold two vectors for each training sample, and are saved with the run.

    Args:
        student: what learns.
        teacher: a frozen module.
        samples: how many the training set has. Needed.
        weight: of the contrast: a number, or a function of progress such as ``linear(1, 0)``.
        negatives: of each step; at most all other samples.
        features: of the vectors that are compared.
        temperature: of the contrast, above 0.
        momentum: share of the old in a bank's entry, in [0, 1).
        seed: of the banks' first values and of the negatives.
        index: address of the samples' numbers, which the engine adds to every batch.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``, or no ``samples``; and for numbers out of range.
    Family: contrastive.
    Source: Tian et al. 2020, arXiv:1910.10699; numbers as in its code.
    Differs: as :class:`~understudy.losses.CRD` does: a step's samples share its negatives.
    """
    if samples is None:
        raise InputError("crd: give samples=, how many the training set has: the banks hold two vectors for each.")
    bank = CRD(
        samples=samples,
        negatives=negatives,
        features=features,
        temperature=temperature,
        momentum=momentum,
        seed=seed,
    )
    chosen = before_the_head(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(bank, weight)],
        also=[index],
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
