"""Losses that what is generated has to lower: by a generator, or by an image that is itself what learns.

Where it says ``student``, it is the generated sample that learns, through a frozen teacher that reads it.
Shapes: N samples, C classes or channels, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.distributions import cross
from understudy.losses.maps import as_maps

__all__ = ["activation", "batch_norm_statistics", "information_entropy", "l1", "one_hot", "total_variation"]


@exact
def one_hot(student: Tensor) -> Tensor:
    r"""Cross-entropy against the class that is ranked first: low where a generated sample is clearly of some class.

    .. math:: -\log \max_c p_c, \quad p = \mathrm{softmax}(s)

    Args:
        student: the teacher's logits ``[*N, C]`` of generated samples, any real scale.

    Returns: one value per row ``[*N]``, in nats, from 0 to log C.
    Raises: nothing.
    Scale: free of the batch's size.
    Family: data-free.
    Source: Chen et al. 2019 (DAFL), arXiv:1904.01186, equation 4.
    Differs: nothing.
    See also: information_entropy, activation.

    >>> one_hot(torch.tensor([[0.0, 1.0]]))
    tensor([0.3133])
    """
    if not student.shape[-1]:
        return student.sum(-1)
    return -student.log_softmax(-1).amax(-1)


@exact
def information_entropy(student: Tensor) -> Tensor:
    r"""Negative entropy of the mean prediction: low where all classes are generated equally often.

    .. math:: \sum_c \bar p_c \log_{10} \bar p_c, \quad \bar p = \frac1N \sum_n \mathrm{softmax}(s_n)

    Args:
        student: the teacher's logits ``[*N, C]`` of generated samples, any real scale; all leading axes are samples.

    Returns: a scalar for the batch, in decimal digits, from -log10 C where all classes are as frequent to 0.
    Raises: nothing.
    Scale: a batch of few samples cannot hold all classes.
    Family: data-free.
    Source: Chen et al. 2019 (DAFL), arXiv:1904.01186, equation 6.
    Differs: the logarithm is to base 10 as in the published code, for which its weight of 5 is meant; the paper's is natural.
    See also: one_hot, activation.

    >>> information_entropy(torch.zeros(1, 10))
    tensor(-1.0000)
    """
    rows = student.reshape(-1, student.shape[-1])
    if not rows.numel():
        return rows.sum()
    # Of logarithms: a mean probability that underflows to 0 has no finite gradient.
    mean = rows.log_softmax(-1).logsumexp(0) - math.log(len(rows))
    return -cross(mean, mean) / math.log(10)


@exact
def activation(student: Tensor) -> Tensor:
    r"""Negative mean size of the teacher's features: low where a generated sample excites it as real ones do.

    .. math:: -\frac{1}{D} \sum_d |f_d|

    Args:
        student: the teacher's features ``[N, *D]`` of generated samples.

    Returns: one value per sample ``[N]``, in the features' unit, <= 0.
    Raises: nothing.
    Scale: grows with the features; free of the batch's size.
    Family: data-free.
    Source: Chen et al. 2019 (DAFL), arXiv:1904.01186, equation 5.
    Differs: a mean over features, as in the published code; the paper adds them up.
    See also: one_hot, information_entropy.

    >>> activation(torch.tensor([[1.0, -3.0]]))
    tensor([-2.])
    """
    return -_mean_size(student)


@exact
def l1(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean absolute difference.

    .. math:: \frac{1}{D} \sum_d |s_d - t_d|

    Args:
        student: anything with samples first, ``[N, *D]``; images, for a generator.
        teacher: the same shape.

    Returns: one value per sample ``[N]``, in the inputs' unit, >= 0, and 0 where they are equal.
    Raises: ShapeError if the shapes differ.
    Scale: a mean over features; free of the batch's size.
    Family: feature.
    Source: Li et al. 2020 (GAN Compression), arXiv:2003.08936, equation 1.
    Differs: nothing.
    See also: mse.

    >>> l1(torch.zeros(1, 2), torch.tensor([[1.0, -3.0]]))
    tensor([2.])
    """
    same_shape("l1", student, teacher, "Add a projector.")
    return _mean_size(student - teacher)


