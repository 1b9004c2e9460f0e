"""Losses on how the samples of a batch lie to one another. Shapes: N samples, D features, C channels, T tokens.

Each compares N x N relations, so student and teacher may differ in their number of features; each but :func:`ickd` is a
loss of the batch as a whole: another batch size is another loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact

__all__ = ["cka", "correlation_congruence", "ickd", "pkt", "rkd_distance", "similarity"]

SMALL = 1e-12
"""A vector shorter than this has no direction."""


def same_samples(loss: str, student: Tensor, teacher: Tensor) -> None:
    """Raise :class:`ShapeError` unless both have features of the same number of samples."""
    if student.ndim < 2 or teacher.ndim < 2 or student.shape[0] != teacher.shape[0]:
        raise ShapeError(
            f"{loss}: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) do not go together. "
            f"{loss} needs features of the same samples: [N, D], tokens [N, T, D] or maps [N, C, H, W]."
        )


def vectors(x: Tensor) -> Tensor:
    """One vector for each sample: the mean over tokens ``[N, T, D]``, or over the positions of maps ``[N, C, *area]``."""
    if x.ndim == 3:
        return x.mean(1)
    return x if x.ndim == 2 else x.flatten(2).mean(2)


def scaled(x: Tensor) -> Tensor:
    """Divided by its largest number, which is taken as a constant: for what does not depend on a common factor.

    So neither the square of a feature of 1e-6 nor the fourth power of one of 1e10 is lost.
    """
    if x.numel() == 0:
        return x
    least, most = x.detach().aminmax()
    largest = torch.maximum(-least, most)
    return x / largest.masked_fill(largest == 0, 1)


def directions(x: Tensor) -> Tensor:
    """Vectors along the last axis, of length 1; what is shorter than :data:`SMALL` becomes 0, with gradient 0.

    A division by ``max(length, eps)`` would give such a vector a gradient of 1 / eps.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length <= SMALL, math.inf)


def mean_over_pairs(x: Tensor) -> Tensor:
    """The sum over N x N divided by N²; 0 for an empty batch."""
    return x.sum() / max(x.shape[0], 1) ** 2


