"""Inputs moved within a small box to where a model is worst: projected gradient ascent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.address import Address
from understudy.batch import Batch, Call
from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.lookup import named_tensor
from understudy.method import Distillation
from understudy.modes import evaluating
from understudy.progress import Progress
from understudy.term import Term

__all__ = ["Attack", "Attacked", "attacked"]

STUDENT, TEACHER = Address.parse("student"), Address.parse("teacher")


@dataclass(frozen=True)
class Attack:
    """How inputs are moved.

    Attributes:
        eps: how far any number of an input may move.
        steps: of the way.
        stride: how far each step moves a number.
        start: where the way begins: ``uniform`` in the box, at ``normal`` noise of deviation 0.001, or at ``none``.
        bounds: least and largest value of an input, nothing for any.
        who: the method that asks, for its errors.
    """

    eps: float = 8 / 255
    steps: int = 10
    stride: float = 2 / 255
    start: str = "uniform"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    who: str = "attack"

    def __post_init__(self) -> None:
        if not (0 < self.eps < math.inf and 0 < self.stride < math.inf and self.steps >= 1):
            raise InputError(
                f"{self.who}: eps={self.eps!r} and stride={self.stride!r} must be above 0, and steps={self.steps!r} 1 or more."
            )
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise InputError(f"{self.who}: bounds={self.bounds!r} must be a lower value and a higher one, or None.")


def attacked(loss: Callable[[Tensor], Tensor], inputs: Tensor, attack: Attack) -> Tensor:
    """Inputs ``[N, ...]`` moved within the box to where ``loss``, a value for each sample ``[N]``, is high. No parameter gets a gradient."""
    origin = inputs.detach()
    low, high = origin - attack.eps, origin + attack.eps
    if attack.bounds is not None:
        # An input that is out of bounds from the start is not pulled in: it may move by eps at most.
        low = low.maximum(origin.clamp(max=attack.bounds[0]))
        high = high.minimum(origin.clamp(min=attack.bounds[1]))
    moved = origin
    if attack.start == "uniform":
        moved = origin + torch.empty_like(origin).uniform_(-attack.eps, attack.eps)
    elif attack.start == "normal":
        moved = origin + 0.001 * torch.randn_like(origin)
    moved = moved.clamp(low, high)
    with torch.enable_grad():
        for _ in range(attack.steps):
            leaf = moved.detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(leaf).sum(), leaf)
            moved = (moved + attack.stride * slope.sign()).clamp(low, high).detach()
    return moved


class Attacked(Distillation):
    """A distillation whose batches have one field more, ``attacked``: their inputs, moved to where the student is worst.

    Args:
        *terms: the first reads ``student@attacked``; while its weight is 0 nothing is moved.
        attack: how.
        loss: ``loss(student, teacher, label)``, a value for each sample: what the attack raises. The student's logits for the
            moved inputs, the teacher's for the inputs as they are, and the labels or None.
        label: address of the class indices.
        **options: of :class:`~understudy.Distillation`.
    """

    def __init__(
        self,
        *terms: Term,
        attack: Attack,
        loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        label: str,
        call: Call = plain_call,
        **options: Any,
    ) -> None:
        super().__init__(*terms, call=call, **options)
        self.attack, self.raised = attack, loss
        self.label = Address.parse(label)

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch with its inputs moved, and counted."""
        given = Batch.of(batch)
        if "attacked" not in given:
            given = Batch.of(given, attacked=self._moved(given, progress))
        return super().prepare(given, progress)

    def _moved(self, batch: Batch, progress: Progress) -> Tensor:
        inputs = batch.get("input")
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError(
                f"{self.attack.who}: moves inputs that are one tensor of real numbers in the field 'input'; the batch has "
                f"{', '.join(batch)}."
            )
        if self._terms()[0].weight_at(progress) == 0 or not len(inputs):
            return inputs
        label = batch.get(str(self.label.module))
        teacher = self.reader.read(batch, [TEACHER])[TEACHER]

        def worse(moved: Tensor) -> Tensor:
            logits = named_tensor(self.reader.call(self.student, moved), STUDENT)
            if not logits.requires_grad:
                raise InputError(f"{self.attack.who}: no gradient flows through the student to its input.")
            return self.raised(logits, teacher, label)

        # In eval mode: what is moved on the way should leave no trace in running statistics.
        with evaluating(self.student):
            return attacked(worse, inputs, self.attack)
