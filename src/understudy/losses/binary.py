"""Losses of many yes-or-no answers at once. Shapes: N samples (or any leading axes), L labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError
from understudy.losses.arithmetic import counted_by, exact, same_shape

__all__ = ["binary_cross_entropy", "binary_kl"]


def answered(label: Tensor) -> Tensor:
    """Which answers are there: 0 to 1; a negative number or NaN is none."""
    return label >= 0


@counted_by("label", answered)
@exact
def binary_cross_entropy(student: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy of each label's yes or no by itself.

    .. math:: -y \log \sigma(s) - (1 - y) \log (1 - \sigma(s))

    Args:
        student: logits ``[*N, L]``, any real scale.
        label: ``[*N, L]``, 1 for yes and 0 for no (or between); a negative number or NaN where the answer is not known.

    Returns: one value per label ``[*N, L]``, in nats, >= 0; 0 where the answer is not known, which a
        :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes differ; InputError if a label is above 1 (checked on the CPU only, where it costs
        no synchronisation).
    Scale: free of the batch's size and of the number of labels.
    Family: response.
    Source: the usual one, as in ``torch.nn.functional.binary_cross_entropy_with_logits``.
    Differs: unknown answers are left out, and nothing is averaged.
    See also: binary_kl, cross_entropy.

    >>> binary_cross_entropy(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, -1.0]]))
    tensor([[0.6931, 0.6931, 0.0000]])
    """
    same_shape(
        "binary_cross_entropy", student, label, "Give one answer for each of the student's outputs.", other="label"
    )
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_answers(label)
    known = answered(label)
    # Both are taken away before the maths, not only the value after it: what is infinite there would leave a NaN gradient.
    value = F.binary_cross_entropy_with_logits(
        student.masked_fill(~known, 0), label.to(student.dtype).masked_fill(~known, 0), reduction="none"
    )
    return value.masked_fill(~known, 0)


def _check_answers(label: Tensor) -> None:
    wrong = label > 1
    if wrong.any():
        at = [int(i) for i in wrong.nonzero()[0]]
        raise InputError(
            f"binary_cross_entropy: label {label[tuple(at)].item()} at {at} is not an answer; allowed: 1 for yes, 0 for no, "
            "between, or a negative number or NaN for not known. For class indices use cross_entropy."
        )


@exact
def binary_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""KL divergence from the teacher's softened yes or no to the student's, for each label by itself.

    .. math:: T^2 \left( p \log \frac{p}{q} + (1 - p) \log \frac{1 - p}{1 - q} \right), \quad
              p = \sigma(t / T),\ q = \sigma(s / T)

    Args:
        student: logits ``[*N, L]``, any real scale.
        teacher: logits ``[*N, L]`` for the same labels in the same order; ``-inf`` or ``inf`` where it is certain.
        temperature: T > 0. 1 compares the raw answers.

    Returns: one value per label ``[*N, L]``, in nats, >= 0, and 0 where both agree.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T², as in :func:`kl`; free of the batch's size and of the number of labels.
    Family: response.
    Source: :func:`kl` over the two outcomes of each label; the binary case of Hinton et al. 2015, arXiv:1503.02531.
    Differs: nothing.
    See also: kl, binary_cross_entropy.

    >>> binary_kl(torch.zeros(1, 1), torch.tensor([[1.0]]))
    tensor([[0.1109]])
    """
    if not 0 < temperature < math.inf:
        raise InputError(
            f"binary_kl: temperature {temperature!r} is not allowed; it must be finite and above 0, and 1 to 8 is usual."
        )
    same_shape("binary_kl", student, teacher, "Both models must score the same labels in the same order.")
    s, t = student / temperature, teacher / temperature
    return (_share(s, t) + _share(-s, -t)) * (temperature * temperature)


def _share(s: Tensor, t: Tensor) -> Tensor:
    """One outcome's summand. Where p is 0 it is 0 by its limit; computed, it would be 0 * inf for a certain teacher."""
    p = torch.sigmoid(t)
    return p * (F.logsigmoid(t) - F.logsigmoid(s)).masked_fill(p == 0, 0)
