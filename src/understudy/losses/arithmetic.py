"""What every loss shares: the precision it computes in, and which of its elements count."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from understudy.errors import ShapeError

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["counted", "counted_by", "exact", "same_shape"]


def exact(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute in float32, or in the input's dtype if that is wider, whatever autocast says.

    Half precision cannot hold a squared feature or a logit difference of 1e4; the loss is a vanishing share of a
    step's time, so that nothing is gained by computing it there.
    """

    @functools.wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        args = tuple(_wide(a) for a in args)  # type: ignore[assignment]
        kwargs = {k: _wide(v) for k, v in kwargs.items()}  # type: ignore[assignment]
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        # The meta device, on which sizes are tried without memory, knows no autocast and does not even take the question.
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return loss(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return computed


def _wide(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
        return value.float()
    return value


def counted_by(argument: str, present: Callable[[Tensor], Tensor]) -> Callable[[F], F]:
    """Declare that ``present(argument)`` tells which elements a loss counts (a mask), read before the forward.

    Where the argument is missing from a batch altogether, the loss counts nothing there.
    """

    def declare(loss: F) -> F:
        loss.counted_by = (argument, present)  # type: ignore[attr-defined]
        return loss

    return declare


def counted(loss: object) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """What :func:`counted_by` declared, seen through :func:`functools.partial`."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    declared: tuple[str, Callable[[Tensor], Tensor]] | None = getattr(loss, "counted_by", None)
    return declared


def same_shape(loss: str, student: Tensor, teacher: Tensor, fix: str, *, other: str = "teacher") -> None:
    """Raise :class:`ShapeError` unless both shapes are equal; ``other`` is what the second is called."""
    if student.shape == teacher.shape:
        return
    a, b = list(student.shape), list(teacher.shape)
    axes = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    where = f"differ in axis {axes[0]}" if axes else "differ in their number of axes"
    raise ShapeError(f"{loss}: shapes {a} (student) and {b} ({other}) {where}. {loss} needs equal shapes. {fix}")
