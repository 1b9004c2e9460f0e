"""Losses on what happens inside a model. Shapes: N samples, D anything."""

from __future__ import annotations

from torch import Size, Tensor

from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.maps import channels_first, sum_by_sample, unit

__all__ = ["cosine", "masked_l2", "mse", "squared_sum"]


@exact
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference over everything but the sample axis.

    .. math:: \frac{1}{D} \sum_d (s_d - t_d)^2

    Args:
        student: ``[N, *D]``.
        teacher: ``[N, *D]``.

    Returns: one value per sample ``[N]``, in the square of the tensors' unit, >= 0, and 0 where they are equal.
    Raises: ShapeError if the shapes differ (a Term's ``project=`` makes them equal).
    Scale: free of the batch's size and of the number of features.
    Family: feature.
    Source: Romero et al. 2015 (FitNets), arXiv:1412.6550, equation 3.
    Differs: the paper halves the sum of squares; its published code and every later one take the mean over elements.
    See also: kl.

    >>> mse(torch.zeros(2, 2), torch.tensor([[1., 1.], [0., 2.]]))
    tensor([1., 2.])
    """
    same_shape("mse", student, teacher, which_projector(student.shape, teacher.shape))
    square = (student - teacher).square()
    return square if square.ndim < 2 else square.flatten(1).mean(1)


@exact
def squared_sum(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Sum of the squared differences over everything but the sample axis.

    .. math:: \sum_d (s_d - t_d)^2

    Args:
        student: ``[N, *D]``.
        teacher: ``[N, *D]``.

    Returns: one value per sample ``[N]``, in the square of the tensors' unit, >= 0, and 0 where they are equal.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size; it grows with the number of features, as the tiny weights of the papers that use it
        expect.
    Family: feature.
    Source: Yang et al. 2022 (ViTKD), arXiv:2209.02432, equation 1 (mimicking).
    Differs: nothing.
    See also: mse, masked_l2.

    >>> squared_sum(torch.zeros(2, 2), torch.tensor([[1., 1.], [0., 2.]]))
    tensor([2., 4.])
    """
    same_shape("squared_sum", student, teacher, which_projector(student.shape, teacher.shape))
    return sum_by_sample((student - teacher).square())


@exact
def masked_l2(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Sum of the squared differences where student or teacher is active.

    .. math:: \sum_d [s_d > 0 \lor t_d > 0]\, (s_d - t_d)^2

    Args:
        student: ``[N, *D]``, of a layer that may be below 0.
        teacher: ``[N, *D]``, or the same model's deeper layer behind ``stop``.

    Returns: one value per sample ``[N]``, in the square of the tensors' unit, >= 0, and 0 where they are equal or where
        both are below 0.
    Raises: ShapeError if the shapes differ.
    Scale: a sum over features: free of the batch's size, and as large as the layer; hence weights such as 1e-6.
    Family: feature.
    Source: Zhang et al. 2019 (Be Your Own Teacher), arXiv:1905.08094, as in its published code.
    Differs: the code sums over the batch too, so that its weight depends on the batch's size; this one leaves the mean
        over samples to the term.
    See also: ofd, squared_sum.

    >>> masked_l2(torch.tensor([[1., -1., -1.]]), torch.tensor([[0., 2., -5.]]))
    tensor([10.])
    """
    same_shape("masked_l2", student, teacher, which_projector(student.shape, teacher.shape))
    active = (student > 0) | (teacher > 0)
    return sum_by_sample((student - teacher).square() * active)


@exact
def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    r"""One minus the cosine between the features, at each position.

    .. math:: \frac{1}{P} \sum_p \left(1 - \frac{s_p \cdot t_p}{\|s_p\|\, \|t_p\|}\right)

    Args:
        student: vectors ``[N, D]``, tokens ``[N, T, D]`` or maps ``[N, C, H, W]``.
        teacher: of the same shape.

    Returns: one value per sample ``[N]``, from 0 (the same direction everywhere) to 2 (opposite ones); 1/2 where one of
        the two is 0, and 0 where both are.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size, the number of features and their scale.
    Family: feature.
    Source: Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 2.
    Differs: computed as half the squared distance of the unit vectors, which is the same, and exactly 0 for equal ones.
    See also: mse.

    >>> cosine(torch.tensor([[1., 0.]]), torch.tensor([[2., 2.]]))
    tensor([0.2929])
    """
    same_shape("cosine", student, teacher, which_projector(student.shape, teacher.shape))
    s, t = (unit(channels_first("cosine", x), 1) for x in (student, teacher))
    return (s - t).square().sum(1).mean(1) / 2


def which_projector(student: Size, teacher: Size) -> str:
    """Which projector would make the shapes equal."""
    if len(student) == len(teacher) == 4:
        return f"Add `project=Conv1x1()` to the term ({student[1]} -> {teacher[1]} channels)."
    if student[:-1] == teacher[:-1]:
        return f"Add `project=Linear()` to the term ({student[-1]} -> {teacher[-1]} features)."
    return "No projector of ours fits: choose layers with as many axes, and as many positions."
