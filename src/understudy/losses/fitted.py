"""Losses with layers of their own, whose sizes may follow from the first tensors that they see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.maps import as_maps, same_samples

__all__ = ["BatchNorm", "Fitted", "TwoLayers"]


class Fitted(nn.Module):
    """A loss whose layers are made when its sizes are known: as arguments, or from what a method's dry run shows it.

    Subclasses make their layers in :meth:`build`, call :meth:`given` last in their constructor and :meth:`fit` first in
    their forward.
    """

    sizes: tuple[int, ...] | None = None

    def given(self, *sizes: int | None) -> None:
        """Make the layers now if the sizes are there."""
        known = [size for size in sizes if size is not None]
        if known and len(known) < len(sizes):
            raise InputError(f"{type(self).__name__}: give all of its sizes, or none of them to have them fitted.")
        if known:
            self.sizes = tuple(known)
            self.build(*known)

    def build(self, *sizes: int) -> None:
        """Make the layers."""
        raise TypeError(f"{type(self).__name__} does not say what it is made of.")

    def fit(self, sizes: Sequence[int], like: Tensor) -> None:
        """Make the layers in this call's sizes, or check that they have them.

        Raises: InputError in a forward with gradient before the sizes are known: an optimizer that exists already would
            not train what is made there. ShapeError for other sizes than before.
        """
        name = type(self).__name__
        if self.sizes is None:
            if torch.is_grad_enabled():
                raise InputError(f"{name}() has no sizes yet. Give them, or call method.dry_run(batch) first.")
            self.sizes = tuple(sizes)
            self.build(*sizes)
            self.to(device=like.device, dtype=like.dtype)
        elif self.sizes != tuple(sizes):
            raise ShapeError(
                f"{name}: was made for {list(self.sizes)} channels, and the tensors have {list(sizes)}. "
                f"Give {name}() other sizes, or none to have them fitted."
            )


class TwoLayers(Fitted):
    """A loss of two layers of each model, where both of the student's maps take on the teacher's channels."""

    def __init__(
        self,
        *,
        student: int | None = None,
        student_later: int | None = None,
        teacher: int | None = None,
        teacher_later: int | None = None,
    ) -> None:
        super().__init__()
        self.given(student, student_later, teacher, teacher_later)

    def build(self, *sizes: int) -> None:
        """The convolutions."""
        first, later, to_first, to_later = sizes
        self.project = nn.Conv2d(first, to_first, 1) if first != to_first else nn.Identity()
        self.project_later = nn.Conv2d(later, to_later, 1) if later != to_later else nn.Identity()

    def projected(self, student: Tensor, student_later: Tensor, *teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both of the student's maps with the teacher's channels."""
        name, tensors = type(self).__name__, (student, student_later, *teacher)
        as_maps(name, *tensors)
        for other in tensors[1:]:
            same_samples(name, student, other)
        self.fit([x.shape[1] for x in tensors], like=student)
        return self.project(student), self.project_later(student_later)


class BatchNorm(nn.Module):
    """Each channel with mean 0 and variance 1 over this batch, in training and evaluation alike.

    What is only used while training needs no running averages. A single number for a channel gives 0, where torch's own
    raises.
    """

    def __init__(self, channels: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C]`` or ``[N, C, *area]``."""
        if x.numel() <= x.shape[1]:
            x = x - x  # 0, and no gradient
            return x if self.bias is None else x + self.bias.view(1, -1, *[1] * (x.ndim - 2))
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
