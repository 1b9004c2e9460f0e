"""Values that are of the right type, tried: what torch refuses only at the first step, and terms that teach nothing."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from understudy.address import Address
from understudy.errors import InputError, MachineError, raise_all
from understudy.method import Reading
from understudy.progress import Progress
from understudy.recipe.build import build
from understudy.registry import entry
from understudy.term import Term

__all__ = ["check_reading", "check_takes", "check_term", "try_optimizer", "use_threads"]

FEW_THREADS, MOST_OF_EACH = 16, 4
"""As many threads any machine may be asked for, and as many for each of its processors: beyond that they wait for one another."""


def use_threads(threads: int) -> None:
    """From here on; what is timed in a check takes as long in the run. Raises: MachineError for more than do any good."""
    processors = os.cpu_count() or 1
    most = max(FEW_THREADS, MOST_OF_EACH * processors)
    if threads > most:
        raise MachineError(
            f"threads: {threads} on a machine of {processors} processors; allowed here are up to {most}."
        )
    torch.set_num_threads(threads)


def try_optimizer(raw: Mapping[str, Any], model: Any) -> None:
    """Make it for a model, and a step with it on a weight of four numbers. Raises: InputError if torch refuses."""
    optim = build("optimizer", raw)
    trained = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    if trained:
        optim.build(trained, {})
    weight = nn.Parameter(torch.zeros(2, 2, device=trained[0].device if trained else None))
    weight.grad = torch.ones_like(weight)
    try:
        optim.build([weight], {}).step()
    except InputError:
        raise
    except Exception as error:  # each of torch's optimizers has its own way
        raise InputError(f"Optim({optim.name!r}): torch refuses its first step: {error}") from error
    if not bool(weight.isfinite().all()):
        raise InputError(f"Optim({optim.name!r}): its first step gives weights that are not finite. Is lr too high?")


def check_takes(raw: Mapping[str, Any]) -> None:
    """Raise InputError if a term has more or fewer addresses than its loss takes tensors."""
    taken = inspect.signature(entry("loss", raw["loss"]).make).parameters.values()
    tensors = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in tensors)
    most = math.inf if any(p.kind == p.VAR_POSITIONAL for p in taken) else len(tensors)
    if not least <= len(raw["at"]) <= most:
        names = ", ".join(p.name for p in tensors)
        raise InputError(
            f"at: {raw['loss']} is called with {names}: give an address for each; you wrote {len(raw['at'])}."
        )


def check_term(term: Term) -> None:
    """Raise InputError for a term that nothing of the student reaches, or whose weight is no finite number."""
    if not any(_learns(address) for address in term.addresses):
        raise InputError("reads nothing that learns. Its first address is the student's, such as student.layer2.")
    if not _learns(term.addresses[0]):
        raise InputError(f"'{term.addresses[0]}' comes first, but the student's address must: what learns is first.")
    raise_all(InputError, [f"weight: {told}" for told in _wrong_weights(term)])


def _learns(address: Address) -> bool:
    return address.model == "student" and not address.stop


def _wrong_weights(term: Term) -> Sequence[str]:
    for step in (0, 99):
        weight: object = term.weight_at(Progress(step, 100))
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            return [f"is {weight!r} at {step} % of the run; it must be a finite number."]
        if weight < 0:
            return [f"is {weight!r} at {step} % of the run; below 0 the student would be driven away."]
    return []


def check_reading(reading: Reading, weight: float) -> None:
    """Raise InputError for a value that no gradient can come from."""
    if not abs(reading.value * weight) < torch.finfo(torch.float32).max:  # NaN is not below anything
        raise InputError(
            f"its value is {reading.value:.3g} before any training, at a weight of {weight:.3g}: nothing can be learnt from it."
        )
