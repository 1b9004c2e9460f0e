"""Losses on a model's last outputs. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import counted_by, exact, same_shape

UNLABELLED = -100
"""The label of a sample that has none; PyTorch's own ``ignore_index``."""

__all__ = ["UNLABELLED", "cross_entropy", "kl"]


def labelled(label: Tensor) -> Tensor:
    """Which labels are there: everything but :data:`UNLABELLED`."""
    return label.long() != UNLABELLED  # a uint8 label of 156 would equal -100


@counted_by("label", labelled)
@exact
def cross_entropy(student: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy of the student's distribution against hard labels.

    .. math:: -\log q_y, \quad q = \mathrm{softmax}(s)

    Args:
        student: logits ``[*N, C]``, any real scale; the class axis is the last.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.

    Returns: one value per label, in nats, >= 0; 0 for an unlabelled sample, which a :class:`~understudy.Term`
        moreover leaves out of the mean.
    Raises: ShapeError if the leading axes differ; InputError if labels are not integers, or one is no class (the
        latter checked on the CPU only, where it costs no synchronisation).
    Scale: free of the batch's size.
    Source: the usual one; Hinton et al. 2015, arXiv:1503.02531, section 2, call it the hard-target term.
    Differs: from ``torch.nn.functional.cross_entropy`` in that the class axis is always last and nothing is averaged.
    See also: kl.

    >>> cross_entropy(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, -100]))
    tensor([0.3133, 0.0000])
    """
    if student.ndim < 1 or student.shape[:-1] != label.shape:
        raise ShapeError(
            f"cross_entropy: student {list(student.shape)} and label {list(label.shape)} do not go together; "
            "allowed: [*N, C] and [*N], with the class axis last."
        )
    if label.is_floating_point():
        raise InputError(
            f"cross_entropy: label is {label.dtype}; allowed: class indices, as integers, with -100 where there is none. For soft labels use kl."
        )
    classes = student.shape[-1]
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_labels(label, classes)
    value = F.cross_entropy(
        student.reshape(-1, classes), label.reshape(-1).long(), ignore_index=UNLABELLED, reduction="none"
    )
    return value.reshape(label.shape)


def _check_labels(label: Tensor, classes: int) -> None:
    wrong = (label >= classes) | ((label < 0) & labelled(label))
    if wrong.any():
        at = [int(i) for i in wrong.nonzero()[0]]
        raise InputError(
            f"cross_entropy: label {label[tuple(at)].item()} at {at} is not a class of a student with {classes} outputs; "
            f"allowed: 0..{classes - 1}, or {UNLABELLED} for no label. Is the student's last layer too small?"
        )


@exact
def kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Forward KL divergence from the teacher's softened distribution to the student's.

    .. math:: T^2 \sum_c p_c \log (p_c / q_c), \quad p = \mathrm{softmax}(t/T),\ q = \mathrm{softmax}(s/T)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order; -inf for a class that cannot be.
        temperature: T > 0. 1 compares the raw distributions; 2 to 8 is usual for images.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the softened distributions agree.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T², so that the gradient does not shrink as T grows; free of the batch's size.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    Differs: no label term; add one as its own Term.
    See also: cross_entropy, mse.

    >>> kl(torch.zeros(1, 2), torch.tensor([[0., 1.]]))
    tensor([0.1109])
    """
    if not 0 < temperature < math.inf:
        raise InputError(
            f"kl: temperature {temperature!r} is not allowed; it must be finite and above 0, and 1 to 8 is usual."
        )
    same_shape("kl", student, teacher, "Both models must score the same classes in the same order.")
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    p = log_p.exp()
    # Where p is 0 the summand is 0 by its limit; computed, it would be 0 * inf for a class that the teacher rules out.
    gap = (log_p - log_q).masked_fill(p == 0, 0.0)
    return (p * gap).sum(-1) * (temperature * temperature)  # a power of floats would overflow with an error
