"""Eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every submodule is in the mode in which it was, whatever has been done to it meanwhile."""
    modes = [(module, module.training) for module in model.modules()]
    # Not eval(): a layer that folds its weights together there would not unfold them when its mode is put back.
    _set((module, False) for module, _ in modes)
    try:
        yield
    finally:
        _set(modes)


def _set(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        if module.training != mode:  # to set an attribute of a module is slow, and mostly there is nothing to change
            module.training = mode