def _mean_size(x: Tensor) -> Tensor:
    features = math.prod(x.shape[1:])
    return x.reshape(len(x), features).abs().sum(1) / max(features, 1)


@exact
def total_variation(student: Tensor, *, power: int = 1) -> Tensor:
    r"""How much a picture's neighbouring pixels differ, along rows, columns and both diagonals.

    .. math:: \sum_{\delta} \mathrm{mean}\, |x_{p + \delta} - x_p| \quad\text{or}\quad \sum_\delta \|x_{p + \delta} - x_p\|_2

    Args:
        student: pictures ``[N, C, H, W]``.
        power: 1 for the mean absolute difference, 2 for the Euclidean norm of all differences of a picture.

    Returns: one value per picture ``[N]``, in the pixels' unit, >= 0, and 0 where a picture is of one colour.
    Raises: ShapeError if they are no pictures; InputError for another power.
    Scale: with power 1 a mean over pixels, with 2 it grows with the root of their number; free of the batch's size.
    Family: data-free.
    Source: Yin et al. 2020 (DeepInversion), arXiv:1912.08795, equation 2, and its code's image prior, in both forms.
    Differs: with power 2 the published code takes the norm over the whole batch, which is about the root of N times this mean.
    See also: batch_norm_statistics.

    >>> total_variation(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([1.])
    """
    as_maps("total_variation", student)
    if power not in (1, 2):
        raise InputError(f"total_variation: power={power!r} is not allowed; it is 1 or 2.")
    x = student
    steps = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    flat = [d.reshape(len(x), math.prod(d.shape[1:])) for d in steps]
    if power == 2:
        return sum((torch.linalg.vector_norm(d, dim=1) for d in flat if d.shape[1]), x.flatten(1).sum(1) * 0)
    return sum((d.abs().mean(1) for d in flat if d.shape[1]), x.flatten(1).sum(1) * 0)


@exact
def batch_norm_statistics(student: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    r"""How far a batch's mean and variance are from those that a BatchNorm layer keeps of its training data.

    .. math:: \| \mu(x) - \mu \|_2 + \| \sigma^2(x) - \sigma^2 \|_2

    Args:
        student: what goes into the teacher's layer for generated samples, ``[N, C]`` or ``[N, C, *area]``.
        mean: the layer's running mean ``[C]``.
        variance: the layer's running variance ``[C]``.

    Returns: a scalar for the batch, >= 0, and 0 where both agree.
    Raises: ShapeError if the channels differ.
    Scale: grows with the root of C; a batch of few samples has another variance by chance. The batch's variance is over N.
    Family: data-free.
    Source: Yin et al. 2020 (DeepInversion), arXiv:1912.08795, equation 4.
    Differs: nothing; neither norm is squared.
    See also: total_variation.

    >>> batch_norm_statistics(torch.tensor([[0.0], [2.0]]), torch.zeros(1), torch.ones(1))
    tensor(1.)
    """
    if student.ndim < 2 or not student.shape[1:2] == mean.shape == variance.shape:
        raise ShapeError(
            f"batch_norm_statistics: shapes {list(student.shape)} (student), {list(mean.shape)} (mean) and "
            f"{list(variance.shape)} (variance) do not go together; allowed: [N, C, *area], [C] and [C]."
        )
    rows = student.movedim(1, -1).reshape(-1, student.shape[1])
    if not len(rows):
        return rows.sum()
    centre = rows.mean(0)
    spread = (rows - centre).square().mean(0)
    value: Tensor = torch.linalg.vector_norm(centre - mean) + torch.linalg.vector_norm(spread - variance)
    return value
