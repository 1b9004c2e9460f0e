"""Losses on what happens inside a model. Shapes: N samples, D anything."""

from __future__ import annotations

from torch import Size, Tensor

from understudy.losses.arithmetic import exact, same_shape

__all__ = ["mse"]


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
    Source: Romero et al. 2015 (FitNets), arXiv:1412.6550, equation 3.
    Differs: the paper halves the sum of squares; its published code and every later one take the mean over elements.
    See also: kl.

    >>> mse(torch.zeros(2, 2), torch.tensor([[1., 1.], [0., 2.]]))
    tensor([1., 2.])
    """
    same_shape("mse", student, teacher, _projector(student.shape, teacher.shape))
    square = (student - teacher).square()
    return square if square.ndim < 2 else square.flatten(1).mean(1)


def _projector(student: Size, teacher: Size) -> str:
    """Which projector would make the shapes equal."""
    if len(student) == len(teacher) == 4:
        return f"Add `project=Conv1x1()` to the term ({student[1]} -> {teacher[1]} channels)."
    if student[:-1] == teacher[:-1]:
        return f"Add `project=Linear()` to the term ({student[-1]} -> {teacher[-1]} features)."
    return "No projector of ours fits: choose layers with as many axes, and as many positions."
