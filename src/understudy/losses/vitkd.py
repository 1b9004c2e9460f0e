"""Masked generation for vision transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact
from understudy.losses.fitted import Fitted

__all__ = ["ViTKD"]


class ViTKD(Fitted):
    r"""Squared distance at the hidden tokens between the teacher's last features and what is generated from the student's.

    .. math:: \frac{1}{\lambda} \sum_{p: M_p = 1} \| G(\mathrm{mask}(A s, M))_p - t_p \|_2^2

    A share lambda of the tokens, drawn anew for each sample, is replaced by a token that learns; A is a linear layer where
    the features differ, and G two 3x3 convolutions over the image's grid of tokens. All of it learns with the student.

    Args:
        student: features of the student's tokens; fitted by the dry run if not given, as the teacher's.
        teacher: features of the teacher's.
        ratio: lambda, above 0 and at most 1.

    Both are tokens ``[N, T, D]`` of a square image; those in front that are too many for a square (of the class, of
    distillation) are left out, of each model by itself.

    Returns: one value per sample ``[N]``, in the square of the features' unit, >= 0.
    Raises: ShapeError if samples or the image's tokens do not go together; InputError for another ratio.
    Scale: a sum over features, divided by lambda: free of the batch's size and as large as the layer; hence weights such
        as 3e-6.
    Family: feature.
    Source: Yang et al. 2022 (ViTKD), arXiv:2209.02432, equation 4 (generation).
    Differs: nothing.
    See also: MGD, squared_sum (its mimicking part).

    >>> ViTKD(student=3, teacher=8)(torch.zeros(2, 5, 3), torch.zeros(2, 6, 8)).shape
    torch.Size([2])
    """

    def __init__(self, *, student: int | None = None, teacher: int | None = None, ratio: float = 0.5) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise InputError(f"ViTKD: ratio={ratio!r} is not allowed; give a share above 0 and at most 1.")
        self.ratio = ratio
        self.given(student, teacher)

    def build(self, *sizes: int) -> None:
        """The alignment, where one is needed, the token for what is hidden, and the generator."""
        student, teacher = sizes
        self.align = nn.Linear(student, teacher) if student != teacher else nn.Identity()
        self.hidden = nn.Parameter(torch.zeros(teacher))
        first, second = (nn.Conv2d(teacher, teacher, 3, padding=1) for _ in range(2))
        self.generate = nn.Sequential(first, nn.ReLU(), second)

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each sample, under a new mask."""
        s, t = square("ViTKD", student), square("ViTKD", teacher)
        if s.shape[:2] != t.shape[:2]:
            raise ShapeError(
                f"ViTKD: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) do not go together; "
                "allowed: the same samples, and as many tokens of the image."
            )
        self.fit((s.shape[2], t.shape[2]), like=s)
        s = self.align(s)
        hide = self.drawn(s).unsqueeze(2)
        s = torch.where(hide, self.hidden, s)
        side = math.isqrt(s.shape[1])
        made = self.generate(s.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        value: Tensor = ((made - t).square() * hide).flatten(1).sum(1) / self.ratio
        return value

    def drawn(self, tokens: Tensor) -> Tensor:
        """Which tokens are hidden ``[N, T]``: as many of each sample."""
        rank = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1).argsort(1)
        return rank >= int(tokens.shape[1] * (1 - self.ratio))


def square(loss: str, tokens: Tensor) -> Tensor:
    """The tokens of the image: the last that fill a square."""
    if tokens.ndim != 3 or not tokens.shape[1]:
        raise ShapeError(f"{loss}: needs tokens [N, T, D]; one is {list(tokens.shape)}. Choose a transformer's blocks.")
    return tokens[:, -(math.isqrt(tokens.shape[1]) ** 2) :]
