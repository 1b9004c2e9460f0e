"""The angles that three samples enclose, without a tensor of all of them. Shapes: N samples, D features, A anchors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from understudy.errors import InputError
from understudy.losses.arithmetic import exact
from understudy.losses.relation import SMALL, distances, same_samples, scaled, vectors

__all__ = ["rkd_angle"]

CHUNK = 1 << 17
"""Cosines at a time: what stays in a processor's cache."""


@exact
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Smooth L1 difference of the cosines of the angles that any three samples enclose.

    .. math:: \frac{1}{N^3} \sum_{ijk} \ell_1\!\left( \cos \angle(s_j, s_i, s_k) - \cos \angle(t_j, t_i, t_k) \right),
              \quad \ell_1(x) = \tfrac{1}{2} x^2 \text{ if } |x| < 1 \text{ else } |x| - \tfrac{1}{2}

    Args:
        student: ``[N, D]``, or tokens ``[N, T, D]`` or maps ``[N, C, *area]``, of which the mean is taken.
        teacher: the same, of any size.

    Returns: a scalar, without unit, >= 0, and 0 where both see the same angles.
    Raises: ShapeError if the numbers of samples differ.
    Scale: free of the features' scale and nearly of the batch's size; 50 is the usual weight.
    Family: relation.
    Source: Park et al. 2019 (RKD), arXiv:1904.05068, section 3.2; averaged as in its code.
    Differs: nothing in value. Time grows with N³, memory with N² only: the cosines come from the distances,
        a few anchors at a time, and the gradient is made beside them.
    See also: rkd_distance.

    >>> rkd_angle(torch.tensor([[0.], [1.], [2.]]), torch.tensor([[0., 0.], [1., 0.], [1., 1.]]))
    tensor(0.0434)
    """
    same_samples("rkd_angle", student, teacher)
    far_s, far_t = (distances(scaled(vectors(x))) for x in (student, teacher))
    value: Tensor = _Angles.apply(far_s, far_t, far_s.requires_grad, far_t.requires_grad)  # type: ignore[no-untyped-call]
    return value


class _Angles(torch.autograd.Function):
    """The loss of two matrices of distances, with the gradient made in the forward."""

    @staticmethod
    def forward(ctx: Any, far_s: Tensor, far_t: Tensor, s_learns: bool, t_learns: bool) -> Tensor:
        value, grad_s, grad_t = _value_and_gradients(far_s, far_t, s_learns, t_learns)
        ctx.save_for_backward(grad_s, grad_t)
        ctx.learns = s_learns, t_learns
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The second derivative would be that of the distances alone, and wrong.
            raise InputError("rkd_angle: has no second derivative; its gradient is made beside its value.")
        grads = (g * grad if learns else None for g, learns in zip(ctx.saved_tensors, ctx.learns, strict=True))
        return (*grads, None, None)


def _value_and_gradients(far_s: Tensor, far_t: Tensor, s_learns: bool, t_learns: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The mean over N³ and its derivative by each distance; an empty tensor for a side that does not learn."""
    n = far_s.shape[0]
    student, teacher = _Side(far_s, s_learns), _Side(far_t, t_learns)
    value = far_s.new_zeros(())
    step = max(1, min(n, CHUNK // max(n * n, 1)))
    # One scratch for all chunks: to get and give back this much memory N times costs more than the arithmetic.
    scratch = far_s.new_empty(4, step, n, n)
    for start in range(0, n, step):
        anchors = slice(start, start + step)
        weights_s, weights_t, gap, slope = scratch[:, : min(step, n - start)]
        student.weights(anchors, weights_s)
        teacher.weights(anchors, weights_t)
        torch.mul(weights_s, student.square, out=gap).addcmul_(weights_t, teacher.square, value=-1)
        outer = zip(student.outer(anchors), teacher.outer(anchors, sign=-1), strict=True)
        gap.baddbmm_(*(torch.cat(pair, axis) for pair, axis in zip(outer, (2, 1), strict=True)), beta=-0.5, alpha=0.5)
        torch.clamp(gap, -1, 1, out=slope)
        # The smooth L1 is slope * (gap - slope / 2) on both of its branches.
        value = value + torch.dot(slope.flatten(), gap.flatten()) - torch.dot(slope.flatten(), slope.flatten()) / 2
        student.take(anchors, weights_s, slope)
        teacher.take(anchors, weights_t, slope, sign=-1)
    over = max(n, 1) ** 3
    return value / over, student.gradient() / over, teacher.gradient() / over


class _Side:
    r"""One model's distances d, and the derivative by them as it comes together.

    From the anchor i, with d_j its distance to j and w_j = 1 / d_j, the law of cosines says
    cos = (d_j² + d_k² - d_jk²) / (2 d_j d_k) = (d_j w_k + w_j d_k - w_j w_k d_jk²) / 2.
    """

    def __init__(self, far: Tensor, learns: bool) -> None:
        apart = far > SMALL  # a sample at the anchor's place lies in no direction: all of its cosines are 0
        self.far = far.masked_fill(~apart, 0)
        self.near = apart / far.clamp(min=SMALL)
        self.square = self.far.square()
        self.learns = learns
        self.by_pair = torch.zeros_like(far) if learns else far.new_zeros(0)
        self.by_anchor = torch.zeros_like(far) if learns else far.new_zeros(0)

    def weights(self, anchors: slice, out: Tensor) -> None:
        """w_j w_k ``[A, N, N]``."""
        near = self.near[anchors]
        torch.mul(near[:, :, None], near[:, None, :], out=out)

    def outer(self, anchors: slice, sign: int = 1) -> tuple[Tensor, Tensor]:
        """Two factors ``[A, N, 2]`` and ``[A, 2, N]`` whose product is d_j w_k + w_j d_k, times the sign."""
        far, near = self.far[anchors], self.near[anchors]
        return torch.stack([far, near], 2) * sign, torch.stack([near, far], 1)

    def take(self, anchors: slice, weights: Tensor, slope: Tensor, sign: int = 1) -> None:
        """Add what these anchors' slopes ``[A, N, N]`` pull at the distances. Overwrites the weights."""
        if not self.learns:
            return
        far, near, square = self.far[anchors], self.near[anchors], self.square[anchors]
        pull = weights.mul_(slope)
        self.by_pair.sub_(pull.sum(0), alpha=sign)
        whole, of_square = torch.bmm(pull, torch.stack([torch.ones_like(square), square], 2)).unbind(2)
        across = pull.mul_(self.square).sum(2)
        self.by_anchor[anchors] = sign * (far * whole - near * (of_square - across))

    def gradient(self) -> Tensor:
        """The derivative by each distance."""
        return self.by_anchor + self.by_pair * self.far if self.learns else self.by_anchor
