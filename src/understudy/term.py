"""A term: a loss applied to addresses, with a weight, an optional projector and an optional mask."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.batch import Batch
from understudy.errors import AddressError, InputError, ShapeError
from understudy.lookup import read_batch
from understudy.losses.arithmetic import counted
from understudy.progress import Curve, Progress, described
from understudy.projectors import Projector

__all__ = ["Term"]


class Term(nn.Module):
    """``weight * mean(loss(*addresses))``.

    The mean is over the elements that count, in the whole step: over all micro-batches and all ranks. So the gradient
    is the same however a batch is split. What counts: the elements under the mask; the labels that are there, for a
    loss of labels; without either, each sample once, whatever it holds.

    Args:
        loss: a function of tensors that gives one value per sample or per element, or a scalar for the batch as a
            whole; or an ``nn.Module`` that does, whose parameters train and whose buffers are saved with the method.
        *addresses: what the loss is called with, in its order. What learns comes first.
        weight: a number, or a function of progress. A term whose weight is 0 costs nothing: its models do not run.
        project: applied to the first tensor; a :class:`~understudy.projectors.Projector` is fitted by the dry run.
        mask: address of the batch with the shape of the loss's values, true where an element counts. What is masked
            is taken away before the loss sees it, so that even an inf there does no harm.
        name: in logs and errors; ``loss(addresses)`` if not given.

    Raises: AddressError if an address does not parse or the mask is not the batch's.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *addresses: str,
        weight: float | Curve = 1.0,
        project: nn.Module | None = None,
        mask: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not addresses:
            raise AddressError(f"term {_name(loss)}: has no addresses; a loss reads at least one, such as 'student'.")
        if not callable(loss) or isinstance(loss, type):
            raise InputError(
                f"term: the loss {loss!r} is not a function of tensors; give understudy.losses.kl, or a module's instance."
            )
        if not callable(weight) and (
            isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight)
        ):
            raise InputError(
                f"term {_name(loss)}: weight {weight!r} is neither a finite number nor a function of progress."
            )
        if project is not None and not isinstance(project, nn.Module):
            raise InputError(f"term {_name(loss)}: project is no module; give an instance such as Conv1x1().")
        self.loss = loss
        self.addresses = tuple(Address.parse(a) for a in addresses)
        self.weight = weight
        self.project = project
        self.mask = None if mask is None else Address.parse(mask)
        self.name = name or f"{_name(loss)}({', '.join(map(str, self.addresses))})"
        if self.mask is not None and not self.mask.of_batch:
            raise AddressError(
                f"term {self.name}: mask {mask!r} must be the batch's, such as 'batch.mask': it is counted before any model runs."
            )
        self._counted = _counted_address(self)

    def weight_at(self, progress: Progress) -> float:
        """The weight now."""
        return self.weight(progress) if callable(self.weight) else self.weight

    def kept(self, batch: Batch) -> Tensor | None:
        """Which elements count, as a mask; None if all do."""
        masks = []
        if self.mask is not None:
            masks.append(read_batch(batch, self.mask) != 0)
        if self._counted is not None:
            address, present = self._counted
            masks.append(present(read_batch(batch, address)))
        if len({m.shape for m in masks}) > 1:
            raise ShapeError(
                f"term {self.name}: mask {list(masks[0].shape)} and label {list(masks[1].shape)} must have one shape."
            )
        return functools.reduce(torch.logical_and, masks) if masks else None

    def count(self, batch: Batch) -> Tensor:
        """How many elements of this batch count: an int64 scalar, on the mask's device."""
        if self.unlabelled(batch):
            return torch.tensor(0)
        kept = self.kept(batch)
        return torch.tensor(batch.rows) if kept is None else kept.sum()

    def unlabelled(self, batch: Batch) -> bool:
        """Whether this is a loss of labels and the batch has none at all."""
        if self._counted is None:
            return False
        field = self._counted[0].module
        return field is not None and batch.fields.get(field, None) is None and "." not in field

    def forward(self, read: Mapping[Address, Tensor], batch: Batch, count: Tensor, total: Tensor) -> Tensor:
        """The term's value without its weight: this batch's sum over the elements that count, divided by ``total``.

        With several ranks it is that times their number, for gradients are averaged over them.
        """
        kept = self.kept(batch)
        inputs = [self._select(a, read[a], kept) for a in self.addresses]
        if (kept is not None or batch.rows == 0) and inputs[0].shape[0] == 0:
            # Exactly 0, with gradient 0; of every input, since ranks must meet for the gradient of a sharded parameter.
            others = (x.reshape(-1)[:0].sum() for x in inputs[1:] if x.is_floating_point())
            return sum(others, inputs[0].sum())
        expected = batch.rows if kept is None else inputs[0].shape[0]
        if self.project is not None:
            shape = inputs[1].shape if len(inputs) > 1 else None
            inputs[0] = (
                self.project(inputs[0], shape) if isinstance(self.project, Projector) else self.project(inputs[0])
            )
        value = self.loss(*inputs)
        if value.ndim == 0:
            return value * count * batch.ranks / total.clamp(min=1)
        if value.shape[0] != expected:
            raise ShapeError(
                f"term {self.name}: {expected} samples gave values {list(value.shape)}; allowed: one row per sample, or a scalar."
            )
        rows = value if value.ndim == 1 else value.flatten(1).mean(1)
        return rows.sum() * batch.ranks / total.clamp(min=1)

    def fit(self, read: Mapping[Address, Tensor]) -> None:
        """Give the projector the sizes of these tensors."""
        if isinstance(self.project, Projector):
            if len(self.addresses) < 2:
                raise InputError(f"term {self.name}: a projector is fitted between two tensors; this term reads one.")
            student, teacher = (read[a] for a in self.addresses[:2])
            self.project.fit(student.shape, teacher.shape, like=student)

    def _select(self, address: Address, value: Tensor, kept: Tensor | None) -> Tensor:
        if kept is None or not address.per_sample:
            return value
        if value.shape[: kept.ndim] != kept.shape:
            raise ShapeError(
                f"term {self.name}: mask {list(kept.shape)} does not lead the shape {list(value.shape)} of '{address}'."
            )
        return value[kept.to(value.device)]

    def extra_repr(self) -> str:
        """The term as it appears in ``print(method)``."""
        weight = described(self.weight) if callable(self.weight) else self.weight
        options = [f"{k}={v!r}" for k, v in _options(self.loss).items()]
        return ", ".join([self.name, f"weight={weight}", *options, *([f"mask={self.mask}"] if self.mask else [])])


def _name(loss: Any) -> str:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return str(getattr(loss, "__name__", type(loss).__name__))


def _options(loss: Any) -> dict[str, Any]:
    return {**_options(loss.func), **loss.keywords} if isinstance(loss, functools.partial) else {}


def _counted_address(term: Term) -> tuple[Address, Callable[[Tensor], Tensor]] | None:
    """Where the argument that :func:`~understudy.losses.arithmetic.counted_by` names is read, if the batch has it."""
    declared = counted(term.loss)
    if declared is None:
        return None
    argument, present = declared
    function = term.loss.forward if isinstance(term.loss, nn.Module) else term.loss
    names = list(inspect.signature(function).parameters)
    at = names.index(argument)
    if at >= len(term.addresses) or not term.addresses[at].of_batch:
        return None
    return term.addresses[at], present
