"""How far two predictions of one sample are from each other. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

from torch import Tensor

from understudy.errors import ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.distributions import CLASSES

__all__ = ["consistency"]


@exact
def consistency(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of the probabilities.

    .. math:: \frac{1}{C} \sum_c (q_c - p_c)^2, \quad q = \mathrm{softmax}(s),\ p = \mathrm{softmax}(t)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes, of a model that averages the student's weights, or of another view.

    Returns: one value per row ``[*N]``, from 0, where the distributions agree, to 2 / C.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size; divided by the classes, hence weights such as 100.
    Family: self.
    Source: Tarvainen & Valpola 2017 (Mean Teacher), arXiv:1703.01780, equation 2, as in its code.
    Differs: the paper does not divide by the classes, its code does.
    See also: kl, mse.

    >>> consistency(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]]))
    tensor([0.2500])
    """
    same_shape("consistency", student, teacher, CLASSES)
    if not student.ndim:
        raise ShapeError("consistency: student [] has no class axis; allowed: [*N, C].")
    return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1) / max(student.shape[-1], 1)
