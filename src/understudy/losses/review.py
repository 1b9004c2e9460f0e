"""Knowledge review: a student's layers, fused from deep to shallow, against the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact
from understudy.losses.fitted import BatchNorm, Fitted
from understudy.losses.hcl import hcl

__all__ = ["ReviewKD"]


class ReviewKD(Fitted):
    r"""Each level of the teacher against the student's same level, fused with what the deeper ones gave.

    .. math:: \sum_l \mathrm{hcl}(O_l(x_l), t_l), \quad x_l = a_l \odot I_l(s_l) + b_l \odot \mathrm{up}(x_{l+1}),\
              (a_l, b_l) = \sigma(A_l [I_l(s_l), \mathrm{up}(x_{l+1})])

    with I a 1x1 and O a 3x3 convolution, both with BatchNorm, and A a 1x1 convolution to two maps. All learn with the
    student.

    Args:
        width: channels inside, at most; fewer if the student's deepest level has fewer.

    It is called with the student's levels, from shallow to deep, and then as many of the teacher's: maps ``[N, C, H, W]``,
    or vectors ``[N, D]`` as maps of a single position.

    Returns: one value per sample ``[N]``, in the square of the features' unit, >= 0.
    Raises: ShapeError if levels or samples do not go together.
    Scale: a sum over levels of weighted means; free of the batch's size, the channels and the areas.
    Family: feature.
    Source: Chen et al. 2021 (ReviewKD), arXiv:2104.09044, sections 3.3 and 3.4.
    Differs: nothing; as in the published code the student's fused map takes each level's area of the teacher by the
        nearest position.
    See also: hcl.

    >>> with torch.no_grad(): ReviewKD()(torch.ones(2, 3, 1, 1), torch.ones(2, 2, 1, 1))
    tensor([1., 1.])
    """

    def __init__(self, *, width: int = 512) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"ReviewKD: width={width!r} is not allowed; give a whole number, 1 or above.")
        self.width = width

    def build(self, *sizes: int) -> None:
        """A fusion for each level, shallow to deep."""
        levels = len(sizes) // 2
        width = min(self.width, sizes[levels - 1])
        pairs = zip(sizes[:levels], sizes[levels:], strict=True)
        self.fusions = nn.ModuleList(Fusion(a, width, b, deepest=i == levels - 1) for i, (a, b) in enumerate(pairs))

    @exact
    def forward(self, student: Tensor, *others: Tensor) -> Tensor:
        """The loss of each sample."""
        maps = [_as_map(x) for x in (student, *others)]
        if len(maps) % 2 or len({x.shape[0] for x in maps}) > 1:
            raise ShapeError(
                f"ReviewKD: shapes {[list(x.shape) for x in (student, *others)]}; allowed: the same samples, and as many "
                "levels of the student as of the teacher."
            )
        levels = len(maps) // 2
        self.fit([x.shape[1] for x in maps], like=student)
        value, deeper = torch.zeros_like(maps[0][:, 0, 0, 0]), None
        for level in reversed(range(levels)):
            fusion, t = self.fusions[level], maps[levels + level]
            deeper = fusion(maps[level], deeper, t.shape[2:])
            value = value + hcl(fusion.get_submodule("out")(deeper), t)
        return value


class Fusion(nn.Module):
    """One level's attention-based fusion."""

    def __init__(self, inputs: int, width: int, outputs: int, deepest: bool) -> None:
        super().__init__()
        inside, out = nn.Conv2d(inputs, width, 1, bias=False), nn.Conv2d(width, outputs, 3, padding=1, bias=False)
        for layer in (inside, out):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        self.inside, self.out = nn.Sequential(inside, BatchNorm(width)), nn.Sequential(out, BatchNorm(outputs))
        self.attention = None if deepest else nn.Conv2d(2 * width, 2, 1)

    def forward(self, x: Tensor, deeper: Tensor | None, area: torch.Size) -> Tensor:
        """This level with the deeper ones in it, of the given area."""
        x = self.inside(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            here, there = torch.sigmoid(self.attention(torch.cat([x, deeper], 1))).split(1, 1)
            x = x * here + deeper * there
        return x if x.shape[2:] == area else F.interpolate(x, area, mode="nearest")


def _as_map(x: Tensor) -> Tensor:
    if x.ndim not in (2, 4):
        raise ShapeError(f"ReviewKD: needs maps [N, C, H, W] or vectors [N, D]; one is {list(x.shape)}.")
    return x if x.ndim == 4 else x[:, :, None, None]
