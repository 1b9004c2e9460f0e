"""Whether a model is right as often as it says. Shapes: N samples, C classes, L labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses.binary import answered
from understudy.losses.response import labelled

__all__ = ["Bin", "Calibration", "calibration"]


@dataclass(frozen=True)
class Bin:
    """Predictions whose confidence is above ``low`` and up to ``high``: their mean confidence and how many are right."""

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """The points of the calibration diagram, without bins that hold nothing, and the expected calibration error.

    The error is the mean of |accuracy - confidence| over bins, weighted by their counts: 0 is perfect; NaN if nothing is
    labelled.
    """

    bins: tuple[Bin, ...]
    error: float


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """How often a model is right, beside how sure it is, in bins of equal width.

    Args:
        probabilities: of the classes ``[N, C]``, rows that add up to 1: what counts is the class ranked first. Or of yes
            (``[N]``, ``[N, L]``): every answer counts, its confidence is the probability of yes and "right" is yes.
        labels: class indices ``[N]``, -100 for none. Or of the probabilities' shape, 1 for yes and 0 for no, a negative
            number or NaN for not known.
        bins: how many, from 0 to 1.

    Raises: InputError if these are no probabilities; ShapeError if the shapes do not go together.
    Source: Guo et al. 2017, arXiv:1706.04599, equation 3, with 15 bins.

    >>> calibration(torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([0, 0]), bins=1)
    Calibration(bins=(Bin(low=0.0, high=1.0, confidence=0.75, accuracy=0.5, count=2),), error=0.25)
    """
    if bins < 1:
        raise InputError(f"calibration: bins={bins} is not allowed; at least 1, and 15 is usual.")
    confidence, right = _predictions(probabilities.detach().double(), labels)
    # (low, high] as in the paper; a confidence of exactly 0 goes into the first.
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    found = []
    for i, count in zip(*(t.tolist() for t in place.unique(return_counts=True)), strict=True):
        mean_sure, mean_right = (float(t[place == i].mean()) for t in (confidence, right))
        found.append(Bin(i / bins, (i + 1) / bins, mean_sure, mean_right, count))
    gaps = (b.count * abs(b.accuracy - b.confidence) for b in found)
    return Calibration(tuple(found), sum(gaps) / len(place) if len(place) else math.nan)


def _predictions(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How sure each labelled prediction is, and whether it is right: 1 or 0."""
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise InputError(
            "calibration: these are no probabilities: not all are in [0, 1]. Apply softmax or sigmoid first."
        )
    if probabilities.shape == labels.shape:
        known = answered(labels)
        return probabilities[known], (labels[known] > 0.5).double()
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ShapeError(
            f"calibration: probabilities {list(probabilities.shape)} and labels {list(labels.shape)} do not go together; "
            "allowed: [N, C] and [N], or twice the same."
        )
    # As far as a row of bfloat16 adds up.
    if not torch.allclose(probabilities.sum(1), probabilities.new_ones(()), atol=1e-2):
        raise InputError(
            "calibration: these are no probabilities of classes: rows do not add up to 1. Apply softmax first."
        )
    known = labelled(labels)
    confidence, said = probabilities[known].max(1)
    return confidence, (said == labels[known]).double()
