"""Which task it is, from what a model puts out and what its labels are."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.errors import InputError
from understudy.losses.response import UNLABELLED
from understudy.tasks.classification import Classification
from understudy.tasks.multilabel import MultiLabel
from understudy.tasks.regression import Regression
from understudy.tasks.task import Task

__all__ = ["infer"]


def infer(output: Tensor, label: Tensor | None) -> Task:
    """The task that an output and its labels can only mean; never a guess.

    =====================  ==========================================  ==============
    output                 label                                       task
    =====================  ==========================================  ==============
    ``[N, C]``, C > 1      ``[N]``, integers                           classification
    ``[N, L]``, L > 1      ``[N, L]``, yes and no: booleans, 0 and 1   multi-label
    ``[N]`` or ``[N, 1]``  of its shape, booleans                      multi-label
    ``[N]`` or ``[N, 1]``  ``[N]`` or ``[N, 1]``, floats but 0 and 1   regression
    ``[N, D]``, D > 1      ``[N, D]``, floats beyond 0 to 1            regression
    =====================  ==========================================  ==============

    Args:
        output: what the student gives for some samples.
        label: the labels of these or of more samples; the more, the surer.

    Raises: InputError if it may be several or none of them, with what is unclear and what to do about it.

    >>> infer(torch.zeros(2, 10), torch.tensor([3, 9])).name
    'classification'
    """
    if label is None:
        raise _unclear(output, label, "There is no label to tell it from.")
    if not output.is_floating_point():
        raise _unclear(output, label, "An output is logits or values, in floating point.")
    outputs, labels = (t.shape[1] if t.ndim == 2 else 1 if t.ndim == 1 else 0 for t in (output, label))
    if outputs > 1 and labels == 1:
        return _one_of_several(output, label)
    if outputs == labels == 1:
        return _single(output, label)
    if outputs == labels and outputs:
        return _several(output, label)
    raise _unclear(output, label, "There is neither one label for a sample nor one for each of its outputs.")


def _one_of_several(output: Tensor, label: Tensor) -> Task:
    if _whole(label) and label.ndim == 1:
        return Classification()
    fix = "label.long()" if label.ndim == 1 else "label.squeeze(1).long()"
    raise _unclear(output, label, f"There is one label for {output.shape[1]} outputs. If it is the class, give {fix}.")


def _single(output: Tensor, label: Tensor) -> Task:
    if label.dtype == torch.bool and label.shape[1:] == output.shape[1:]:
        return MultiLabel()
    if label.is_floating_point() and not _yes_or_no(_known(label)):
        return Regression()
    raise _unclear(
        output,
        label,
        "A single output is a value, or the logit of yes. If it is a value, say task='regression' and give label.float(); if "
        "it is yes or no, say task='multi-label' and give labels of the output's shape.",
    )


def _several(output: Tensor, label: Tensor) -> Task:
    known = _known(label)
    if _yes_or_no(known):
        return _answers(output, label, known)
    if not label.is_floating_point():
        raise _unclear(output, label, "Integers beyond 0 and 1 are no answers. If they are values, give label.float().")
    if known.min() >= 0 and known.max() <= 1:
        raise _unclear(output, label, "Numbers between 0 and 1 may be measured, or be answers that are not sure.")
    return Regression()


def _answers(output: Tensor, label: Tensor, known: Tensor) -> Task:
    if not known.numel():
        raise _unclear(output, label, "No label is known.")
    if label.eq(-1).any() and not known.eq(0).any():
        raise _unclear(output, label, "They are 1 and -1. If -1 is no, give (label > 0).long(); else it is not known.")
    if len(known) == label.numel() and label.sum(1).eq(1).all():
        raise _unclear(output, label, "Each sample has one yes. If these are one-hot classes, give label.argmax(1).")
    return MultiLabel()


def _whole(label: Tensor) -> bool:
    return not label.is_floating_point() and label.dtype != torch.bool


def _known(label: Tensor) -> Tensor:
    """All but NaN and the two usual signs of an answer that is not known."""
    if label.dtype in (torch.bool, torch.uint8):  # where -1 would be 255
        return label.flatten()
    return label[~(label.isnan() | label.eq(-1) | label.eq(UNLABELLED))]


def _yes_or_no(known: Tensor) -> bool:
    return bool(((known == 0) | (known == 1)).all())


def _unclear(output: Tensor, label: Tensor | None, reason: str) -> InputError:
    given = "no label" if label is None else f"label {list(label.shape)} of {label.dtype}"
    return InputError(
        f"task: output {list(output.shape)} of {output.dtype} and {given} do not tell which it is. {reason} "
        "Say task='classification', 'multi-label' or 'regression'."
    )
