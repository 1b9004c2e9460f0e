"""Which layers a compression may change, and whether what it has made still runs."""

from __future__ import annotations

import collections
import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from understudy.compress.finish import bare
from understudy.errors import InputError, ShapeError, choices
from understudy.inputs import Inputs, run
from understudy.modes import evaluating

__all__ = ["WEIGHTED", "batches", "few", "kept", "output_shapes", "parameters", "share", "tensors", "weighted", "whole"]

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Kinds of layers that hold nearly all weights, and multiply with them."""


def share(where: str, name: str, value: Any) -> float:
    """A share strictly between none and all. Raises: InputError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InputError(f"{where}: {name}={value!r} is not allowed; give a share between 0 and 1, such as 0.5.")
    return float(value)


def whole(where: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number. Raises: InputError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{where}: {name}={value!r} is not allowed; give a whole number, {least} or above.")
    return value


def parameters(model: nn.Module) -> int:
    """How many numbers the model's parameters hold; one that stands in two places counts once."""
    return sum(p.numel() for p in model.parameters())


def kept(where: str, model: nn.Module, keep: Sequence[str]) -> set[str]:
    """The names of the modules that are left as they are: those named, by name or pattern, and what they hold.

    Raises: InputError for a name that is no module's.
    """
    names = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in [keep] if isinstance(keep, str) else keep:
        hits = fnmatch.filter(names, pattern)
        if not hits:
            raise InputError(f"{where}: keep: the model has no module {pattern!r}. {choices(pattern, names)}")
        found.update(name for hit in hits for name in names if name == hit or name.startswith(f"{hit}."))
    return found


def weighted(where: str, model: nn.Module, keep: Sequence[str]) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name. A weight that stands in two places, as an embedding that is the head too, is left out.

    Raises: InputError where none is left.
    """
    out = kept(where, model, keep)
    places = collections.Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED) and name not in out and all(places[id(p)] < 2 for p in module.parameters())
    }
    if not found:
        kind = type(model).__name__
        raise InputError(
            f"{where}: {kind} has no convolution and no linear layer to be changed"
            + (" but those kept." if out else ".")
        )
    return found


def few(example: Inputs, most: int = 2) -> Inputs:
    """The first samples."""
    return example[:most] if isinstance(example, Tensor) else {name: x[:most] for name, x in example.items()}


def batches(example: Inputs, size: int = 64) -> Iterator[Inputs]:
    """All samples, so many at once."""
    if isinstance(example, Tensor):
        yield from example.split(size)
    else:
        for parts in zip(*(x.split(size) for x in example.values()), strict=True):
            yield dict(zip(example, parts, strict=True))


def output_shapes(where: str, model: nn.Module, example: Inputs) -> list[tuple[int, ...]]:
    """The shapes of all tensors that the model gives.

    Raises: InputError where the example is empty, or the model does not run on it.
    """
    model = bare(model)  # compiling it takes longer than what is asked here
    if not _samples(example):
        raise InputError(f"{where}: the example holds no sample; give at least one, as the model takes it.")
    try:
        with evaluating(model), torch.no_grad():
            given = run(model, few(example))
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise InputError(f"{where}: {type(model).__name__} does not run on the example: {told}") from error
    shapes = [tuple(x.shape) for x in tensors(given)]
    if not shapes:
        raise ShapeError(f"{where}: {type(model).__name__} gives no tensor for the example.")
    return shapes


def tensors(given: Any) -> Iterator[Tensor]:
    """All tensors in what a model gives."""
    return (x for x in pytree.tree_leaves(given) if isinstance(x, Tensor))


def _samples(example: Inputs) -> int:
    held = [example] if isinstance(example, Tensor) else list(example.values())
    return min((len(x) if x.ndim else 0 for x in held), default=0)