@exact
def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared difference of the samples' similarities, each sample's to all of the batch normalised.

    .. math:: \frac{1}{N^2} \left\| \hat G^t - \hat G^s \right\|_F^2, \quad
              G = X X^\top,\ \hat G_{i} = G_{i} / \| G_{i} \|_2

    Args:
        student: features ``[N, *D]``, flattened to one row a sample.
        teacher: features ``[N, *E]``; other sizes than the student's are welcome.

    Returns: a scalar, without unit, >= 0, and 0 where both see the same similarities.
    Raises: ShapeError if the numbers of samples differ.
    Scale: free of the features' scale; about 1/N, since each row of N numbers has length 1.
    Family: relation.
    Source: Tung and Mori 2019, arXiv:1907.09682, section 2; divided by N² as in the paper.
    Differs: nothing. One library divides each row by its L1 norm, which gives about half of this value.
    See also: cka, rkd_distance.

    >>> similarity(torch.eye(2), torch.ones(2, 1))
    tensor(0.2929)
    """
    same_samples("similarity", student, teacher)
    return mean_over_pairs((_similarities(student) - _similarities(teacher)).square())


def _similarities(x: Tensor) -> Tensor:
    rows = scaled(x.flatten(1))
    return directions(rows @ rows.T)


@exact
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Smooth L1 difference of the pairwise distances, each in units of their mean.

    .. math:: \frac{1}{N^2} \sum_{ij} \ell_1\!\left( \frac{\| s_i - s_j \|}{\mu_s} - \frac{\| t_i - t_j \|}{\mu_t} \right),
              \quad \ell_1(x) = \tfrac{1}{2} x^2 \text{ if } |x| < 1 \text{ else } |x| - \tfrac{1}{2}

    Args:
        student: ``[N, D]``, or tokens ``[N, T, D]`` or maps ``[N, C, *area]``, of which the mean is taken.
        teacher: the same, of any size.

    Returns: a scalar, without unit, >= 0, and 0 where both lie in the same proportions.
    Raises: ShapeError if the numbers of samples differ.
    Scale: free of the features' scale and nearly of the batch's size; 25 is the usual weight, beside 50 of :func:`rkd_angle`.
    Family: relation.
    Source: Park et al. 2019 (RKD), arXiv:1904.05068, section 3.2; averaged as in its code.
    Differs: two samples at one place are at distance 0 without a gradient, and not at 1e-6.
    See also: rkd_angle, similarity.

    >>> rkd_distance(torch.tensor([[0.], [1.], [2.]]), torch.tensor([[0.], [1.], [4.]]))
    tensor(0.0312)
    """
    same_samples("rkd_distance", student, teacher)
    gap = _proportions(vectors(student)) - _proportions(vectors(teacher))
    return mean_over_pairs(F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none"))


def _proportions(x: Tensor) -> Tensor:
    far = distances(scaled(x))
    mean = far.sum() / max(x.shape[0] * (x.shape[0] - 1), 1)
    return far / mean.masked_fill(mean <= SMALL, math.inf)


def distances(x: Tensor) -> Tensor:
    """Pairwise distances ``[N, N]``; 0 with gradient 0 for points that are equal to seven digits.

    In float64, where ``|a|² + |b|² - 2ab`` keeps what float32 has of the difference; one GEMM is faster than N² D
    differences by far.
    """
    if x.device.type == "mps":  # has no float64
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    centred = x.double() - x.double().mean(0)
    gram = centred @ centred.T
    lengths = gram.diagonal()
    both = lengths[:, None] + lengths
    square = both - 2 * gram
    equal = square <= 1e-13 * both
    return square.masked_fill(equal, 1).sqrt().masked_fill(equal, 0).to(x.dtype)


@exact
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    r"""KL divergence of the probabilities with which a sample is another's neighbour.

    .. math:: \frac{1}{N^2} \sum_{ij} p_{ij} \log \frac{p_{ij} + \epsilon}{q_{ij} + \epsilon}, \quad
              p_{ij} = \frac{(1 + \cos(t_i, t_j)) / 2}{\sum_k (1 + \cos(t_i, t_k)) / 2},\ q \text{ likewise of } s

    Args:
        student: ``[N, D]``, or tokens ``[N, T, D]`` or maps ``[N, C, *area]``, of which the mean is taken.
        teacher: the same, of any size.

    Returns: a scalar, in nats, 0 where both see the same cosines; it may fall below 0 by :math:`\epsilon` = 1e-7.
    Raises: ShapeError if the numbers of samples differ.
    Scale: free of the features' scale; a mean over N² of summands of about 1/N, hence the usual weight of 30000.
    Family: relation.
    Source: Passalis and Tefas 2018, arXiv:1803.10837, section 3; the mean and epsilon as in its code.
    Differs: the paper sums where its code averages.
    See also: similarity, correlation_congruence.

    >>> pkt(torch.eye(2), torch.ones(2, 1))
    tensor(0.0294)
    """
    same_samples("pkt", student, teacher)
    epsilon = 1e-7
    q, p = _neighbours(student), _neighbours(teacher)
    return mean_over_pairs(p * ((p + epsilon) / (q + epsilon)).log())


def _neighbours(x: Tensor) -> Tensor:
    unit = directions(scaled(vectors(x)))
    likeness = (unit @ unit.T + 1).clamp(min=0) / 2
    return likeness / likeness.sum(1, keepdim=True)


@exact
def correlation_congruence(student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""Squared difference of the samples' correlations under a Gaussian kernel.

    .. math:: \frac{1}{N^2} \left\| C^t - C^s \right\|_F^2, \quad
              C_{ij} = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} \left( \hat x_i \cdot \hat x_j \right)^p

    Args:
        student: ``[N, D]``, or tokens ``[N, T, D]`` or maps ``[N, C, *area]``, of which the mean is taken.
        teacher: the same, of any size.
        gamma: of the kernel :math:`e^{-\gamma \|\hat x_i - \hat x_j\|^2}`, above 0.
        order: P >= 1, at which its Taylor series ends.

    Returns: a scalar, without unit, >= 0, and 0 where both see the same correlations.
    Raises: ShapeError if the numbers of samples differ; InputError if gamma or order is out of range.
    Scale: free of the features' scale and nearly of the batch's size; at most 1.
    Family: relation.
    Source: Peng et al. 2019, arXiv:1904.01802, section 3.
    Differs: from a much copied form (:math:`\mathrm{mean}_i |s_i - t_i| \cdot |s_{i+1} - t_{i+1}|`) that depends on the
        batch's order and compares no correlations; a library that keeps to the paper gives the same numbers as this.
    See also: similarity, pkt.

    >>> correlation_congruence(torch.eye(2), torch.ones(2, 1))
    tensor(0.1266)
    """
    same_samples("correlation_congruence", student, teacher)
    if not 0 < gamma < math.inf or order < 1:
        raise InputError(
            f"correlation_congruence: gamma {gamma!r} and order {order!r}: gamma must be finite and above 0, order 1 or more."
        )
    return mean_over_pairs((_kernel(teacher, gamma, order) - _kernel(student, gamma, order)).square())


def _kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    unit = directions(scaled(vectors(x)))
    cosine = unit @ unit.T
    # By Horner's rule, from the last power inwards.
    series = torch.ones_like(cosine)
    for p in range(order, 0, -1):
        series = 1 + series * cosine * (2 * gamma / p)
    return math.exp(-2 * gamma) * series


@exact
def cka(student: Tensor, teacher: Tensor) -> Tensor:
    r"""One minus the centred kernel alignment of the two representations, with linear kernels.

    .. math:: 1 - \frac{\langle K^s, K^t \rangle_F}{\|K^s\|_F\, \|K^t\|_F}, \quad
              K = \bar X \bar X^\top,\ \bar X = X - \mathrm{mean}_i\, x_i

    Args:
        student: features ``[N, *D]``, flattened to one row a sample.
        teacher: features ``[N, *E]``; other sizes than the student's are welcome.

    Returns: a scalar in [0, 1], without unit, 0 where one is the other turned, mirrored and scaled; a half where one of
        them, but not the other, is the same for all samples.
    Raises: ShapeError if the numbers of samples differ.
    Scale: free of the features' scale. Small batches look alike: two samples always give 0.
    Family: relation.
    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3; as a loss, Zhou et al. 2024, arXiv:2401.11824.
    Differs: computed as half the squared distance of the two kernels at length 1, which is never below 0 by rounding.
    See also: similarity.

    >>> cka(torch.eye(3), torch.tensor([[0.], [1.], [2.]]))
    tensor(0.2929)
    """
    same_samples("cka", student, teacher)
    return (_centred_kernel(student) - _centred_kernel(teacher)).square().sum() / 2


def _centred_kernel(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    if not rows.shape[0]:
        return rows.sum()[None]
    centred = scaled(rows - rows.mean(0))
    return directions((centred @ centred.T).flatten())


@exact
def ickd(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared difference of the channels' similarities within each sample.

    .. math:: \frac{1}{C} \left\| \hat G^s - \hat G^t \right\|_F^2, \quad
              G = F F^\top,\ F \in \mathbb{R}^{C \times HW},\ \hat G_{c} = G_{c} / \| G_{c} \|_2

    Args:
        student: maps ``[N, C, *area]``.
        teacher: maps ``[N, C, *area]`` with as many channels; the areas may differ.

    Returns: one value per sample ``[N]``, without unit, >= 0, and 0 where the channels are alike in the same way.
    Raises: ShapeError if samples or channels differ (a Term's ``project=`` makes the channels equal).
    Scale: free of the features' scale, of the number of channels and of the batch's size; at most 4.
    Family: relation.
    Source: Liu et al. 2021 (ICKD), arXiv:2202.03680, section 3; divided by C as in its code, weight 2.5.
    Differs: a library's copy divides by N once more, and so depends on the batch's size.
    See also: similarity.

    >>> ickd(torch.eye(2)[None], torch.ones(1, 2, 1))
    tensor([0.5858])
    """
    if student.ndim < 3 or teacher.ndim < 3 or student.shape[:2] != teacher.shape[:2]:
        raise ShapeError(
            f"ickd: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) do not go together. "
            "ickd needs maps [N, C, *area] of the same samples with as many channels. Add `project=Conv1x1()` to the term."
        )
    return (_channels(student) - _channels(teacher)).square().sum((1, 2)) / max(student.shape[1], 1)


def _channels(x: Tensor) -> Tensor:
    rows = x.flatten(2)
    if rows.numel():
        largest = rows.detach().abs().amax((1, 2), keepdim=True)
        rows = rows / largest.masked_fill(largest == 0, 1)
    return directions(rows @ rows.mT)
