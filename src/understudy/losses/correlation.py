"""Losses on how predictions relate to each other: within a sample, within a class, over the batch.

Shapes: N samples (leading axes are taken as one where the batch is looked at as a whole), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.distributions import CLASSES, check_temperature

__all__ = ["batch_correlation", "class_correlation", "dist_inter", "dist_intra"]

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


@exact
def dist_inter(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""How far each sample's probabilities are from being a linear function of the teacher's: the inter-class part of DIST.

    .. math:: T^2 \left(1 - \rho(q_{n\cdot}, p_{n\cdot})\right), \quad p = \mathrm{softmax}(t/T),\ q = \mathrm{softmax}(s/T),\quad
              \rho \text{ Pearson's correlation}

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order.
        temperature: T > 0.

    Returns: one value per row ``[*N]``, from 0 where the probabilities correlate fully to 2T². Two rows that are both
        constant correlate.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T²; free of the batch's size and of the number of classes.
    Family: response.
    Source: Huang et al. 2022 (DIST), arXiv:2205.10536, equation 8.
    Differs: the published code adds 1e-8 to the product of the norms, which leaves a value above 0 where both agree and
        shifts those of nearly constant rows (by 2 in a million for logits of size 4); this is the paper's formula but
        for deviations below 1e-6, which count as none.
    See also: dist_intra, kl.

    >>> dist_inter(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]]))
    tensor([1.8671])
    """
    q, p = _softened("dist_inter", student, teacher, temperature)
    return _uncorrelated(q, p) * (temperature * temperature)


@exact
def dist_intra(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""The same over the batch, for each class's probabilities, averaged over classes: the intra-class part of DIST.

    .. math:: \frac{T^2}{C} \sum_c \left(1 - \rho(q_{\cdot c}, p_{\cdot c})\right), \quad p = \mathrm{softmax}(t/T),\
              q = \mathrm{softmax}(s/T),\quad \rho \text{ Pearson's correlation}

    Args:
        student: logits ``[*N, C]``, any real scale; all leading axes are samples.
        teacher: logits ``[*N, C]`` over the same classes in the same order.
        temperature: T > 0.

    Returns: a scalar for the batch, from 0 where the probabilities correlate fully to 2T². A class that is constant for
        both correlates, as all do in a batch of one.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T²; free of the number of classes, but a batch of few samples correlates by chance.
    Family: response.
    Source: Huang et al. 2022 (DIST), arXiv:2205.10536, equation 9.
    Differs: as :func:`dist_inter`; and constant classes count as 0, where the published code counts 1.
    See also: dist_inter, batch_correlation.

    >>> dist_intra(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 5.0]]))
    tensor(2.0000)
    """
    q, p = (x.reshape(-1, x.shape[-1]).t() for x in _softened("dist_intra", student, teacher, temperature))
    return _uncorrelated(q, p).mean() * (temperature * temperature)


def _softened(loss: str, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_temperature(loss, temperature)
    same_shape(loss, student, teacher, CLASSES)
    return (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)


def _uncorrelated(a: Tensor, b: Tensor) -> Tensor:
    """1 - Pearson's correlation over the last axis, as half the squared distance of the standardised vectors.

    Both vectors have 1e-6 as one component more: so constant ones have a direction, and all of it is smooth. As a distance
    it has no rounding left over where both are equal.
    """
    floor = 1e-6
    share = 1 / max(a.shape[-1], 1)
    a, b = (x - x.sum(-1, keepdim=True) * share for x in (a, b))
    norm_a, norm_b = ((x.square().sum(-1, keepdim=True) + floor**2).sqrt() for x in (a, b))
    gap = (a / norm_a - b / norm_b).square().sum(-1)
    return (gap + (floor / norm_a - floor / norm_b).squeeze(-1).square()) / 2


@exact
def class_correlation(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    r"""How differently classes go together in the predictions of a batch: the class level of MLKD.

    .. math:: \sum_T \frac{1}{C} \left\| P_T^\top P_T - Q_T^\top Q_T \right\|_F^2, \quad P_T = \mathrm{softmax}(t/T),\
              Q_T = \mathrm{softmax}(s/T),\ \text{both } N \times C

    Args:
        student: logits ``[*N, C]``, any real scale; all leading axes are samples.
        teacher: logits ``[*N, C]`` over the same classes in the same order.
        temperatures: each T > 0; the values at each are added up.

    Returns: a scalar for the batch, >= 0, and 0 where the softened distributions agree.
    Raises: ShapeError if the shapes differ; InputError if a temperature is not positive and finite.
    Scale: not times T²; it grows with the square of the batch's size and with the number of temperatures.
    Family: response.
    Source: Jin et al. 2023 (MLKD), CVPR, "Multi-Level Logit Distillation", section 3.4.
    Differs: nothing.
    See also: batch_correlation, kl_multi_temperature.

    >>> class_correlation(torch.zeros(1, 2), torch.tensor([[0.0, 100.0]]), temperatures=(1.0,))
    tensor(0.3750)
    """
    return _gram_gap("class_correlation", student, teacher, temperatures, lambda x: x.t() @ x, -1)


@exact
def batch_correlation(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    r"""How differently samples resemble each other in the predictions of a batch: the batch level of MLKD.

    .. math:: \sum_T \frac{1}{N} \left\| P_T P_T^\top - Q_T Q_T^\top \right\|_F^2, \quad P_T = \mathrm{softmax}(t/T),\
              Q_T = \mathrm{softmax}(s/T),\ \text{both } N \times C

    Args:
        student: logits ``[*N, C]``, any real scale; all leading axes are samples.
        teacher: logits ``[*N, C]`` over the same classes in the same order.
        temperatures: each T > 0; the values at each are added up.

    Returns: a scalar for the batch, >= 0, and 0 where the softened distributions agree.
    Raises: ShapeError if the shapes differ; InputError if a temperature is not positive and finite.
    Scale: not times T²; it grows with the batch's size and with the number of temperatures.
    Family: response.
    Source: Jin et al. 2023 (MLKD), CVPR, "Multi-Level Logit Distillation", section 3.3.
    Differs: nothing.
    See also: class_correlation, dist_intra.

    >>> batch_correlation(torch.zeros(1, 2), torch.tensor([[0.0, 100.0]]), temperatures=(1.0,))
    tensor(0.2500)
    """
    return _gram_gap("batch_correlation", student, teacher, temperatures, lambda x: x @ x.t(), 0)


def _gram_gap(
    loss: str,
    student: Tensor,
    teacher: Tensor,
    temperatures: Sequence[float],
    gram: Callable[[Tensor], Tensor],
    averaged: int,
) -> Tensor:
    """Squared distance of two Gram matrices over the length of the axis that is averaged, at each temperature, added up."""
    total = student.new_zeros(())
    for temperature in temperatures:
        q, p = (x.reshape(-1, x.shape[-1]) for x in _softened(loss, student, teacher, temperature))
        total = total + (gram(q) - gram(p)).square().sum() / max(q.shape[averaged], 1)
    return total
