"""A file that was opened: from samples to outputs, whatever its runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.errors import InputError
from understudy.export.model import Inputs, named, samples, shapes

__all__ = ["Loaded"]


@dataclass(frozen=True)
class Loaded:
    """What a target's ``load`` returns; a function from samples to outputs.

    Attributes:
        names: of the inputs; empty if the file does not know them.
        run: from arrays of one batch, by the inputs' names in their order, to the output's array. For who measures its time.
        batch: the most samples in a batch.
    """

    names: tuple[str, ...]
    run: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    batch: int = 256

    def __call__(self, inputs: Inputs | np.ndarray) -> Tensor:
        """The outputs for these samples, in their order.

        Args:
            inputs: a tensor or an array for a file with one input, whatever its name; else a mapping of tensors.

        Raises: InputError if the file does not take them.
        """
        if isinstance(inputs, np.ndarray):
            inputs = torch.from_numpy(inputs)
        if not isinstance(inputs, Tensor | Mapping):
            raise InputError(f"{type(inputs).__name__}: the file takes a tensor, an array, or a mapping of tensors.")
        given = named(inputs)
        names = self.names or tuple(given)
        if not self.names and len(given) > 1:
            raise InputError("the file does not know the names of its inputs. Export a folder, which tells them.")
        if isinstance(inputs, Tensor) and len(names) == 1:
            given = {names[0]: given["input"]}
        if set(given) != set(names):
            raise InputError(f"the file takes {', '.join(names)}, but was given {', '.join(given)}.")
        arrays = {name: np.ascontiguousarray(given[name].numpy()) for name in names}
        parts = []
        for at in range(0, samples(given), self.batch):
            try:
                part = self.run({name: x[at : at + self.batch] for name, x in arrays.items()})
            except Exception as error:
                raise InputError(f"the file does not run on {shapes(given)}: {error}") from error
            parts.append(torch.from_numpy(np.array(part)))  # a copy: a runtime may write its next output there
        return torch.cat(parts)
