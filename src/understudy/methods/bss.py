"""Soft labels at the teacher's decision boundary, to which samples are moved by its own gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.batch import Batch, Call
from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.lookup import named_tensor
from understudy.losses import kl
from understudy.losses.labels import labelled
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.modes import evaluating
from understudy.progress import Curve, Progress
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["BoundarySamples", "bss", "moved_to_boundary"]

TEACHER = Address.parse("teacher")


def bss(
    student: nn.Module,
    teacher: nn.Module,
    *,
    temperature: float = 3.0,
    weight: float = 1.0,
    label_weight: float = 1.0,
    steps: int = 10,
    stride: float = 0.3,
    bounds: tuple[float, float] | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels, soft ones, and soft ones of samples that support the teacher's decision boundary.

    .. math:: \mathrm{CE}(s, y) + (1 + 3 (1 - f))\, \mathrm{KL}_T(x) + \max(0, 2 (1 - \tfrac43 f))\, \mathrm{KL}_T(x')

    with f the share of the run that is done, and x' the sample moved towards another class until the teacher changes its mind.
    The class is drawn by the teacher's probabilities of the others. A step follows the gradient of the difference of the two
    classes' logits, and is as long as that difference times the stride; samples that the teacher gets wrong are left out.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: a module to logits of the same classes, through which a gradient reaches its input.
        temperature: T > 0; the divergence is not multiplied by T².
        weight: of both soft terms.
        label_weight: of the hard labels.
        steps: at most so many towards the boundary.
        stride: of each.
        bounds: least and largest value of an input, such as (0, 1) for pictures; if not given, moved samples may hold any.
        label: address of the hard labels ``[N]``; -100 is unlabelled, and such a sample is not moved.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for options that are none, or where the inputs are not one tensor of real numbers.
    Family: response.
    Source: Heo et al. 2019, arXiv:1805.05532; numbers as its code has them for CIFAR-10.
    Differs: all samples are moved that the teacher gets right; the code moves the 64 of a batch of 256 on which student and
        teacher differ most, and bounds pictures at 2.5 deviations.
    """
    if steps < 1 or stride <= 0:
        raise InputError(f"bss: steps={steps!r} must be 1 or more, and stride={stride!r} above 0.")
    if isinstance(teacher, str) or not callable(teacher):
        raise InputError(f"bss: teacher={teacher!r} must be a module: samples are moved by its gradient.")
    task = of_classes("bss", task)
    soft, boundary = _falling(4.0, 1.0, weight, temperature), _falling(2.0, -2 / 3, weight, temperature)
    divergence = partial(kl, temperature=temperature)
    return BoundarySamples(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(divergence, "student", "teacher", weight=soft),
        Term(divergence, "student@boundary", "teacher@boundary", weight=boundary, mask="batch.supports"),
        student=student,
        teacher=teacher,
        label=label,
        steps=steps,
        stride=stride,
        bounds=bounds,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


def _falling(start: float, end: float, weight: float, temperature: float) -> float | Curve:
    """A straight line, not below 0, for a loss that is multiplied by T² where the method's is not."""
    if weight == 0:
        return 0.0
    return lambda progress: max(0.0, start + (end - start) * progress.fraction) * weight / temperature**2


class BoundarySamples(Distillation):
    """A distillation whose batches have two fields more: ``boundary``, the inputs moved to the teacher's decision boundary, and
    ``supports``, which of them began where the teacher was right.

    Args:
        *terms: the last reads the two fields; while its weight is 0 nothing is moved.
        label: address of the class indices.
        steps: of the way.
        stride: their length over the difference of logits.
        bounds: of the inputs' values.
        **options: of :class:`~understudy.Distillation`; one model is the ``teacher``.
    """

    def __init__(
        self,
        *terms: Term,
        label: str,
        steps: int,
        stride: float,
        bounds: tuple[float, float] | None,
        call: Call = plain_call,
        **options: Any,
    ) -> None:
        super().__init__(*terms, call=call, **options)
        self.label = Address.parse(label)
        self.way: dict[str, Any] = {"steps": steps, "stride": stride, "bounds": bounds}

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch with its inputs moved to the boundary, and counted."""
        given = Batch.of(batch)
        if "boundary" not in given:
            given = self._supported(given, progress)
        return super().prepare(given, progress)

    def _supported(self, batch: Batch, progress: Progress) -> Batch:
        inputs = batch.get("input")
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError(
                f"bss: moves inputs that are one tensor of real numbers in the field 'input'; the batch has {', '.join(batch)}."
            )
        label = batch.get(str(self.label.module))
        if label is None or self._terms()[-1].weight_at(progress) == 0:
            nothing = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
            return Batch.of(batch, boundary=inputs, supports=nothing)
        moved, supports = moved_to_boundary(self._answer, inputs, label, **self.way)
        return Batch.of(batch, boundary=moved, supports=supports)

    def _answer(self, inputs: Tensor) -> Tensor:
        """The teacher's logits, with a gradient to its input."""
        teacher = self.frozen["teacher"]
        with evaluating(teacher):
            return named_tensor(self.reader.call(teacher, inputs), TEACHER)


def moved_to_boundary(
    model: Any,
    inputs: Tensor,
    label: Tensor,
    *,
    steps: int = 10,
    stride: float = 0.3,
    bounds: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs ``[N, ...]`` moved until a model ``-> [N, C]`` names another class than their label, and which of them are moved: a mask.

    Those stay where they are that have no label, or of which the model names another class from the start. Nobody's
    parameters get a gradient.
    """
    start = inputs.detach()
    with torch.enable_grad():
        logits, _ = _answer(model, start)
        known = labelled(label)
        at = label.long().masked_fill(~known, 0)
        right = known & (logits.argmax(-1) == at)
        goal = _drawn(logits, at)
        moved = start
        for _ in range(steps):  # not until all have changed: ranks of a sharded model make as many forwards
            logits, leaf = _answer(model, moved)
            gap = logits.gather(-1, at.unsqueeze(-1)) - logits.gather(-1, goal.unsqueeze(-1))
            (slope,) = torch.autograd.grad(gap.sum(), leaf)
            still = (right & (logits.argmax(-1) == at)).to(start.dtype)
            shape = (-1, *[1] * (start.ndim - 1))
            length = (still * stride * (gap.detach().squeeze(-1) + 1e-4)).to(start.dtype).reshape(shape)
            norm = slope.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(shape)
            step = moved - length * slope / norm
            step = step if bounds is None else step.clamp(*bounds)
            moved = torch.where(still.bool().reshape(shape), step, moved)
    return moved, right


def _answer(model: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = inputs.detach().requires_grad_()
    logits: Tensor = model(leaf)
    if not logits.requires_grad:
        raise InputError("bss: no gradient flows through the teacher to its input, and samples are moved by that.")
    return logits, leaf


def _drawn(logits: Tensor, label: Tensor) -> Tensor:
    """A class for each sample, by the model's probabilities of all but the label's."""
    others = logits.detach().float().scatter(-1, label.unsqueeze(-1), float("-inf"))
    if logits.shape[-1] < 2:
        return label
    return torch.multinomial(others.softmax(-1), 1).squeeze(-1)
