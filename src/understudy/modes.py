"""A model in another mode for a while, and then as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["as_found", "evaluating"]


@contextmanager
def evaluating(model: nn.Module, modules: Sequence[nn.Module] | None = None) -> Iterator[None]:
    """Eval mode; afterwards every submodule is in the mode in which it was, whatever has been done to it meanwhile.

    ``modules`` are the model's, for who has a list of them: to look for them takes a while.
    """
    modes = [(module, module.training) for module in (model.modules() if modules is None else modules)]
    # Not eval(): a layer that folds its weights together there would not unfold them when its mode is put back.
    _set((module, False) for module, _ in modes)
    try:
        yield
    finally:
        _set(modes)


def _set(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        if module.training != mode:
            # Past nn.Module.__setattr__, which takes microseconds: a big teacher has hundreds of modules, twice in every step.
            # A scripted module holds the mode in C++ and not here.
            if "training" in module.__dict__:
                module.__dict__["training"] = mode
            else:
                module.training = mode


def as_found(model: nn.Module) -> Callable[[], None]:
    """How to give a model's modules back the mode, and its tensors the layout in memory, that they have now."""
    modes = [(module, module.training) for module in model.modules()]
    # What fully_shard made of a parameter has a layout of its own.
    layouts = [(p, p.stride()) for p in model.parameters() if p.ndim == 4 and not hasattr(p, "device_mesh")]

    def put_back() -> None:
        _set(modes)
        for parameter, stride in layouts:
            if parameter.stride() != stride:
                parameter.data = torch.empty_strided(
                    parameter.shape, stride, dtype=parameter.dtype, device=parameter.device
                ).copy_(parameter.data)

    return put_back
