"""Losses that take the label's class and the others apart. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.arithmetic import counted_by, exact, same_shape
from understudy.losses.distributions import (
    CLASSES,
    check_temperature,
    cross,
    divergence,
    log_share,
    log_softened,
    without_label,
)
from understudy.losses.labels import check_label, labelled

__all__ = ["dkd", "nkd"]


@counted_by("label", labelled)
@exact
def dkd(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    r"""KL divergence split in two: how sure of the label both are, and how they rank the other classes.

    .. math:: T^2 \left( \alpha\, \mathrm{KL}(b^t \| b^s) + \beta\, \mathrm{KL}(\hat p^t \| \hat p^s) \right), \quad
              b = (p_y, 1 - p_y),\ \hat p_c = \frac{p_c}{1 - p_y},\ p = \mathrm{softmax}(\cdot / T)

    With :math:`\alpha = 1` and :math:`\beta = 1 - p^t_y` it is :func:`kl`, which so passes over what a sure teacher knows of
    the other classes.

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order, any real scale.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        temperature: T > 0.
        alpha: weight of the first part, the label's class against all others.
        beta: weight of the second, among the others; 0 where there are two classes. The paper takes 0.5 to 10.

    Returns: one value per label ``[*N]``, in nats, >= 0, and 0 where the softened distributions agree; 0 for an unlabelled
        sample, which a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError for a temperature or a label that is none.
    Scale: times T²; free of the batch's size.
    Family: response.
    Source: Zhao et al. 2022, arXiv:2203.08679, equation 7.
    Differs: the published code takes logarithms of probabilities, and subtracts 1000 from the label's logit; this one stays
        finite where those vanish, or where logits differ by more, and agrees with it elsewhere.
    See also: kl, nkd.

    >>> dkd(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor([1.2484])
    """
    check_temperature("dkd", temperature)
    same_shape("dkd", student, teacher, CLASSES)
    check_label("dkd", student, label)
    known = labelled(label)
    s, t = (x.masked_fill(~known.unsqueeze(-1), 0) / temperature for x in (student, teacher))
    y = label.long().masked_fill(~known, 0)
    target = divergence(log_share(t, y), log_share(s, y))
    others = divergence(*(log_softened(without_label(x, y), 1.0) for x in (t, s)))
    return (alpha * target + beta * others).masked_fill(~known, 0) * (temperature * temperature)


@counted_by("label", labelled)
@exact
def nkd(student: Tensor, teacher: Tensor, label: Tensor, *, temperature: float = 1.0, gamma: float = 1.5) -> Tensor:
    r"""Cross-entropy to the teacher split in two, the other classes' part brought to a sum of 1.

    .. math:: -p^t_y \log p^s_y - \gamma\, T^2 \sum_{c \neq y} \hat p^t_c \log \hat p^s_c, \quad
              p = \mathrm{softmax}(\cdot),\ \hat p = \mathrm{softmax}_{c \neq y}(\cdot / T)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order, any real scale.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        temperature: T > 0, of the other classes only.
        gamma: weight of their part; it is 0 where there are two classes.

    Returns: one value per label ``[*N]``, in nats, >= 0. It is not 0 where both agree. It is 0 for an unlabelled sample, which
        a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError for a temperature or a label that is none.
    Scale: the second part times T²; free of the batch's size.
    Family: response.
    Source: Yang et al. 2023, arXiv:2303.13005, equation 7.
    Differs: nothing.
    See also: dkd, uskd, soft_cross_entropy.

    >>> nkd(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor([1.7706])
    """
    check_temperature("nkd", temperature)
    same_shape("nkd", student, teacher, CLASSES)
    check_label("nkd", student, label)
    known = labelled(label)
    s, t = (x.masked_fill(~known.unsqueeze(-1), 0) for x in (student, teacher))
    y = label.long().masked_fill(~known, 0)
    log_q, log_p = (log_softened(x, 1.0).gather(-1, y.unsqueeze(-1)) for x in (s, t))
    others = cross(*(log_softened(without_label(x, y), temperature) for x in (t, s)))
    return (cross(log_p, log_q) + gamma * (temperature * temperature) * others).masked_fill(~known, 0)
