"""A student whose deepest layers teach its shallower ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from understudy import losses
from understudy.address import Address
from understudy.batch import Call
from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.forward import Forward
from understudy.lookup import named_tensor
from understudy.losses.exits import BYOT, as_map
from understudy.matching import Found, Kind
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.taps import Tapped
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["Exiting", "Exits", "byot", "exits_of", "own_layers"]

KINDS: tuple[Kind, ...] = ("tokens", "maps", "vectors")


class Exiting(Distillation):
    """A :func:`byot`, which offers its exits as other forms of its student."""

    def forms(self) -> dict[str, nn.Module]:
        """Each exit, from shallow to deep, and the mean of all logits, the student's own among them. Parameters are shared."""
        exits = exits_of(self)
        early = {f"exit {i + 1}": OneExit(exits, i) for i in range(len(exits.exits))}
        return {**early, "mean of exits": OneExit(exits, None)}


def byot(
    student: nn.Module,
    *,
    layers: Sequence[str] | None = None,
    alpha: float = 0.1,
    temperature: float = 3.0,
    beta: float = 1e-6,
    weight: float | Curve = 1.0,
    label_weight: float = 0.9,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and exits on the student's shallower layers that learn from its last: :class:`understudy.losses.BYOT`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``. It stays as it is; the exits are the loss's, and
            :func:`exits_of` gives both as a module that answers early.
        layers: of the student, from shallow to deep, such as ``["layer1", "layer2", "layer3"]``; all but the last have an exit.
            The ends of its stages, or its blocks, if not given.
        alpha: share of the soft labels at the exits.
        temperature: T > 0.
        beta: weight of the features.
        weight: of the exits: a number, or a function of progress.
        label_weight: of the student's own hard labels; the paper has 1 - alpha.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        task: classification, which it is if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    A job's table has a row for each exit, and for the mean of all.

    Raises: InputError for another task, for a single layer, or if there are neither ``layers`` nor ``example``.
    Family: self.
    Source: Zhang et al. 2019 (Be Your Own Teacher), arXiv:1905.08094; numbers as in its published code.
    Differs: as the loss does.
    """
    task = of_classes("byot", task)
    chosen = (
        list(layers) if layers is not None else own_layers("byot", student, example, options.get("call", plain_call))
    )
    if len(chosen) < 2:
        raise InputError(
            f"byot: layers={chosen} must be two or more, from shallow to deep; all but the last have an exit."
        )
    exits = losses.BYOT(alpha=alpha, temperature=temperature, beta=beta)
    return Exiting(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(exits, "student", label, *(f"student.{layer}" for layer in chosen), weight=weight),
        student=student,
        **options,
    )


def own_layers(method: str, student: nn.Module, example: Any, call: Call) -> list[str]:
    """What follows ``student.`` in the addresses of its stages, or blocks, from shallow to deep: two or more."""
    if example is None:
        raise InputError(
            f"{method}: to find the student's layers, give example=, a small batch; or name them, from shallow to deep."
        )
    found = Found(Forward(student, example, call=call))
    for kind in KINDS:
        if len(seen := found.of(kind)) > 1:
            return [s.at for s in seen]
    raise InputError(
        f"{method}: the student has no two layers that could be told apart; there is {found.told()}. Name them."
    )


def exits_of(method: Distillation) -> Exits:
    """The student of :func:`byot` with its exits, once it is trained."""
    for term in method.terms:
        if isinstance(term, Term) and isinstance(term.loss, BYOT) and term.loss.sizes is not None:
            return Exits(method.student, term.loss, term.addresses[2:])
    raise InputError("exits_of: give a method that byot has made, after its dry run or its training.")


class Exits(nn.Module):
    """A student that answers early.

    Args:
        student: trained by :func:`byot`.
        loss: whose exits were trained with it.
        layers: the addresses of its layers, from shallow to deep.

    Called as the student is, it gives the logits of each exit, from shallow to deep, and the student's own last.
    """

    def __init__(self, student: nn.Module, loss: BYOT, layers: Sequence[Address]) -> None:
        super().__init__()
        self.student, self.exits, self.layers = student, loss.exits, tuple(layers)

    def forward(self, inputs: Any) -> list[Tensor]:
        """The logits of each."""
        taps = frozenset(layer.tap for layer in self.layers if layer.tap)
        output, caught = Tapped("student", self.student, taps, False)(plain_call, inputs, ())
        *shallower, deepest = (
            as_map(named_tensor(caught[layer.tap or ""][layer.call or 0].output, layer)) for layer in self.layers
        )
        early = [head(x, deepest.shape[2:])[1] for head, x in zip(self.exits, shallower, strict=True)]
        return [*early, named_tensor(output, Address.parse("student"))]


class OneExit(nn.Module):
    """A student that answers by one of its exits, or by the mean of all logits; the layers behind that exit run all the same."""

    def __init__(self, exits: Exits, at: int | None) -> None:
        super().__init__()
        self.exits, self.at = exits, at

    def forward(self, inputs: Any) -> Tensor:
        """The logits."""
        every: list[Tensor] = self.exits(inputs)
        return torch.stack(every).mean(0) if self.at is None else every[self.at]
