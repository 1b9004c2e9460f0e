"""Soft labels, each sample weighed by how much is left to learn of it. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.arithmetic import counted_by, exact, same_shape
from understudy.losses.distributions import CLASSES, check_temperature, cross, log_softened
from understudy.losses.labels import check_label, labelled

__all__ = ["wsld"]


@counted_by("label", labelled)
@exact
def wsld(student: Tensor, teacher: Tensor, label: Tensor, *, temperature: float = 2.0) -> Tensor:
    r"""Cross-entropy to soft labels, weighed down where the student is ahead of its teacher on the label.

    .. math:: \left(1 - \exp\left(-\frac{\mathrm{CE}(s, y)}{\mathrm{CE}(t, y)}\right)\right) \cdot
              \left(-T^2 \sum_c p_c \log q_c\right), \quad p = \mathrm{softmax}(t/T),\ q = \mathrm{softmax}(s/T)

    No gradient flows through the weight.

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order, any real scale.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        temperature: T > 0, of the soft labels; the weight is taken at 1.

    Returns: one value per label ``[*N]``, in nats, >= 0. It is not 0 where both agree. It is 0 for an unlabelled sample, which
        a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError for a temperature or a label that is none.
    Scale: times T²; free of the batch's size.
    Family: response.
    Source: Zhou et al. 2021, arXiv:2102.00650, equation 12.
    Differs: from the published code in the outer weight alone, 2.5 there, which is the Term's.
    See also: soft_cross_entropy, kl.

    >>> wsld(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    tensor([2.4692])
    """
    check_temperature("wsld", temperature)
    same_shape("wsld", student, teacher, CLASSES)
    check_label("wsld", student, label)
    known = labelled(label)
    s, t = (x.masked_fill(~known.unsqueeze(-1), 0) for x in (student, teacher))
    at = label.long().masked_fill(~known, 0).unsqueeze(-1)
    ahead, behind = (-log_softened(x.detach(), 1.0).gather(-1, at).squeeze(-1) for x in (s, t))
    weight = -torch.expm1(-ahead / (behind + 1e-7))
    soft = cross(log_softened(t, temperature), log_softened(s, temperature)) * (temperature * temperature)
    return (weight * soft).masked_fill(~known, 0)
